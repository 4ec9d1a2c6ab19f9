"""What follows when a message has ended: its result, who is told, its chord, its epilogue.

A message ends *attended* when its task had the last word: what follows from it for callbacks, chains and
other result stores came with that outcome. It ends *unattended* when it was lost, revoked, purged, or its
chord failed; if its headers ask for an epilogue, one more message is published for that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from emq_compat.broker.chords import Body, Chord, Chords, Completed, Failed, Part, with_values
from emq_compat.broker.desk import Desk
from emq_compat.broker.entry import Entry
from emq_compat.broker.failing import Failing
from emq_compat.broker.locks import Locks
from emq_compat.broker.queue import MessageQueue
from emq_compat.broker.queues import QueueSet
from emq_compat.broker.records import Moment, queue_of
from emq_compat.broker.results import Results, failure_body
from emq_compat.broker.steps import Steps
from emq_compat.broker.stock import reply_body
from emq_compat.errors import MessageError
from emq_compat.message import (
    FAILURE,
    FINAL_STATES,
    IGNORED,
    REJECTED,
    RETRY,
    REVOKED,
    SUCCESS,
    Headers,
    Publish,
    new_id,
)
from emq_compat.protocol.commands import Reply

__all__ = ["Endings"]

#: Where the classes of these errors are found by whoever reads the result.
_MODULE = "emq_compat.shim.exceptions"
#: Characters of a part's error in the error of its chord.
_TEXT_LIMIT = 4096
#: What a task raised that ended in this state, under Celery's names.
_RAISED = {IGNORED: "Ignore", REJECTED: "Reject", REVOKED: "TaskRevokedError", FAILURE: "Exception"}


class Endings:
    """Ends messages.

    Attributes:
        chords: those that await something.
        locks: the unique keys that messages hold.
        failing: what failed last.
        steps: the steps of workflows that ended last.
        requesters: msgid → the client that asked for the REPLY itself, and the msgid that it knows (that of
            the first try); of messages waiting, held and in flight.
    """

    def __init__(self, desk: Desk, results: Results, queues: QueueSet, entry: Entry) -> None:
        self._desk = desk
        self._journal = desk.journal
        self._results = results
        self._queues = queues
        self._entry = entry
        self.chords = Chords(desk, queues)
        self.locks = Locks(desk, queues)
        self.failing = Failing()
        self.steps = Steps()
        self._to_come = self.steps.roots
        self._followed = self.locks.followed
        self.requesters: dict[str, tuple[bytes, str]] = {}

    # Messages that were handed out, or waited

    def attended(
        self,
        msgid: str,
        headers: Headers,
        state: str,
        body: bytes,
        now: Moment,
        *,
        follow_ups: Sequence[Publish] = (),
        keep: bool = True,
        counts: bool = True,
    ) -> None:
        """Note an outcome of which its worker has done what follows; its follow-ups are published already.

        ``counts`` is False where a kombu consumer has acknowledged the message: what its task comes to in a
        chord is told by a settled message.
        """
        if state == FAILURE:
            self.failing.note(headers, msgid, body, now)
        if headers.chord or follow_ups or headers.task_id in self._to_come:
            self.steps.note(headers, state, now, follow_ups)
        if headers.task_id and state not in (IGNORED, REJECTED):
            self._store(headers, state, body, now, keep=keep)
        if headers.once:
            self.locks.ended(msgid, headers, follow_ups)
        if headers.chord and counts and not _passed_on(headers, state, follow_ups):
            self._count(headers, msgid, state, body, now)
        if self._followed and (state in FINAL_STATES or all(f.headers.settled for f in follow_ups)):
            self._end_followers(msgid, headers, state, body, now)

    def acknowledged(self, msgid: str, headers: Headers) -> None:
        """Note that a consumer is done with a message; of what it came to, others tell, if anybody does.

        A part of a chord is counted by its result, which a Celery worker stores before it acknowledges, or by
        that of its retry.
        """
        if headers.once:
            self.locks.ended(msgid, headers)
        self.requesters.pop(msgid, None)

    def unattended(
        self,
        msgid: str,
        headers: Headers,
        queue: MessageQueue,
        payload: bytes,
        state: str,
        body: bytes,
        now: Moment,
        *,
        keep: bool = True,
    ) -> None:
        """End a message without a word of its task; ``body`` is the reply JSON that tells why.

        ``payload`` is only looked at where the headers ask for an epilogue.
        """
        self.answer(msgid, body)
        if state == FAILURE:
            self.failing.note(headers, msgid, body, now)
        if headers.chord or headers.task_id in self._to_come:
            self.steps.note(headers, state, now)
        if headers.task_id:
            self._store(headers, state, body, now, keep=keep)
        if headers.once:
            self.locks.ended(msgid, headers)
        if headers.epilogue and not headers.concludes:
            self._publish_epilogue(headers, queue, payload, body, now)
        if headers.chord:
            self._count(headers, msgid, state, body, now)
        if self._followed:
            self._end_followers(msgid, headers, state, body, now)

    def _end_followers(self, msgid: str, headers: Headers, state: str, body: bytes, now: Moment) -> None:
        """End what was kept until this message's end as it has ended."""
        ended = headers.task_id or msgid
        if ended not in self._followed:
            return
        for row, home in self.locks.followers(ended):
            theirs = Headers.decode(row.header_text)
            self._journal.finish(row.key, row.msgid)
            if state in FINAL_STATES:
                queue = self._queues.by_id[queue_of(home)]
                self.unattended(row.msgid, theirs, queue, row.payload, state, body, now)
            else:
                self.answer(row.msgid, body)
                self.attended(row.msgid, theirs, state, body, now)

    def answer(self, msgid: str, body: bytes) -> None:
        """Send the reply JSON of a message to the client that asked for it, if one did."""
        client, asked = self.requesters.pop(msgid, (None, ""))
        if client is not None:
            self._desk.to_client(client, Reply(msgid=new_id(), body=body, request_msgid=asked), stock=True)

    def _store(self, headers: Headers, state: str, body: bytes, now: Moment, *, keep: bool = True) -> None:
        keep = keep and not headers.no_result
        self._results.put(headers.task_id, state, body, now, keep=keep, keep_s=headers.keep_s)

    def _publish_epilogue(
        self, headers: Headers, queue: MessageQueue, payload: bytes, body: bytes, now: Moment
    ) -> None:
        text = _epilogue_payload(payload, body)
        if text is None:
            named = f"{headers.task or '-'}[{headers.task_id}]"
            self._desk.note("warning", f"no epilogue for {named}: its payload is no run")
            return
        head = Headers(task=headers.task, priority=headers.priority, retries=headers.retries, concludes=True)
        self._entry.add(queue, new_id(), head, head.encode(), text, now)

    # Messages that no worker has seen

    def settle(self, msgid: str, headers: Headers, payload: bytes, now: Moment) -> None:
        """Take a message that is an outcome itself, as if a worker had replied so.

        A task id that has a final result already is left as it is, its chord included: its task has ended.
        One that says ``redelivered`` takes the place of any end but a SUCCESS: the task was run again.
        """
        body = reply_body(payload)
        self._journal.remember(msgid)
        self.answer(msgid, body)
        task_id, state = headers.task_id, headers.settled
        if task_id:
            told = self._results.get((task_id,)).get(task_id)
            if told is not None and told.state in FINAL_STATES and not _replaces(headers, told.state):
                return
            chord = self.chords.by_task.get(task_id)
            if chord is not None and state in FINAL_STATES:
                held = self.chords.end_body(chord)
                if held.headers.once:
                    self.locks.ended(held.msgid, held.headers)
                self._journal.finish(held.key, held.msgid)
                headers = replace(headers, chord=headers.chord or held.headers.chord)
        if state in FINAL_STATES or state in (IGNORED, REJECTED):
            self.attended(msgid, headers, state, body, now)
        elif task_id:
            self._store(headers, state, body, now)

    def hold(
        self,
        queue: MessageQueue,
        msgid: str,
        headers: Headers,
        header_text: str,
        payload: bytes,
        now: Moment,
    ) -> None:
        """Take in a message that awaits a chord."""
        settled = self.chords.hold(queue.id, msgid, headers, header_text, payload, now)
        if settled is not None:
            self._go_on([settled], now)

    def end_held(self, chord: Chord, why: str, now: Moment) -> None:
        """End a held body that was revoked or purged."""
        body = self.chords.end_body(chord)
        reply = failure_body("TaskRevokedError", why, REVOKED, module=_MODULE)
        self._end_body(body, REVOKED, reply, now)
        if body.headers.chord:
            self._count(body.headers, body.msgid, REVOKED, reply, now)

    # Chords

    def _count(self, headers: Headers, msgid: str, state: str, body: bytes, now: Moment) -> None:
        settled = self.chords.count(_part(headers, msgid, state, body), now)
        if settled is not None:
            self._go_on([settled], now)

    def _go_on(self, settled: list[Completed | Failed], now: Moment) -> None:
        """Release and end bodies; a body that ends may be a part itself, and so on: no recursion."""
        while settled:
            what = settled.pop()
            body = what.body
            text = self._release(what, now) if isinstance(what, Completed) else what.text
            if text is None:
                continue
            reply = failure_body("ChordError", text, module=_MODULE)
            self._end_body(body, FAILURE, reply, now)
            if body.headers.chord:
                part = _part(body.headers, body.msgid, FAILURE, reply)
                if (more := self.chords.count(part, now)) is not None:
                    settled.append(more)

    def _release(self, completed: Completed, now: Moment) -> str | None:
        """Let a body run; returns why it can't be."""
        body = completed.body
        message = self._journal.read_message(body.key)
        assert message is not None
        payload = message.payload
        if not body.headers.immutable:
            try:
                payload = with_values(payload, completed.values)
            except MessageError as exc:
                return f"the values can't be given to the chord's body: {exc}"
            limit = self._desk.options.max_message_bytes
            if len(payload) > limit:
                return f"with its values the chord's body has {len(payload)} bytes; the limit is {limit}"
        if body.headers.task_id:
            self.steps.follows(body.headers.task_id, _awaited(body.headers))
        headers = replace(body.headers, awaits="", immutable=False)
        queue = self._queues.by_id[queue_of(body.home)]
        self._desk.counters["published"] += 1
        self._entry.release(body.key, queue, body.msgid, headers, payload, now)
        return None

    def _end_body(self, body: Body, state: str, reply: bytes, now: Moment) -> None:
        """Store what a body came to that never ran; publish its epilogue. Its own chord is the caller's."""
        headers = body.headers
        self.answer(body.msgid, reply)
        if state == FAILURE:
            self.failing.note(headers, body.msgid, reply, now)
        self.steps.note(headers, state, now, chord=_awaited(headers))
        if headers.task_id:
            self._store(headers, state, reply, now)
        if headers.once:
            self.locks.ended(body.msgid, headers)
        if headers.epilogue and (message := self._journal.read_message(body.key)) is not None:
            queue = self._queues.by_id[queue_of(body.home)]
            self._publish_epilogue(headers, queue, message.payload, reply, now)
        self._journal.finish(body.key, body.msgid)
        if self._followed:
            self._end_followers(body.msgid, headers, state, reply, now)


def _awaited(headers: Headers) -> str:
    """Return the id of the chord that a body awaits."""
    return headers.awaits.rpartition(":")[0]


def _replaces(settled: Headers, state: str) -> bool:
    """Tell whether a settled end takes the place of an end with this state."""
    return settled.redelivered and settled.settled in FINAL_STATES and state != SUCCESS


def _passed_on(headers: Headers, state: str, follow_ups: Sequence[Publish]) -> bool:
    """Tell whether a part's place in its chord is taken by a follow-up: a retry, or what replaced it.

    What replaced an ignored task may be a chain, whose last step, the new part, travels inside the first.
    What a task adds to its chord takes nobody's place.
    """
    if state not in (RETRY, IGNORED, REJECTED):
        return False
    mine = headers.part_of
    assert mine is not None
    for message in follow_ups:
        theirs = message.headers.part_of
        added = theirs is not None and theirs[2]
        if state == IGNORED and not message.headers.settled and not added:
            return True
        if theirs is None or theirs[0] != mine[0]:
            continue
        if theirs[1] == mine[1] or (theirs[1][: len(mine[1])] == mine[1] and not added):
            return True
    return False


def _part(headers: Headers, msgid: str, state: str, body: bytes) -> Part:
    """Return what a chord is told of a part that ended so."""
    assert headers.part_of is not None
    chord, place, _ = headers.part_of
    named = headers.task_id or msgid
    if state != SUCCESS:
        return Part(chord, place, None, _blame(named, state, body))
    value = _value(body)
    if value is None:
        return Part(chord, place, None, f"Dependency {named} gave a value that is not JSON")
    return Part(chord, place, value)


_read = json.JSONDecoder().raw_decode
_PREFIX = b'{"value":'


def _value(body: bytes) -> bytes | None:
    """Return the JSON of a reply's value as it stands there; None: it can't be read."""
    try:
        text = body.decode()
        if body.startswith(_PREFIX):
            start = len(_PREFIX)
            while text[start] in " \t\r\n":
                start += 1
            return text[start : _read(text, start)[1]].encode()
        return json.dumps(json.loads(text)["value"], separators=(",", ":")).encode()
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _blame(name: str, state: str, body: bytes) -> str:
    """Return the text of a ChordError: which part failed, and how.

    A part that is a chord's body itself and failed by its own chord passes that text on: it names the task
    that began it, however deep; so does the settled rest of a chain, whose reply names the ``cause``.
    """
    error: dict[str, Any] = {}
    try:
        reply = json.loads(body)
        found, cause = reply.get("error"), reply.get("cause")
        error = found if isinstance(found, dict) else {}
        name = cause if isinstance(cause, str) and cause else name
    except (ValueError, AttributeError, RecursionError):
        pass
    kind, message = error.get("type"), error.get("message")
    message = message if isinstance(message, str) else ""
    if kind == "ChordError" and message.startswith("Dependency "):
        return message
    if not isinstance(kind, str) or not kind:
        kind = _RAISED.get(state, state)
    if len(message) > _TEXT_LIMIT:
        message = message[:_TEXT_LIMIT] + "…"
    return f"Dependency {name} raised {kind}({message!r})"


def _epilogue_payload(payload: bytes, reply: bytes) -> bytes | None:
    """Return ``["epilogue", {the options of run}, {the reply}]``; None: the payload is no ``run``."""
    prefix, suffix = b'["run",', b"]"
    if payload.startswith(prefix + b"{") and payload.endswith(b"}" + suffix):
        options = payload[len(prefix) : -len(suffix)]
    else:
        try:
            document = json.loads(payload)
        except (ValueError, RecursionError):
            return None
        if not (isinstance(document, list) and len(document) == 2 and document[0] == "run"):
            return None
        options = json.dumps(document[1], separators=(",", ":")).encode()
    return b'["epilogue",%s,%s]' % (options, reply)
