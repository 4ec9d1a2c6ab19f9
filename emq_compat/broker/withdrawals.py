"""What is taken back before it ran: tasks that are revoked, queues that are purged.

What is part of a chord, awaits one, or has an epilogue ends in the same turn; a plain message that waits is
found, and dropped, when it would be handed out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Set
from dataclasses import replace

from emq_compat.broker.desk import Desk
from emq_compat.broker.flights import Flights
from emq_compat.broker.gates import FOLLOWS
from emq_compat.broker.queue import MessageQueue
from emq_compat.broker.records import Moment, StoredResult, queue_of
from emq_compat.broker.results import Results, failure_body
from emq_compat.broker.telling import tell_end
from emq_compat.message import FINAL_STATES, RETRY, REVOKED, Headers, new_id
from emq_compat.protocol.commands import Ask

__all__ = ["Withdrawals", "has_tag"]

#: In the journal a tag stands beside the task ids, which are printable.
_TAG = "\x1f"


def has_tag(headers: Headers, tags: Set[str]) -> bool:
    """Tell whether a message has one of these tags."""
    return not tags.isdisjoint(headers.tags.split(";"))


#: States that say of a task that nobody has begun to run it.
_NOT_BEGUN = frozenset({"PENDING", "RECEIVED", RETRY})


def _from_outside(stored: StoredResult) -> bool:
    """Tell whether a state was told by something else than a run that this broker has handed out."""
    if stored.state in _NOT_BEGUN:
        return False
    try:
        return json.loads(stored.body).get("from") == "store_result"  # type: ignore[no-any-return]
    except (ValueError, AttributeError, RecursionError):
        return False


class Withdrawals:
    """Revokes and purges.

    Attributes:
        revoked: task ids that must not run.
        tags: what has one of these tags must not run, either.
    """

    def __init__(self, desk: Desk, results: Results, flights: Flights, now: Moment) -> None:
        self._desk = desk
        self._journal = desk.journal
        self._results = results
        self._flights = flights
        self._entry = flights.entry
        self._endings = flights.endings
        self.revoked: set[str] = set()
        self.tags: set[str] = set()
        self._load(now)

    def _load(self, now: Moment) -> None:
        kept = self._journal.revoked(now.wall)
        self.revoked.clear()
        self.revoked.update(key for key in kept if not key.startswith(_TAG))
        self.tags.clear()
        self.tags.update(key[len(_TAG) :] for key in kept if key.startswith(_TAG))

    def revoke_tagged(
        self, tags: Iterable[str], now: Moment, *, terminate: bool, signal: str
    ) -> dict[str, str]:
        """Revoke what has one of these tags, now or later; returns what became of those handed out, by id.

        What waits ends when it would be handed out.
        """
        wanted = set(tags)
        self.tags.update(wanted)
        for tag in wanted:
            self._journal.revoke(_TAG + tag, now.wall + self._desk.options.revoke_expires_s)
        tagged = [
            flight.headers.task_id
            for flight in self._flights.by_msgid.values()
            if flight.headers.tags and flight.headers.task_id and has_tag(flight.headers, wanted)
        ]
        return {one: self.revoke(one, now, terminate=terminate, signal=signal) for one in tagged}

    def revoke(self, task_id: str, now: Moment, *, terminate: bool, signal: str) -> str:
        """Revoke a task; returns ``finished``, ``terminating`` (its worker is told), ``revoked``, ``noted``.

        Noted: no message of it is known that runs, has consequences or awaits something. A plain one that
        waits ends when it would be handed out; one that comes later, too.
        """
        stored = self._results.get([task_id]).get(task_id)
        if stored is not None and stored.state in FINAL_STATES:
            return "finished"
        self.revoked.add(task_id)
        self._journal.revoke(task_id, now.wall + self._desk.options.revoke_expires_s)
        flight = self._flights.by_msgid.get(self._flights.by_task.get(task_id, ""))
        if flight is not None:
            worker = self._flights.workers.get(flight.worker)
            if worker is not None and worker.present and not (worker.stock or worker.consumer):
                arguments = {"ids": [task_id], "terminate": terminate, "signal": signal}
                ask = Ask(msgid=new_id(), verb="revoke", arguments=arguments)
                self._desk.to_worker(worker.identity, ask)
            return "terminating" if terminate else "revoked"
        body = failure_body("TaskRevokedError", "revoked", REVOKED)
        waiting = self._journal.marked_as(task_id)
        if (chord := self._endings.chords.by_task.get(task_id)) is not None:
            self._endings.end_held(chord, "revoked", now)
            self._desk.counters["revoked"] += 1
        elif not waiting:
            if stored is None or not _from_outside(stored):
                self._results.put(task_id, REVOKED, body, now)
            return "noted"
        for marked in waiting:
            message = marked.message
            headers = Headers.decode(message.header_text)
            if marked.gate is not None and marked.home is not None and marked.gate[0] == FOLLOWS:
                self._endings.locks.withdrawn(marked.gate, marked.home)
                queue = self._flights.queues.by_id[queue_of(marked.home)]
            else:
                queue = self._entry.withdraw(marked, headers)
            self._desk.counters["revoked"] += 1
            self._flights.astray.pop(message.msgid, None)
            self._journal.finish(message.key, message.msgid)
            tell_end(
                self._desk,
                self._flights.workers.values(),
                queue,
                msgid=message.msgid,
                headers=headers,
                payload=message.payload,
                body=body,
            )
            self._endings.unattended(message.msgid, headers, queue, message.payload, REVOKED, body, now)
        return "revoked"

    def forget_old(self, now: Moment) -> None:
        """Forget revokes past their time."""
        self._load(now)

    def purge(self, queue: MessageQueue, now: Moment, *, quietly: bool = False) -> int:
        """Drop all that a queue holds and that is not handed out; returns how many messages.

        Of plain messages nothing is told, as in Celery; what has consequences ends as REVOKED. ``quietly``:
        nothing is told either of messages of which only their worker knows what their end entails (they have
        an epilogue, which would come into this queue), and the others have no epilogue.
        """
        marked = self._journal.marked_in(queue.id)
        self._endings.locks.purge(queue.id)
        dropped = self._journal.purge(queue.id)
        queue.clear()
        self._flights.gates.purged(queue.id)
        self._flights.forget_astray(queue.id)
        chords = self._endings.chords.of_queue(queue.id)
        for chord in chords:
            if chord.body is not None:
                self._endings.end_held(chord, "purged", now)
        body = failure_body("TaskRevokedError", "purged", REVOKED)
        for message in marked:
            headers = Headers.decode(message.header_text)
            if quietly and headers.epilogue:
                if not (headers.chord or headers.once):
                    continue
                headers = replace(headers, epilogue=False)
            self._endings.unattended(message.msgid, headers, queue, message.payload, REVOKED, body, now)
        return dropped + len(chords)
