"""What clients may ask of the broker, beside publishing: a table of verbs (docs/protocol.md lists them).

Every verb takes (client, command, arguments, now) and returns what is answered as ``ok``, or None when the
answer comes later or never. A wrong argument raises MessageError, which is answered by name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emq_compat.broker.commands import Commands
from emq_compat.broker.engine import Engine
from emq_compat.broker.exchange_asks import EXCHANGE_VERBS
from emq_compat.broker.inspections import Inspections
from emq_compat.broker.moves import MOVES
from emq_compat.broker.overview import OVERVIEW
from emq_compat.broker.pauses import PAUSES
from emq_compat.broker.periodic_asks import PERIODIC
from emq_compat.broker.queues import DEFAULT_QUEUE
from emq_compat.broker.records import SEQUENCE_MASK, DeadLetter, Moment, as_publish
from emq_compat.broker.term_asks import TERM_VERBS
from emq_compat.broker.traces import TRACES
from emq_compat.broker.workflows import WORKFLOWS
from emq_compat.errors import BrokerRefused, EmqError, JournalError, MessageError
from emq_compat.message import Headers, Job, new_id
from emq_compat.protocol.answers import error_body
from emq_compat.protocol.commands import Answer, Ask

__all__ = ["UNANSWERED", "Asks"]

Arguments = dict[str, Any]

#: A delayed message with a larger payload is shown without it.
SHOWN_BYTES = 16_384

#: Verbs whose answer nobody awaits: what they come to is pushed, and asked for again if it stays away.
#: A client may use them though it doesn't read.
UNANSWERED = frozenset(["wait", "unwait"])

#: Begins to copy the journal to a file; the function is called, in the loop, with what went wrong or None.
Backup = Callable[[Path, Callable[[EmqError | None], None]], None]


class Asks:
    """Answers clients' ASKs out of the engine.

    Attributes:
        in_turn: (client, msgid) of this turn's whose answer is awaited: they are refused if it is undone.
    """

    def __init__(self, engine: Engine, backup: Backup, now: Moment) -> None:
        self.in_turn: list[tuple[bytes, str]] = []
        self._engine = engine
        self._backup = backup
        self.inspections = Inspections(engine, self._answer)
        self.commands = Commands(engine)
        engine.asker = self.ask
        engine.answered = self._answered

    def ask(self, client: bytes, command: Ask, now: Moment) -> None:
        """Answer one ASK."""
        verb = _VERBS.get(command.verb)
        if command.verb not in UNANSWERED:
            self.in_turn.append((client, command.msgid))
        unread = self._engine.desk.unread
        try:
            if command.verb not in UNANSWERED and unread.full(client):
                raise BrokerRefused(f"{unread.of(client):,} bytes that were sent to this client are unread")
            if verb is None:
                raise MessageError(
                    f"the verb {command.verb!r} is unknown; known: {', '.join(sorted(_VERBS))}"
                )
            ok = verb(self, client, command, dict(command.arguments), now)
        except JournalError:
            raise  # all of this turn is undone
        except EmqError as exc:
            self._answer_error(client, command.msgid, exc)
            return
        if ok is not None:
            body = ok if isinstance(ok, bytes) else json.dumps({"ok": ok}).encode()
            self._answer(client, command.msgid, body)

    def refuse(self, client: bytes, command: Ask, exc: EmqError) -> None:
        """Answer one ASK with an error."""
        self._answer_error(client, command.msgid, exc)

    def _answered(self, worker: bytes, answer: Answer, now: Moment) -> None:
        if not self.commands.answered(answer, now):
            self.inspections.answered(worker, answer, now)

    def _answer_error(self, client: bytes, asked: str, exc: EmqError) -> None:
        self._answer(client, asked, error_body(type(exc).__name__, str(exc)))

    def _answer(self, client: bytes, asked: str, body: bytes) -> None:
        self._engine.desk.unread.add(client, len(body))
        self._engine.desk.to_client(client, Answer(msgid=new_id(), body=body, asked=asked))

    # Results

    def _wait(self, client: bytes, command: Ask, arguments: Arguments, now: Moment) -> None:
        every = arguments.get("every") is True
        failures = arguments.get("failures") is True
        self._engine.results.wait(client, _ids(arguments), now, every=every, failures=failures)

    def _unwait(self, client: bytes, command: Ask, arguments: Arguments, now: Moment) -> bool:
        self._engine.results.unwait(client, _ids(arguments))
        return True

    def _results(self, client: bytes, command: Ask, arguments: Arguments, now: Moment) -> bytes:
        ids = _ids(arguments)
        stored = self._engine.results.get(ids)
        members = []
        for task_id in ids:
            result = stored.get(task_id)
            name = json.dumps(task_id).encode()
            if result is None:
                members.append(name + b":null")
            else:
                state = json.dumps(result.state).encode()
                members.append(b'%s:{"state":%s,"reply":%s}' % (name, state, result.body))
        return b'{"ok":{' + b",".join(members) + b"}}"

    def _forget(self, client: bytes, command: Ask, arguments: Arguments, now: Moment) -> int:
        return self._engine.results.forget(_ids(arguments))

    def _revoke(self, client: bytes, command: Ask, arguments: Arguments, now: Moment) -> dict[str, str]:
        terminate = _flag(arguments, "terminate")
        signal = arguments.get("signal", "SIGTERM")
        if not isinstance(signal, str):
            raise MessageError("'signal' is the name of a signal")
        withdrawals = self._engine.withdrawals
        tags = arguments.get("tags", [])
        if not isinstance(tags, list) or not all(isinstance(tag, str) and tag for tag in tags):
            raise MessageError("'tags' is a list of texts")
        ids = _ids(arguments) if "ids" in arguments or not tags else []
        return {
            **withdrawals.revoke_tagged(tags, now, terminate=terminate, signal=signal),
            **{one: withdrawals.revoke(one, now, terminate=terminate, signal=signal) for one in ids},
        }

    def _revoked(self, client: bytes, command: Ask, arguments: Arguments, now: Moment) -> list[str]:
        return sorted(self._engine.withdrawals.revoked)

    # Queues and workers

    def _purge(self, client: bytes, command: Ask, arguments: Arguments, now: Moment) -> int:
        name = arguments.get("queue")
        if not isinstance(name, str):
            raise MessageError("purge needs 'queue', a name")
        queue = self._engine.queues.by_name.get(name or DEFAULT_QUEUE)
        if queue is None:
            return 0
        return self._engine.withdrawals.purge(queue, now, quietly=_flag(arguments, "quietly"))

    def _queues(self, client: bytes, command: Ask, arguments: Arguments, now: Moment) -> list[dict[str, Any]]:
        engine = self._engine
        in_flight, workers = engine.flights.by_queue(), engine.fleet.by_queue()
        names = arguments.get("names")
        if names is not None and not isinstance(names, list):
            raise MessageError("'names' is a list of queues' names")
        return [
            {
                "name": queue.name,
                "waiting": queue.waiting,
                "delayed": queue.delayed,
                "held": queue.held,
                "parked": queue.parked,
                "in_flight": in_flight[queue.id],
                "paused": queue.paused,
                "workers": workers[queue.id],
            }
            for queue in engine.queues.by_name.values()
            if names is None or queue.name in names
        ]

    def _delayed(
        self, client: bytes, command: Ask, arguments: Arguments, now: Moment
    ) -> list[dict[str, Any]]:
        names, limit = arguments.get("queues"), arguments.get("limit", 1000)
        if not isinstance(names, list) or type(limit) is not int or not 0 < limit <= 1000:
            raise MessageError("delayed takes 'queues', a list of names, and 'limit' (1 to 1,000)")
        rows = []
        for name in names:
            queue = self._engine.queues.by_name.get(name)
            for row in self._engine.desk.journal.delayed_in(queue.id, limit) if queue is not None else ():
                small = len(row.payload) <= SHOWN_BYTES
                payload = row.payload.decode("utf-8", "replace") if small else None
                shown = {"queue": name, "msgid": row.msgid, "headers": row.header_text, "payload": payload}
                rows.append((Headers.decode(row.header_text).eta, shown))
        rows.sort(key=lambda row: row[0])
        return [shown for _, shown in rows[:limit]]

    def _workers(
        self, client: bytes, command: Ask, arguments: Arguments, now: Moment
    ) -> list[dict[str, Any]]:
        return [
            {
                "name": worker.name,
                "queues": [queue.name for queue in worker.queues],
                "slots": worker.slots,
                "in_flight": len(worker.in_flight),
                "credit": worker.credit,
                "pid": worker.pid,
                "hostname": worker.hostname,
                "silent_s": round(now.mono - worker.heard, 3),
                "stock": worker.stock,
                "present": worker.present,
            }
            for worker in self._engine.fleet.workers.values()
            if worker.consumer == _flag(arguments, "consumers")
        ]

    def _stats(self, client: bytes, command: Ask, arguments: Arguments, now: Moment) -> dict[str, Any]:
        engine = self._engine
        return {
            **engine.desk.counters,
            **engine.desk.journal.sizes(),
            "uptime_s": round(now.mono - self._engine.started.mono, 3),
            "broker": engine.desk.about["broker"],
            "pid": os.getpid(),
            "in_flight": len(engine.flights.by_msgid),
            "waits": engine.results.waiting,
            "chords": len(engine.chords.by_id),
            "unique_keys": engine.desk.journal.count_locks(),
            "subscribers": engine.topics.subscribers,
        }

    def _schedules(
        self, client: bytes, command: Ask, arguments: Arguments, now: Moment
    ) -> list[dict[str, Any]]:
        rows = []
        for row in self._engine.schedules.rows():
            job = Job.decode(row.payload)
            rows.append(
                {
                    "key": row.key,
                    "queue": row.queue,
                    "interval_s": row.interval_s,
                    "cron": row.cron,
                    "next": row.next_at,
                    "runs_left": row.runs_left,
                    "path": job.path,
                    "callable": job.callable,
                }
            )
        return rows

    def _do_backup(self, client: bytes, command: Ask, arguments: Arguments, now: Moment) -> None:
        file = arguments.get("file")
        if not isinstance(file, str) or not os.path.isabs(file):
            raise MessageError("backup needs 'file', an absolute path on the broker's machine")

        def done(exc: EmqError | None) -> None:
            if exc is None:
                self._answer(client, command.msgid, json.dumps({"ok": file}).encode())
            else:
                self._answer_error(client, command.msgid, exc)

        self._backup(Path(file), done)

    # Topics

    def _subscribe(self, client: bytes, command: Ask, arguments: Arguments, now: Moment) -> dict[str, int]:
        topics = arguments.get("topics")
        if not isinstance(topics, list) or not all(isinstance(topic, str) for topic in topics):
            raise MessageError("subscribe needs 'topics', a list of what topics begin with")
        return {"dropped": self._engine.topics.subscribe(client, topics, now)}

    def _unsubscribe(self, client: bytes, command: Ask, arguments: Arguments, now: Moment) -> bool:
        return self._engine.topics.forget(client)

    # Dead letters

    def _dead_list(
        self, client: bytes, command: Ask, arguments: Arguments, now: Moment
    ) -> list[dict[str, Any]]:
        after, limit = arguments.get("after", 0), arguments.get("limit", 100)
        if type(after) is not int or type(limit) is not int or not 0 < limit <= 10_000:
            raise MessageError("dead_list takes 'after' (a key) and 'limit' (1 to 10,000)")
        return [_dead_row(row) for row in self._engine.desk.journal.dead_letters(after, limit)]

    def _dead_show(self, client: bytes, command: Ask, arguments: Arguments, now: Moment) -> dict[str, Any]:
        key = arguments.get("key")
        row = self._engine.desk.journal.dead_letter(key) if type(key) is int else None
        if row is None:
            raise MessageError(f"there is no dead letter {key!r}")
        shown = {"headers": row.header_text, "payload": row.payload.decode("utf-8", "replace")}
        return {**_dead_row(row), **shown, "deliveries": row.attempt, "losses": row.losses}

    def _dead_requeue(self, client: bytes, command: Ask, arguments: Arguments, now: Moment) -> int:
        rows = [
            row
            for key in self._dead_keys(arguments)
            if (row := self._engine.desk.journal.dead_letter(key)) is not None
        ]
        # What is unique stays put aside while another holds its key.
        second = self._engine.intake.is_second
        rows = [row for row in rows if not second(Headers.decode(row.header_text), now)]
        for row in rows:
            self._engine.publish(as_publish(row), now)
            if task_id := Headers.decode(row.header_text).task_id:
                self._engine.results.forget([task_id])
        self._engine.drop_dead([row.key for row in rows])
        return len(rows)

    def _dead_drop(self, client: bytes, command: Ask, arguments: Arguments, now: Moment) -> int:
        return self._engine.drop_dead(self._dead_keys(arguments))

    def _dead_keys(self, arguments: Arguments) -> list[int]:
        if _flag(arguments, "all"):
            return [row.key for row in self._engine.desk.journal.dead_letters(0, SEQUENCE_MASK)]
        keys = arguments.get("keys")
        if not isinstance(keys, list) or not all(type(key) is int for key in keys):
            raise MessageError("give 'keys', a list of dead letters' keys, or 'all'")
        return keys

    # Questions to workers

    def _inspect(self, client: bytes, command: Ask, arguments: Arguments, now: Moment) -> bytes | None:
        return self.inspections.begin(client, command.msgid, arguments, now)

    def _node_answers(self, client: bytes, command: Ask, arguments: Arguments, now: Moment) -> bool:
        return self.inspections.node_answers(arguments, now)

    def tick(self, now: Moment) -> None:
        """Answer the inspections whose time is over with what has come."""
        self.inspections.tick(now)
        self.commands.tick(now)

    def next_deadline(self) -> float | None:
        """Return the monotonic time at which ``tick`` is due."""
        return self.inspections.next_deadline()


def _ids(arguments: Arguments) -> list[str]:
    ids = arguments.get("ids")
    if not isinstance(ids, list) or not all(isinstance(task_id, str) and task_id for task_id in ids):
        raise MessageError("'ids' is a list of task ids")
    return ids


def _flag(arguments: Arguments, name: str) -> bool:
    value = arguments.get(name, False)
    if not isinstance(value, bool):
        raise MessageError(f"{name!r} is true or false")
    return value


def _dead_row(row: DeadLetter) -> dict[str, Any]:
    headers = Headers.decode(row.header_text)
    return {
        "key": row.key,
        "msgid": row.msgid,
        "queue": row.queue,
        "task": headers.task,
        "task_id": headers.task_id,
        "reason": row.reason,
        "at": row.at,
    }


def _of_engine(verb: Callable[[Engine, Arguments, Moment], Any]) -> Verb:
    return lambda asks, client, command, arguments, now: verb(asks._engine, arguments, now)


def _of_client(verb: Callable[[Engine, bytes, Arguments, Moment], Any]) -> Verb:
    return lambda asks, client, command, arguments, now: verb(asks._engine, client, arguments, now)


_ENGINE_VERBS = PERIODIC | MOVES | PAUSES | OVERVIEW | TRACES | WORKFLOWS | TERM_VERBS

Verb = Callable[["Asks", bytes, Ask, Arguments, Moment], Any]
_VERBS: dict[str, Verb] = {
    "wait": Asks._wait,
    "unwait": Asks._unwait,
    "results": Asks._results,
    "forget": Asks._forget,
    "revoke": Asks._revoke,
    "revoked": Asks._revoked,
    "purge": Asks._purge,
    "queues": Asks._queues,
    "delayed": Asks._delayed,
    "workers": Asks._workers,
    "stats": Asks._stats,
    "schedules": Asks._schedules,
    "backup": Asks._do_backup,
    "dead_list": Asks._dead_list,
    "dead_show": Asks._dead_show,
    "dead_requeue": Asks._dead_requeue,
    "dead_drop": Asks._dead_drop,
    "inspect": Asks._inspect,
    "answer": Asks._node_answers,
    **{name: _of_engine(verb) for name, verb in _ENGINE_VERBS.items()},
    **{name: _of_client(verb) for name, verb in EXCHANGE_VERBS.items()},
    "subscribe": Asks._subscribe,
    "unsubscribe": Asks._unsubscribe,
}
