"""What the engine remembers and what it asks of a journal.

The engine (and everything beside it but store.py and server.py) knows no socket, file or clock: time comes
in as a Moment, disk is behind the Journal protocol, and what is to be sent is returned as values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from emq_compat.message import Headers, Publish
from emq_compat.protocol.commands import Command

__all__ = [
    "RANKS",
    "ChordRow",
    "ChordState",
    "DeadLetter",
    "Dispatch",
    "InFlight",
    "Journal",
    "Moment",
    "QueueRow",
    "ScheduleRow",
    "Send",
    "StoredMessage",
    "StoredResult",
    "Waiting",
    "home_key",
    "marked",
    "priority_of",
    "queue_of",
]

#: Priorities 0–9, highest first.
RANKS = 10
_RANK_SHIFT = 41
_QUEUE_SHIFT = 45
#: One less than the number of sequence numbers: 2.2 · 10¹², seven years at 10,000 messages a second.
SEQUENCE_MASK = (1 << _RANK_SHIFT) - 1


def home_key(queue_id: int, priority: int) -> int:
    """Return the key below which every message of this queue and priority is ordered.

    A waiting message's key is ``home_key | sequence``: the journal's table itself is in the order of
    hand-out (queue, priority, age), so that reading on needs no index and touches neighbouring pages.
    """
    return queue_id << _QUEUE_SHIFT | (RANKS - 1 - priority) << _RANK_SHIFT


def queue_of(key: int) -> int:
    """Return the queue id of a waiting message's key (0: it is delayed)."""
    return key >> _QUEUE_SHIFT


def priority_of(key: int) -> int:
    """Return the priority of a waiting message's key."""
    return RANKS - 1 - (key >> _RANK_SHIFT & 15)


def marked(headers: Headers) -> str | None:
    """Return the task id under which the journal must find a message that waits; None: it needn't.

    What is part of a chord, awaits one (or did), or has an epilogue ends at once when revoked or purged.
    """
    return headers.task_id if headers.chord or headers.epilogue or headers.awaits else None


class Moment(NamedTuple):
    """A time: ``wall`` is unix seconds (eta, expiry, schedules), ``mono`` monotonic seconds (liveness)."""

    wall: float
    mono: float


class Waiting:
    """A message in a queue's window: on disk and in memory, not handed out."""

    __slots__ = ("attempt", "headers", "header_text", "key", "losses", "msgid", "payload")

    def __init__(
        self,
        key: int,
        msgid: str,
        headers: Headers,
        header_text: str,
        payload: bytes,
        attempt: int = 0,
        losses: int = 0,
    ) -> None:
        self.key = key
        self.msgid = msgid
        self.headers = headers
        self.header_text = header_text
        self.payload = payload
        #: hand-outs so far.
        self.attempt = attempt
        #: hand-outs that were lost with their holder.
        self.losses = losses


class InFlight:
    """A hand-out that has no outcome yet. The payload is on disk only."""

    __slots__ = ("attempt", "headers", "key", "late", "losses", "msgid", "since", "worker")

    def __init__(
        self,
        *,
        key: int,
        msgid: str,
        attempt: int,
        losses: int,
        headers: Headers,
        worker: bytes,
        late: bool,
        since: float,
    ) -> None:
        self.key = key
        self.msgid = msgid
        self.attempt = attempt
        self.losses = losses
        self.headers = headers
        self.worker = worker
        self.late = late
        #: monotonic seconds.
        self.since = since


class StoredMessage(NamedTuple):
    """A row of the journal's messages."""

    key: int
    msgid: str
    header_text: str
    payload: bytes
    attempt: int
    losses: int


class StoredResult(NamedTuple):
    """A row of the journal's results: ``body`` is the reply's JSON as the worker wrote it."""

    state: str
    body: bytes


class QueueRow(NamedTuple):
    """A queue with its counts as of the last commit."""

    id: int
    name: str
    waiting: int
    delayed: int


class ChordState(NamedTuple):
    """What is kept of a chord; ``body`` is the key of its held body, see chords.py."""

    number: int
    id: str
    size: int
    grown: int
    arrived: int
    body: int | None
    failure: str | None
    at: float


class ChordRow(NamedTuple):
    """A chord that is not over, and the message of its held body (all empty: there is none)."""

    chord: ChordState
    home: int
    msgid: str
    header_text: str


class ScheduleRow(NamedTuple):
    """A SCHEDULE kept by the broker; ``next_at`` is unix seconds, ``runs_left`` -1 for no end."""

    key: str
    queue: str
    header_text: str
    payload: bytes
    interval_s: int
    cron: str
    next_at: float
    runs_left: int


class DeadLetter(NamedTuple):
    """A message that was put aside; ``at`` is unix seconds."""

    key: int
    msgid: str
    queue: str
    header_text: str
    payload: bytes
    attempt: int
    losses: int
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Send:
    """A command for a client (``to_worker`` False) or a worker."""

    identity: bytes
    command: Command
    to_worker: bool = False
    stock: bool = False


@dataclass(frozen=True, slots=True)
class Dispatch:
    """A hand-out: a REQUEST for a worker, from texts that are passed on as they are."""

    identity: bytes
    msgid: str
    queue: str
    header_text: str
    payload: bytes


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

    def add_queue(self, name: str) -> int: ...
    def queues(self) -> list[QueueRow]: ...
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

    def marked_as(self, task_id: str) -> list[tuple[StoredMessage, int | None]]:
        """Return the marked messages of this task that wait, and (message, home) those that are delayed."""
        ...

    def delayed_in(self, queue_id: int, limit: int) -> list[StoredMessage]:
        """Return the delayed messages of a queue that are due first."""
        ...

    def marked_in(self, queue_id: int) -> list[StoredMessage]:
        """Return the marked messages of a queue that wait or are delayed; payloads only for epilogues."""
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
    def forget(self, task_ids: Sequence[str]) -> int: ...
    def expire_results(self, until: float, limit: int) -> int: ...
    def revoke(self, task_id: str, expires_at: float) -> None: ...
    def revoked(self, now: float) -> list[str]: ...
    def rotate_finished(self) -> None:
        """Forget the msgids finished before the last rotation."""
        ...

    def put_schedule(self, row: ScheduleRow) -> None: ...
    def drop_schedule(self, key: str) -> bool: ...
    def schedules(self) -> list[ScheduleRow]: ...
    def dead_letters(self, after_key: int, limit: int) -> list[DeadLetter]: ...
    def dead_letter(self, key: int) -> DeadLetter | None: ...
    def drop_dead(self, keys: Sequence[int]) -> int: ...
    def sizes(self) -> dict[str, Any]: ...


def as_publish(row: DeadLetter) -> Publish:
    """Return a dead letter as a message to be published anew (under a new msgid)."""
    headers = replace(Headers.decode(row.header_text), redelivered=False)
    return Publish(queue=row.queue, headers=headers, payload=row.payload)
