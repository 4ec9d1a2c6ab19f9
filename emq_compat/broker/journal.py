"""What the engine asks of a journal: store.py has it on disk, or in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from emq_compat.broker.records import (
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
)
from emq_compat.terms import Shares

__all__ = ["Journal"]


class Journal(Protocol):
    """Disk, as the engine sees it. Writes are buffered and become durable together at ``commit``.

    A read sees the writes before it. Any method may raise JournalError; everything since the last
    commit is then undone.
    """

    def known(self, msgids: Sequence[str]) -> set[str]:
        """Return those msgids that are stored, or were finished within the last minute."""
        ...

    def next_sequence(self) -> int:
        """Return a sequence number higher than any before, also before a restart."""
        ...

    def last_sequence(self) -> int:
        """Return the highest that was given; after a start one that is as high as any before."""
        ...

    def add_queue(self, name: str) -> int: ...
    def queues(self) -> list[QueueRow]: ...
    def drop_queue(self, queue_id: int) -> None: ...
    def set_queue_options(self, queue_id: int, options: str | None) -> None:
        """Note what is declared of a queue, JSON; None: nothing."""
        ...

    def queue_options(self) -> list[tuple[int, str]]:
        """Return (queue's id, what is declared of it)."""
        ...

    def put_exchange(self, name: str, kind: str, options: str) -> None: ...
    def drop_exchange(self, name: str) -> None:
        """Delete an exchange and its bindings."""
        ...

    def exchanges(self) -> list[tuple[str, str, str]]:
        """Return (name, kind, options) of every exchange."""
        ...

    def put_binding(self, exchange: str, key: str, queue: str) -> None: ...
    def drop_binding(self, exchange: str, key: str, queue: str) -> None: ...
    def bindings(self) -> list[tuple[str, str, str]]:
        """Return (exchange, routing key, queue) of every binding."""
        ...

    def set_counts(self, queue_id: int, waiting: int, delayed: int) -> None: ...
    def add_message(
        self, key: int, msgid: str, header_text: str, payload: bytes, marked: str | None
    ) -> None: ...
    def add_delayed(
        self,
        sequence: int,
        home: int,
        due_ms: int,
        msgid: str,
        header_text: str,
        payload: bytes,
        marked: str | None,
    ) -> None: ...
    def add_held(
        self, sequence: int, home: int, msgid: str, header_text: str, payload: bytes, marked: str | None
    ) -> None:
        """Store a message that awaits a chord."""
        ...

    def release(
        self,
        key: int,
        new_key: int,
        home: int | None,
        due_ms: int | None,
        header_text: str,
        payload: bytes,
    ) -> None:
        """Make a held message one that waits, or one that waits for its time."""
        ...

    def marked_as(self, task_id: str) -> list[MarkedMessage]:
        """Return the marked messages of this task that wait, are parked or delayed."""
        ...

    def delayed_in(self, queue_id: int, limit: int) -> list[StoredMessage]:
        """Return the delayed messages of a queue that are due first."""
        ...

    def browse(self, queue_id: int, after_key: int, limit: int) -> Iterator[StoredMessage]:
        """Yield the messages that wait in a queue, by key, ``after_key`` excluded."""
        ...

    def browse_apart(self, queue_id: int, after_key: int, limit: int) -> Iterator[StoredMessage]:
        """Yield those that wait for their time or at a gate (not for another's end), by key."""
        ...

    def waiting_as(self, msgids: Sequence[str]) -> list[MarkedMessage]:
        """Return those of these messages, without payload, that ``browse`` or ``browse_apart`` yields."""
        ...

    def marked_in(self, queue_id: int) -> list[StoredMessage]:
        """Return the marked messages of a queue that that aren't handed out; payloads only for epilogues."""
        ...

    def remember(self, msgid: str) -> None:
        """Remember for a minute that a message was taken and has ended at once."""
        ...

    def next_due_ms(self) -> int | None: ...
    def due(self, until_ms: int, limit: int) -> list[tuple[int, int]]:
        """Return (key, home) of delayed messages whose time has come, oldest first."""
        ...

    def make_ready(self, moves: Sequence[tuple[int, int]]) -> None:
        """Move delayed messages, (old key, new key), into their queues."""
        ...

    def read_messages(self, after_key: int, last_key: int, limit: int) -> Iterator[StoredMessage]:
        """Yield messages by key, ``after_key`` excluded; one is read at a time."""
        ...

    def read_message(self, key: int) -> StoredMessage | None: ...
    def hand_out(self, key: int, attempt: int, worker: bytes, late: bool) -> None: ...
    def give_back(self, key: int, attempt: int, losses: int) -> None:
        """End a hand-out; the message waits again."""
        ...

    def mark_redelivered(self, key: int) -> None:
        """Add the header ``redelivered`` to a message."""
        ...

    def in_flight(self) -> list[tuple[StoredMessage, int, bytes, bool]]:
        """Return (message without payload, attempt, worker, late) of every hand-out."""
        ...

    def finish(self, key: int, msgid: str) -> None:
        """Remove a message, waiting or handed out, and remember its msgid for a minute."""
        ...

    def bury(
        self, key: int, msgid: str, queue: str, reason: str, at: float, *, attempt: int, losses: int
    ) -> None:
        """Move a message to the dead letters; it was handed out ``attempt`` times."""
        ...

    def purge(self, queue_id: int) -> int:
        """Delete a queue's waiting and delayed messages, not those handed out; return how many."""
        ...

    def chords(self) -> list[ChordRow]: ...
    def put_chord(self, chord: ChordState) -> None: ...
    def drop_chord(self, number: int) -> None: ...
    def expect_part(self, number: int, place: str) -> bool:
        """Note that a chord has this place; False: it was known already."""
        ...

    def add_part(self, number: int, place: str, value: bytes) -> None:
        """Store a part's value; the first one of a place stays."""
        ...

    def parts(self, number: int) -> list[tuple[str, bytes]]:
        """Return (place, value) of every part that has come, in no order."""
        ...

    def drop_parts(self, number: int) -> None: ...
    def put_result(self, task_id: str, state: str, body: bytes, expires_at: float | None) -> None: ...
    def results(self, task_ids: Sequence[str]) -> dict[str, StoredResult]: ...
    def result_sizes(self, task_ids: Sequence[str]) -> dict[str, tuple[str, int]]: ...
    def forget(self, task_ids: Sequence[str]) -> int: ...
    def expire_results(self, until: float, limit: int) -> int: ...
    def revoke(self, task_id: str, expires_at: float) -> None: ...
    def revoked(self, now: float) -> list[str]: ...
    def rotate_finished(self) -> None:
        """Forget the msgids finished before the last rotation."""
        ...

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
        """Store a message that waits at a gate."""
        ...

    def move(self, key: int, new_key: int, home: int | None, gate: str | None) -> None:
        """Park a message of a queue at a gate, or (no ``home``, no ``gate``) let it into its queue."""
        ...

    def let_all(self, gate: str, home: int, limit: int) -> int:
        """Let the oldest messages of this home at a gate into their queue; return how many."""
        ...

    def parked_counts(self) -> list[tuple[str, int, int]]:
        """Return (gate, home, how many) of all that is parked."""
        ...

    def parked(self, gate: str, home: int, limit: int) -> list[StoredMessage]:
        """Return the oldest messages of this home that are parked at a gate."""
        ...

    def parked_at(self, gate: str) -> list[tuple[StoredMessage, int]]:
        """Return (message, home) of all that is parked at a gate."""
        ...

    def locks(self, keys: Sequence[str]) -> list[LockRow]:
        """Return those of these unique keys that are held, or were and are forgotten only later."""
        ...

    def all_locks(self, after: str, limit: int) -> list[LockRow]:
        """Return held unique keys in their order."""
        ...

    def count_locks(self) -> int: ...
    def find(self, task_ids: Sequence[str]) -> dict[str, MarkedMessage]:
        """Look through all messages that aren't handed out for those of these tasks; without payloads."""
        ...

    def put_lock(self, row: LockRow) -> None: ...
    def drop_lock(self, key: str, owner: str) -> None:
        """Free a unique key, if this one holds it."""
        ...

    def expire_locks(self, now: float, limit: int) -> int:
        """Forget unique keys that are free by their time; return how many (at most ``limit``)."""
        ...

    def put_pace(self, gate: str, next_at: float) -> None:
        """Note when a gate lets the next one through, unix seconds."""
        ...

    def paces(self, now: float) -> list[tuple[str, float]]:
        """Return those gates that let nothing through yet."""
        ...

    def drop_paces(self, now: float) -> None:
        """Forget the gates that let something through."""
        ...

    def put_shares(self, task: str, shares: Shares) -> None: ...
    def drop_shares(self, task: str) -> None: ...
    def shares(self) -> dict[str, Shares]: ...
    def put_schedule(self, row: ScheduleRow) -> None: ...
    def drop_schedule(self, key: str) -> bool: ...
    def schedules(self) -> list[ScheduleRow]: ...
    def put_periodic(self, row: PeriodicRow) -> None: ...
    def drop_periodic(self, schedule: str, name: str) -> None: ...
    def periodic(self) -> list[PeriodicRow]: ...
    def dead_letters(self, after_key: int, limit: int) -> list[DeadLetter]: ...
    def dead_letter(self, key: int) -> DeadLetter | None: ...
    def drop_dead(self, keys: Sequence[int]) -> int: ...
    def count_dead(self) -> int: ...
    def sizes(self) -> dict[str, Any]: ...
