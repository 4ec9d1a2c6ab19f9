"""What the engine remembers: values of its memory, and rows of its journal.

The engine (and everything beside it but store.py and server.py) knows no socket, file or clock: time comes
in as a Moment, disk is behind the Journal (journal.py), and what is to be sent is returned as values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from emq_compat.message import Headers, Publish
from emq_compat.protocol.commands import Command

__all__ = [
    "RANKS",
    "ChordRow",
    "ChordState",
    "DeadLetter",
    "Dispatch",
    "InFlight",
    "LockRow",
    "MarkedMessage",
    "Moment",
    "PeriodicRow",
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

    What is part of a chord, awaits one (or did), has an epilogue, or is the only one of its kind ends at once
    when revoked or purged.
    """
    return headers.task_id if headers.chord or headers.epilogue or headers.awaits or headers.once else None


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

    __slots__ = ("attempt", "gate", "headers", "key", "late", "losses", "msgid", "since", "worker")

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
        #: the gate (gates.py) of which it takes a place; empty: of none.
        self.gate = ""


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


class MarkedMessage(NamedTuple):
    """A marked message that isn't handed out; without a ``home`` it waits in its queue, with a gate there."""

    message: StoredMessage
    home: int | None
    gate: str | None


class LockRow(NamedTuple):
    """Who holds a unique key (a task id, or a msgid).

    Unix seconds: ``until`` is when it is free whatever happens (0: never), ``expires`` when its holder will
    not run any more if it hasn't begun (0: it has, or never).
    """

    key: str
    owner: str
    until: float
    expires: float


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


class PeriodicRow(NamedTuple):
    """An entry of a beat's schedule, with its last run.

    ``last_run_at`` is unix seconds by the beat's clock, ``sent_at`` by the broker's; ``total`` counts the
    runs; ``token`` names the last one (empty: none yet); ``task`` and ``shown`` are for those who look.
    """

    schedule: str
    name: str
    last_run_at: float
    sent_at: float
    total: int
    token: str
    task: str
    shown: str


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


def as_publish(row: DeadLetter) -> Publish:
    """Return a dead letter as a message to be published anew (under a new msgid)."""
    headers = replace(Headers.decode(row.header_text), redelivered=False)
    return Publish(queue=row.queue, headers=headers, payload=row.payload)
