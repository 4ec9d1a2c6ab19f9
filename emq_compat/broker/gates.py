"""Gates: what a message passes to be handed out, beside its queue: places to run in, and a pace.

Whose gate is shut is *parked*: on disk only and outside of its queue, so that nothing waits behind it and no
hand-out comes across it, however many there are.

    published ──shut──▶ parked ◀──shut when it is its turn──┐
        │                  │                                │
        └──────────────▶ in its queue ◀──its gate opens─────┘──hand-out──▶ in flight: has a place

Of each queue, those of the highest priority are let in first, then the oldest, into their old places; no more
than can pass. So at a gate the order is that of a queue. What a gate lets through is counted in memory, from
the hand-outs; what is on disk (the parked ones, paces, what the workers said) is enough to begin anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from heapq import heappop, heappush
from itertools import islice
from typing import NamedTuple

from emq_compat.broker.desk import Desk
from emq_compat.broker.queue import MessageQueue
from emq_compat.broker.queues import QueueSet
from emq_compat.broker.records import (
    SEQUENCE_MASK,
    InFlight,
    Moment,
    StoredMessage,
    Waiting,
    marked,
    priority_of,
    queue_of,
)
from emq_compat.broker.windows import WINDOW_MESSAGES
from emq_compat.message import Headers
from emq_compat.rate import SLACK_S, TokenBucket
from emq_compat.terms import NOTHING_SHARED, Share, Shares

__all__ = ["FOLLOWS", "Gate", "Gates", "named"]

#: First letters of gates: places for a key, for a task; a pace for a key, for a task.
_SLOTS, _TASK_SLOTS, _PACE, _TASK_PACE = "s", "S", "p", "P"
#: That of what waits for another message's end (locks.py): such a gate never opens by itself.
FOLLOWS = "f"

#: Gates that are looked at in one go.
AT_ONCE = 1000


class Gate(NamedTuple):
    """A gate as a message meets it: ``slots`` of them run at once, or one passes every ``pace_s`` seconds."""

    name: str
    slots: int = 0
    pace_s: float = 0.0


def named(gate: str) -> dict[str, str]:
    """Return a gate for people: its ``kind``, what it is ``of``, and the ``key`` or task."""
    kind = "places" if gate[0] in (_SLOTS, _TASK_SLOTS) else "pace"
    return {"kind": kind, "of": "key" if gate[0] in (_SLOTS, _PACE) else "task", "key": gate[1:]}


class Gates:
    """All gates of a broker.

    Attributes:
        shares: task name → what the workers said of it last.
        running: gate → hand-outs that have a place of it.
        parked: gate → home (queue and priority) → how many are parked there.
    """

    def __init__(self, desk: Desk, queues: QueueSet, now: Moment) -> None:
        self._journal = desk.journal
        self._queues = queues
        self.shares: dict[str, Shares] = self._journal.shares()
        self.running: dict[str, int] = {}
        self.parked: dict[str, dict[int, int]] = {}
        #: gate → home → messages in the queue that are to pass it. Too few are harmless: what is let in
        #: and can't pass is parked again. Too many would keep parked ones waiting: see ``sweep``.
        self._let_in: dict[str, dict[int, int]] = {}
        #: gates at which something has changed.
        self._opened: dict[str, None] = {}
        self._buckets: dict[str, TokenBucket] = {}
        #: (monotonic time, gate): when a pace lets the next one pass; of gates where something is parked.
        self._wakes: list[tuple[float, str]] = []
        self._waking: set[str] = set()
        for gate, home, n in self._journal.parked_counts():
            if gate[0] != FOLLOWS:
                self._count(gate, home, n)
                self._opened[gate] = None
        for gate, next_at in self._journal.paces(now.wall):
            bucket = self._buckets[gate] = TokenBucket(1.0)
            bucket.next_at = now.mono + next_at - now.wall

    # What the workers say

    def tell(self, tasks: Iterable[str], shares: Mapping[str, Shares], flights: Iterable[InFlight]) -> None:
        """Take over what a worker says of its tasks, also of those that share nothing (any more).

        Args:
            flights: all hand-outs; they are counted anew.
        """
        changed = set()
        for task in tasks:
            told = shares.get(task)
            if told == self.shares.get(task):
                continue
            changed.add(task)
            if told is None:
                del self.shares[task]
                self._journal.drop_shares(task)
            else:
                self.shares[task] = told
                self._journal.put_shares(task, told)
        if not changed:
            return
        self._opened.update(dict.fromkeys(self.parked))
        self._let_in.clear()
        for flight in flights:
            if flight.headers.task in changed:
                if flight.gate:
                    self.leave(flight.gate)
                flight.gate = self.occupy(flight.headers)

    def concern(self, headers: Headers) -> bool:
        """Tell whether there are gates for a message; the hot paths ask the same in place."""
        return bool(headers.slots or headers.pace or headers.task in self.shares)

    def of(self, headers: Headers) -> tuple[Gate, ...]:
        """Return the gates that a message has to pass."""
        if headers.concludes:
            return ()
        share = self.shares.get(headers.task) or NOTHING_SHARED
        found = []
        if headers.slots:
            own = Share.decode(headers.slots)
            slots = own.number or (share.slots if share.slots_by_key else 0) or 1
            found.append(Gate(_SLOTS + own.key, slots=max(1, int(slots))))
        elif share.slots and not share.slots_by_key:
            found.append(Gate(_TASK_SLOTS + headers.task, slots=share.slots))
        if headers.pace:
            own = Share.decode(headers.pace)
            if pace_s := own.number or (share.pace_s if share.pace_by_key else 0.0):
                found.append(Gate(_PACE + own.key, pace_s=pace_s))
        elif share.pace_s and not share.pace_by_key:
            found.append(Gate(_TASK_PACE + headers.task, pace_s=share.pace_s))
        return tuple(found)

    # What is told

    def opens_at(self, gate: str) -> float | None:
        """Return the monotonic time at which a pace lets the next one pass; None: now, or it has no pace."""
        bucket = self._buckets.get(gate)
        return None if bucket is None else bucket.next_at

    def told(self, name: str, headers: Headers, now: Moment) -> str:
        """Return in words why a gate doesn't let a message through."""
        parked = sum(self.parked.get(name, {}).values())
        gate = next((gate for gate in self.of(headers) if gate.name == name), None)
        about = "{kind} of the {of} {key!r}".format(**named(name))
        if gate is None:
            return f"{about} don't hold it back any more"
        if gate.slots:
            running = self.running.get(name, 0)
            return f"{about}: {running} of {gate.slots} run, {parked} are parked"
        opens_s = max(0.0, (self.opens_at(name) or now.mono) - now.mono)
        return f"{about}: one every {gate.pace_s:g} s, the next in {opens_s:.1f} s, {parked} are parked"

    # Who may pass

    def _free(self, gate: Gate, now: Moment) -> int:
        """Return how many may pass a gate now."""
        if gate.slots:
            return gate.slots - self.running.get(gate.name, 0)
        bucket = self._buckets.get(gate.name)
        if bucket is None:
            return 1 + int(SLACK_S / gate.pace_s)
        # The pace is a faster one now, or the clock was put back while the broker was down.
        bucket.next_at = min(bucket.next_at, now.mono + gate.pace_s)
        if bucket.next_at > now.mono:
            return 0
        return 1 + int((now.mono - max(bucket.next_at, now.mono - SLACK_S)) / gate.pace_s)

    def shut(self, headers: Headers, now: Moment) -> str | None:
        """Return the gate that doesn't let a message through whose turn it is; None: it may be handed out."""
        for gate in self.of(headers):
            if self._free(gate, now) < 1:
                return gate.name
        return None

    def full(self, headers: Headers, home: int, now: Moment) -> str | None:
        """Return the gate at which a new message is to be parked; None: it goes into its queue."""
        for gate in self.of(headers):
            if home in self.parked.get(gate.name, ()):
                return gate.name
            if self._ahead(gate.name, home) >= self._free(gate, now):
                return gate.name
        return None

    def _ahead(self, gate: str, home: int) -> int:
        """Return how many messages are in this home's queue, of its priority or a higher one, for a gate."""
        homes = self._let_in.get(gate)
        if homes is None:
            return 0
        queue_id = queue_of(home)
        return sum(n for other, n in homes.items() if other <= home and queue_of(other) == queue_id)

    # What becomes of a message; of such that ``concern`` tells

    def park_new(
        self, sequence: int, home: int, gate: str, msgid: str, headers: Headers, text: str, payload: bytes
    ) -> None:
        """Take in a new message that can't pass."""
        self._journal.add_parked(sequence, home, gate, msgid, text, payload, marked(headers))
        self._count(gate, home, 1)
        self._wake(gate)

    def park(self, message: Waiting, gate: str) -> None:
        """Park a message that was taken from its queue."""
        self.gone(message.key, message.headers)
        sequence = message.key & SEQUENCE_MASK
        self.park_stored(message.key, sequence, message.key - sequence, gate)
        self._wake(gate)

    def park_stored(self, key: int, sequence: int, home: int, gate: str) -> None:
        """Park a message that is on disk under another key."""
        self._journal.move(key, sequence, home, gate)
        self._count(gate, home, 1)

    def entered(self, key: int, headers: Headers) -> None:
        """Note that a message is in its queue."""
        home = key & ~SEQUENCE_MASK
        for gate in self.of(headers):
            homes = self._let_in.setdefault(gate.name, {})
            homes[home] = homes.get(home, 0) + 1

    def gone(self, key: int, headers: Headers) -> None:
        """Note that a message has left its queue and is not handed out."""
        for gate in self._left(key, headers):
            if gate.name in self.parked:
                self._opened[gate.name] = None

    def _left(self, key: int, headers: Headers) -> tuple[Gate, ...]:
        home, gates = key & ~SEQUENCE_MASK, self.of(headers)
        for gate in gates:
            homes = self._let_in.get(gate.name)
            if homes is not None and home in homes:
                homes[home] -= 1
                if not homes[home]:
                    del homes[home]
                if not homes:
                    del self._let_in[gate.name]
        return gates

    def passed(self, key: int, headers: Headers, now: Moment) -> str:
        """Note that a message of a queue is handed out; returns the gate of which it has a place, or ''."""
        gates = self._left(key, headers)
        for gate in gates:
            if gate.pace_s:
                bucket = self._buckets.setdefault(gate.name, TokenBucket(gate.pace_s))
                bucket.interval_s = gate.pace_s
                bucket.take(now.mono)
                self._journal.put_pace(gate.name, now.wall + bucket.next_at - now.mono)
                self._wake(gate.name)
        return self.occupy(headers)

    def occupy(self, headers: Headers) -> str:
        """Count a hand-out; returns the gate of which it has a place, or ''."""
        for gate in self.of(headers):
            if gate.slots:
                self.running[gate.name] = self.running.get(gate.name, 0) + 1
                return gate.name
        return ""

    def leave(self, gate: str) -> None:
        """Note that a hand-out has ended that had a place."""
        left = self.running.get(gate, 0) - 1
        if left > 0:
            self.running[gate] = left
        else:
            self.running.pop(gate, None)
        if gate in self.parked:
            self._opened[gate] = None

    def withdrawn(self, gate: str, home: int) -> None:
        """Note that a parked message has ended."""
        self._count(gate, home, -1)

    def purged(self, queue_id: int) -> None:
        """Note that a queue is empty, and that nothing of it is parked any more."""
        for gate in list(self.parked):
            for home, n in list(self.parked[gate].items()):
                if queue_of(home) == queue_id:
                    self._count(gate, home, -n)
        for gate, homes in list(self._let_in.items()):
            for home in [home for home in homes if queue_of(home) == queue_id]:
                del homes[home]
            if not homes:
                del self._let_in[gate]

    def _count(self, gate: str, home: int, n: int) -> None:
        homes = self.parked.setdefault(gate, {})
        homes[home] = homes.get(home, 0) + n
        if homes[home] <= 0:
            del homes[home]
        if not homes:
            del self.parked[gate]
        self._queues.by_id[queue_of(home)].parked += n

    # Opening

    def _wake(self, gate: str) -> None:
        """Look at a gate with a pace again when it lets the next one pass."""
        bucket = self._buckets.get(gate)
        if bucket is not None and gate not in self._waking and gate in self.parked:
            self._waking.add(gate)
            heappush(self._wakes, (bucket.next_at, gate))

    def next_at(self) -> float:
        """Return the monotonic time at which ``open`` must be called though nothing has happened."""
        return self._wakes[0][0] if self._wakes else math.inf

    def opened(self, now: Moment) -> bool:
        """Tell whether ``open`` may find something to let in."""
        return bool(self._opened) or self.next_at() <= now.mono

    def open(self, now: Moment) -> None:
        """Let into their queues what can pass now."""
        while self._wakes and self._wakes[0][0] <= now.mono:
            gate = heappop(self._wakes)[1]
            self._waking.discard(gate)
            self._opened[gate] = None
        if not self._opened:
            return
        opened = list(islice(self._opened, AT_ONCE))
        for gate in opened:
            del self._opened[gate]
        # First all is read, then written: a read makes the journal write what it has collected.
        let_in = [
            (gate, home, row)
            for gate in opened
            if gate in self.parked
            for home, row in self._passing(gate, now)
        ]
        for gate, home, row in let_in:
            self._let(row, gate, home)

    def _passing(self, name: str, now: Moment) -> list[tuple[int, StoredMessage]]:
        """Return (home, message) of what is to be let in at a gate."""
        found: list[tuple[int, StoredMessage]] = []
        queue_id, given = -1, 0
        for home, count in sorted(self.parked[name].items()):
            if queue_of(home) != queue_id:
                queue_id, given = queue_of(home), 0
            rows = self._journal.parked(name, home, 1)
            if not rows:
                continue
            headers = Headers.decode(rows[0].header_text)
            gate = next((gate for gate in self.of(headers) if gate.name == name), None)
            if gate is None:
                self._let_all(name, home)
                continue
            free = self._free(gate, now)
            n = min(free, WINDOW_MESSAGES) - self._ahead(name, home) - given
            if n > 0:
                n = min(n, count)
                found += [(home, row) for row in (rows if n == 1 else self._journal.parked(name, home, n))]
                given += n
            elif free < 1:
                self._wake(name)
        return found

    def _let_all(self, gate: str, home: int) -> None:
        """Let in what is parked at a gate that is none any more, some at a time."""
        n = self._journal.let_all(gate, home, WINDOW_MESSAGES)
        self._count(gate, home, -n)
        self._queues.by_id[queue_of(home)].reload(priority_of(home), n)
        if gate in self.parked:
            self._opened[gate] = None

    def _let(self, row: StoredMessage, gate: str, home: int) -> None:
        key = home | row.key
        headers = Headers.decode(row.header_text)
        self._journal.move(row.key, key, None, None)
        self._count(gate, home, -1)
        queue: MessageQueue = self._queues.by_id[queue_of(home)]
        queue.reinstate(
            Waiting(key, row.msgid, headers, row.header_text, row.payload, row.attempt, row.losses)
        )
        self.entered(key, headers)

    def sweep(self, now: Moment) -> None:
        """Forget paces that are over; look at gates that nothing is about to open."""
        over = now.mono - SLACK_S
        for gate in [gate for gate, bucket in self._buckets.items() if bucket.next_at <= over]:
            del self._buckets[gate]
        self._journal.drop_paces(now.wall)
        for gate in self.parked:
            if gate not in self.running and gate not in self._let_in and gate not in self._waking:
                self._opened[gate] = None
