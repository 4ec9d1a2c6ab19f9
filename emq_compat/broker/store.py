"""The journal: what the engine keeps, one transaction for each batch of the server."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from emq_compat.broker.aside import ASIDE_BYTES
from emq_compat.broker.database import Database
from emq_compat.broker.records import (
    SEQUENCE_MASK,
    ChordRow,
    ChordState,
    DeadLetter,
    LockRow,
    MarkedMessage,
    PeriodicRow,
    QueueRow,
    ScheduleRow,
    StoredMessage,
    StoredResult,
    home_key,
)
from emq_compat.terms import Shares

__all__ = ["Store"]


class Store(Database):
    """The engine's Journal, in a Database."""

    def known(self, msgids: Sequence[str]) -> set[str]:
        """See Journal."""
        return {row[0] for row in self._rows("known", (json.dumps(msgids),))}

    def add_queue(self, name: str) -> int:
        """Make a queue; returns its id."""
        return self._execute("add_queue", (name,), writes=True).lastrowid or 0

    def queues(self) -> list[QueueRow]:
        """Return every queue."""
        return [QueueRow(*row) for row in self._rows("queues")]

    def drop_queue(self, queue_id: int) -> None:
        """Delete a queue; its messages are gone already."""
        self._execute("drop_queue", (queue_id,), writes=True)

    def set_queue_options(self, queue_id: int, options: str | None) -> None:
        """See Journal."""
        self._execute("set_queue_options", (queue_id, options), writes=True)

    def queue_options(self) -> list[tuple[int, str]]:
        """See Journal."""
        return self._rows("queue_options")

    def put_exchange(self, name: str, kind: str, options: str) -> None:
        """Store an exchange."""
        self._execute("put_exchange", (name, kind, options), writes=True)

    def drop_exchange(self, name: str) -> None:
        """See Journal."""
        self._execute("drop_exchange", (name,), writes=True)
        self._execute("drop_bindings", (name,), writes=True)

    def exchanges(self) -> list[tuple[str, str, str]]:
        """See Journal."""
        return self._rows("exchanges")

    def put_binding(self, exchange: str, key: str, queue: str) -> None:
        """Store a binding."""
        self._execute("put_binding", (exchange, key, queue), writes=True)

    def drop_binding(self, exchange: str, key: str, queue: str) -> None:
        """Delete a binding."""
        self._execute("drop_binding", (exchange, key, queue), writes=True)

    def bindings(self) -> list[tuple[str, str, str]]:
        """See Journal."""
        return self._rows("bindings")

    def set_counts(self, queue_id: int, waiting: int, delayed: int) -> None:
        """Note a queue's counts."""
        self._write("set_counts", (waiting, delayed, queue_id))

    def add_message(self, key: int, msgid: str, header_text: str, payload: bytes, marked: str | None) -> None:
        """Store a message that waits."""
        if len(payload) >= ASIDE_BYTES and self._redo is not None:
            self._aside.put_payload(key, payload)
            self._write("fill_message", (payload, key))
            payload = b""
        self._write("add_message", (key, msgid, header_text, payload, marked))

    def add_delayed(
        self,
        sequence: int,
        home: int,
        due_ms: int,
        msgid: str,
        header_text: str,
        payload: bytes,
        marked: str | None,
    ) -> None:
        """Store a message that waits for its time."""
        self._write("add_delayed", (sequence, home, due_ms, msgid, header_text, payload, marked))

    def add_held(
        self, sequence: int, home: int, msgid: str, header_text: str, payload: bytes, marked: str | None
    ) -> None:
        """See Journal."""
        self._write("add_held", (sequence, home, msgid, header_text, payload, marked))

    def release(
        self,
        key: int,
        new_key: int,
        home: int | None,
        due_ms: int | None,
        header_text: str,
        payload: bytes,
    ) -> None:
        """See Journal."""
        self._execute("release", (key, new_key, home, due_ms, header_text, payload), writes=True)

    def marked_as(self, task_id: str) -> list[MarkedMessage]:
        """See Journal."""
        rows = self._rows("marked_as", (task_id,))
        return [MarkedMessage(StoredMessage(*row[:6]), row[6], row[7]) for row in rows]

    def delayed_in(self, queue_id: int, limit: int) -> list[StoredMessage]:
        """See Journal."""
        return [StoredMessage(*row) for row in self._rows("delayed_in", (*_range(queue_id), limit))]

    def browse(self, queue_id: int, after_key: int, limit: int) -> Iterator[StoredMessage]:
        """See Journal."""
        first, last = _range(queue_id)
        yield from self._messages("browse", (max(first, after_key), last, limit))

    def browse_apart(self, queue_id: int, after_key: int, limit: int) -> Iterator[StoredMessage]:
        """See Journal."""
        yield from self._messages("browse_apart", (*_range(queue_id), after_key, limit))

    def waiting_as(self, msgids: Sequence[str]) -> list[MarkedMessage]:
        """See Journal."""
        rows = self._rows("waiting_as", (json.dumps(msgids),))
        return [MarkedMessage(StoredMessage(*row[:6]), row[6], row[7]) for row in rows]

    def marked_in(self, queue_id: int) -> list[StoredMessage]:
        """See Journal."""
        return [StoredMessage(*row) for row in self._rows("marked_in", _range(queue_id))]

    def remember(self, msgid: str) -> None:
        """See Journal."""
        self._write("remember_finished", (msgid,))

    def next_due_ms(self) -> int | None:
        """Return when the next delayed message is due, unix milliseconds."""
        due: int | None = self._rows("next_due_ms")[0][0]
        return due

    def due(self, until_ms: int, limit: int) -> list[tuple[int, int]]:
        """See Journal."""
        return self._rows("due", (until_ms, limit))

    def make_ready(self, moves: Sequence[tuple[int, int]]) -> None:
        """See Journal."""
        self._execute_many("make_ready", moves)

    def read_messages(self, after_key: int, last_key: int, limit: int) -> Iterator[StoredMessage]:
        """See Journal."""
        yield from self._messages("read_messages", (after_key, last_key, limit))

    def _messages(self, query: str, parameters: Sequence[Any]) -> Iterator[StoredMessage]:
        cursor = self._execute(query, parameters)
        aside = self._aside.payloads
        try:
            for row in cursor:
                if row[0] in aside:
                    row = (*row[:3], aside[row[0]], *row[4:])
                yield StoredMessage(*row)
        except sqlite3.Error as exc:
            raise self._failed("read", exc) from exc
        finally:
            cursor.close()

    def read_message(self, key: int) -> StoredMessage | None:
        """Return one message."""
        return next(self._messages("read_message", (key,)), None)

    def hand_out(self, key: int, attempt: int, worker: bytes, late: bool) -> None:
        """Note a hand-out."""
        self._write("hand_out", (key, attempt, worker, late))

    def give_back(self, key: int, attempt: int, losses: int) -> None:
        """See Journal."""
        self._write("give_back", (key, attempt, losses))
        self._write("end_hand_out", (key,))

    def mark_redelivered(self, key: int) -> None:
        """See Journal."""
        self._execute("mark_redelivered", (key,), writes=True)

    def in_flight(self) -> list[tuple[StoredMessage, int, bytes, bool]]:
        """See Journal."""
        return [(StoredMessage(*row[:6]), row[6], row[7], bool(row[8])) for row in self._rows("in_flight")]

    def finish(self, key: int, msgid: str) -> None:
        """See Journal."""
        self._write("end_hand_out", (key,))
        self._write("drop_message", (key,))
        self._write("remember_finished", (msgid,))
        if self._aside:
            self._aside.drop_payload(key)

    def bury(
        self, key: int, msgid: str, queue: str, reason: str, at: float, *, attempt: int, losses: int
    ) -> None:
        """See Journal."""
        self.whole()
        self._write("bury", (key, queue, reason, at, losses, attempt))
        self.finish(key, msgid)

    def purge(self, queue_id: int) -> int:
        """See Journal."""
        parts = ("purge_waiting", "purge_delayed", "purge_parked")
        return sum(self._execute(part, _range(queue_id), writes=True).rowcount for part in parts)

    def rotate_finished(self) -> None:
        """See Journal."""
        self._flush()
        self._generation = 1 - self._generation
        self._execute("set_meta", ("finished", self._generation), writes=True)
        self._execute(f"forget_finished_{self._generation}", writes=True)

    # Chords

    def chords(self) -> list[ChordRow]:
        """Return every chord."""
        return [ChordRow(ChordState(*row[:8]), *row[8:]) for row in self._rows("chords")]

    def put_chord(self, chord: ChordState) -> None:
        """Store a chord, or what it has become."""
        self._write("put_chord", tuple(chord))

    def drop_chord(self, number: int) -> None:
        """Delete a chord."""
        self._write("drop_chord", (number,))

    def expect_part(self, number: int, place: str) -> bool:
        """See Journal."""
        return self._execute("expect_part", (number, place), writes=True).rowcount > 0

    def add_part(self, number: int, place: str, value: bytes) -> None:
        """See Journal."""
        self._write("add_part", (number, place, value))

    def parts(self, number: int) -> list[tuple[str, bytes]]:
        """See Journal."""
        return self._rows("parts", (number,))

    def drop_parts(self, number: int) -> None:
        """Delete the values of a chord's parts."""
        self._write("drop_parts", (number,))

    # Terms

    def add_parked(
        self,
        sequence: int,
        home: int,
        gate: str,
        msgid: str,
        header_text: str,
        payload: bytes,
        marked: str | None,
    ) -> None:
        """See Journal."""
        self._write("add_parked", (sequence, home, gate, msgid, header_text, payload, marked))

    def move(self, key: int, new_key: int, home: int | None, gate: str | None) -> None:
        """See Journal."""
        self.whole()
        self._write("move", (key, new_key, home, gate))

    def let_all(self, gate: str, home: int, limit: int) -> int:
        """See Journal."""
        return self._execute("let_all", (gate, home, limit), writes=True).rowcount

    def parked_counts(self) -> list[tuple[str, int, int]]:
        """See Journal."""
        return self._rows("parked_counts")

    def parked(self, gate: str, home: int, limit: int) -> list[StoredMessage]:
        """See Journal."""
        return [StoredMessage(*row) for row in self._rows("parked", (gate, home, limit))]

    def parked_at(self, gate: str) -> list[tuple[StoredMessage, int]]:
        """See Journal."""
        return [(StoredMessage(*row[:6]), row[6]) for row in self._rows("parked_at", (gate,))]

    def locks(self, keys: Sequence[str]) -> list[LockRow]:
        """See Journal."""
        return [LockRow(*row) for row in self._rows("locks", (json.dumps(keys),))]

    def all_locks(self, after: str, limit: int) -> list[LockRow]:
        """See Journal."""
        return [LockRow(*row) for row in self._rows("all_locks", (after, limit))]

    def count_locks(self) -> int:
        """Return how many unique keys are stored."""
        count: int = self._rows("count_locks")[0][0]
        return count

    def find(self, task_ids: Sequence[str]) -> dict[str, MarkedMessage]:
        """See Journal."""
        written = {quote(task_id, safe=""): task_id for task_id in task_ids}
        rows = self._rows("find", (json.dumps(list(written)),))
        return {written[row[-1]]: MarkedMessage(StoredMessage(*row[:6]), *row[6:-1]) for row in rows}

    def put_lock(self, row: LockRow) -> None:
        """Store who holds a unique key."""
        self._write("put_lock", tuple(row))

    def drop_lock(self, key: str, owner: str) -> None:
        """See Journal."""
        self._write("drop_lock", (key, owner))

    def expire_locks(self, now: float, limit: int) -> int:
        """See Journal."""
        return self._execute("expire_locks", (now, limit), writes=True).rowcount

    def put_pace(self, gate: str, next_at: float) -> None:
        """See Journal."""
        self._write("put_pace", (gate, next_at))

    def paces(self, now: float) -> list[tuple[str, float]]:
        """See Journal."""
        return self._rows("paces", (now,))

    def drop_paces(self, now: float) -> None:
        """See Journal."""
        self._execute("drop_paces", (now,), writes=True)

    def put_shares(self, task: str, shares: Shares) -> None:
        """Store what the workers say that a task's messages share."""
        self._execute("put_shares", (task, *shares), writes=True)

    def drop_shares(self, task: str) -> None:
        """Forget what the workers said that a task's messages share."""
        self._execute("drop_shares", (task,), writes=True)

    def shares(self) -> dict[str, Shares]:
        """Return what the workers said last, by task name."""
        rows = self._rows("shares")
        return {task: Shares(slots, bool(s), pace_s, bool(p)) for task, slots, s, pace_s, p in rows}

    # Results, revokes, schedules, dead letters

    def put_result(self, task_id: str, state: str, body: bytes, expires_at: float | None) -> None:
        """Store a result; ``expires_at`` is unix seconds, None: kept for good."""
        if self._pending["forget_result"] or task_id in self._aside.bodies:
            self._flush()
            self._aside.drop_body(task_id)
        if len(body) >= ASIDE_BYTES and self._redo is not None:
            self._aside.put_body(task_id, body)
            self._write("fill_result", (body, task_id))
            body = b""
        self._write("put_result", (task_id, state, body, expires_at))

    def results(self, task_ids: Sequence[str]) -> dict[str, StoredResult]:
        """Return those of these results that are stored."""
        rows, aside = self._rows("results", (json.dumps(task_ids),)), self._aside.bodies
        return {task_id: StoredResult(state, aside.get(task_id, body)) for task_id, state, body in rows}

    def result_sizes(self, task_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Return the state, and the bytes, of those of these results that are stored."""
        rows, aside = self._rows("result_sizes", (json.dumps(task_ids),)), self._aside.bodies
        return {
            task_id: (state, len(aside[task_id]) if task_id in aside else size)
            for task_id, state, size in rows
        }

    def forget(self, task_ids: Sequence[str]) -> int:
        """Delete results; returns how many."""
        known = self._rows("result_sizes", (json.dumps(task_ids),))
        for task_id, _, _ in known:
            self._write("forget_result", (task_id,))
            self._aside.drop_body(task_id)
        return len(known)

    def expire_results(self, until: float, limit: int) -> int:
        """Delete results that have expired; returns how many (at most ``limit``)."""
        return self._execute("expire_results", (until, limit), writes=True).rowcount

    def revoke(self, task_id: str, expires_at: float) -> None:
        """Remember a revoke."""
        self._write("revoke", (task_id, expires_at))

    def revoked(self, now: float) -> list[str]:
        """Return the task ids that are revoked; those past their time are forgotten."""
        self._execute("drop_old_revokes", (now,), writes=True)
        return [row[0] for row in self._rows("revoked")]

    def put_schedule(self, row: ScheduleRow) -> None:
        """Store a schedule, or what it has become."""
        self._write("put_schedule", tuple(row))

    def drop_schedule(self, key: str) -> bool:
        """Delete a schedule; returns whether there was one."""
        return self._execute("drop_schedule", (key,), writes=True).rowcount > 0

    def schedules(self) -> list[ScheduleRow]:
        """Return every schedule."""
        return [ScheduleRow(*row) for row in self._rows("schedules")]

    def put_periodic(self, row: PeriodicRow) -> None:
        """Store a beat's entry, or what it has become."""
        self._write("put_periodic", tuple(row))

    def drop_periodic(self, schedule: str, name: str) -> None:
        """Delete a beat's entry."""
        self._execute("drop_periodic", (schedule, name), writes=True)

    def periodic(self) -> list[PeriodicRow]:
        """Return the entries of all beats."""
        return [PeriodicRow(*row) for row in self._rows("periodic")]

    def dead_letters(self, after_key: int, limit: int) -> list[DeadLetter]:
        """Return dead letters without payload, oldest first."""
        return [DeadLetter(*row) for row in self._rows("dead_letters", (after_key, limit))]

    def dead_letter(self, key: int) -> DeadLetter | None:
        """Return one dead letter, whole."""
        rows = self._rows("dead_letter", (key,))
        return DeadLetter(*rows[0]) if rows else None

    def drop_dead(self, keys: Sequence[int]) -> int:
        """Delete dead letters; returns how many."""
        return sum(self._execute("drop_dead", (key,), writes=True).rowcount for key in keys)

    def count_dead(self) -> int:
        """Return how many dead letters there are; they are counted one by one."""
        return int(self._rows("count_dead")[0][0])

    def sizes(self) -> dict[str, Any]:
        """Return counts and bytes for ``stats``."""
        size = self.path.stat().st_size if self.path is not None else 0
        results = self._rows("count_results")[0][0]
        return {"dead": self.count_dead(), "results": results, "journal_bytes": size}


def _range(queue_id: int) -> tuple[int, int]:
    """Return the keys between which a queue's messages are."""
    return home_key(queue_id, 9), home_key(queue_id, 0) | SEQUENCE_MASK
