"""A queue: in memory a window on it, on disk the rest.

It hands out by priority (9 first), then by age. Of each priority the oldest messages are in memory, in a
deque; where there are more than the window holds, ``more`` is set and they are read on when the deque runs
empty. So memory is bounded by the windows, whatever the backlog.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from itertools import islice
from typing import TypeAlias

from emq_compat.broker.journal import Journal
from emq_compat.broker.records import RANKS, SEQUENCE_MASK, StoredMessage, Waiting, home_key, marked
from emq_compat.broker.windows import ENTRY_BYTES, WINDOW_MESSAGES, Rank, WindowBudget
from emq_compat.message import Headers

__all__ = ["Marks", "MessageQueue"]

#: What a queue hands out first is less: minus the priority, then the key.
_Order: TypeAlias = tuple[int, int]


def _order(message: Waiting) -> _Order:
    return -message.headers.priority, message.key


def _key(message: Waiting) -> int:
    return message.key


class Marks:
    """Which queues need a look, so that nobody looks at all of them; each queue says so itself.

    Attributes:
        busy: those that may have something to hand out.
        paused: those that may, and must not until an operator says so.
        touched: those whose counts may differ from what is on disk.
    """

    __slots__ = ("busy", "paused", "touched")

    def __init__(self) -> None:
        self.busy: set[MessageQueue] = set()
        self.paused: set[MessageQueue] = set()
        self.touched: set[MessageQueue] = set()


class MessageQueue:
    """One queue's waiting messages.

    Args:
        marks: where it says that it needs a look.
        skip: tells whether a key that is read from disk is handed out at the moment.
        on_disk: there may be messages on disk already (after a start).
    """

    __slots__ = (
        "_budget",
        "_busy",
        "_journal",
        "_marks",
        "_nonempty",
        "_ranks",
        "_skip",
        "_touched",
        "blocked",
        "stored",
        "delayed",
        "handed_out",
        "held",
        "id",
        "name",
        "parked",
        "ttl_s",
        "waiting",
    )

    def __init__(
        self,
        queue_id: int,
        name: str,
        journal: Journal,
        budget: WindowBudget,
        marks: Marks,
        skip: Callable[[int], bool],
        *,
        waiting: int = 0,
        delayed: int = 0,
        on_disk: bool = False,
    ) -> None:
        self.id = queue_id
        self.name = name
        self._journal = journal
        self._budget = budget
        self._skip = skip
        #: how many wait (not handed out, not delayed), and how many wait for their time.
        self.waiting = waiting
        self.delayed = delayed
        #: how many are held for it until their chord is complete, or another message has ended.
        self.held = 0
        #: how many are parked at a gate.
        self.parked = 0
        #: seconds that a message may wait here; None: without end.
        self.ttl_s: float | None = None
        #: hand-outs since the start.
        self.handed_out = 0
        self._marks = marks
        #: where it stands if it may have something to hand out.
        self._busy = marks.busy
        self._touched = marks.touched
        #: (waiting, delayed) as the journal has them.
        self.stored = (waiting, delayed)
        #: messages whose task no worker that asked for this queue may have: task name → a heap of them.
        self.blocked: dict[str, list[tuple[_Order, Waiting]]] = {}
        self._ranks = [Rank(home_key(queue_id, RANKS - 1 - r)) for r in range(RANKS)]
        #: indexes of ranks that may have messages, ascending (highest priority first).
        self._nonempty: list[int] = []
        if on_disk:
            for rank in self._ranks:
                rank.more = True
            self._nonempty = list(range(RANKS))
            marks.busy.add(self)

    def append(
        self,
        sequence: int,
        msgid: str,
        headers: Headers,
        header_text: str,
        payload: bytes,
        *,
        stored: bool = False,
    ) -> None:
        """Add a message, on disk (unless it is ``stored``) and, if the window has room, in memory."""
        index = RANKS - 1 - headers.priority
        rank = self._ranks[index]
        key = rank.home | sequence
        if not stored:
            self._journal.add_message(key, msgid, header_text, payload, marked(headers))
        self.waiting += 1
        self._touched.add(self)
        budget = self._budget
        if not rank.more and (
            not rank.window
            or (len(rank.window) < WINDOW_MESSAGES and budget.used + len(payload) <= budget.limit)
        ):
            rank.window.append(Waiting(key, msgid, headers, header_text, payload))
            rank.first = key
            budget.used += len(payload) + ENTRY_BYTES
        else:
            rank.more = True
        self._note(index)

    def arrive(self, priority: int, sequence: int) -> int:
        """Return the key of a message that comes from another queue, behind all others of its priority."""
        index = RANKS - 1 - priority
        rank = self._ranks[index]
        rank.more = True
        self.waiting += 1
        self._touched.add(self)
        self._note(index)
        return rank.home | sequence

    def delay(self, priority: int) -> int:
        """Return the home of a message that comes from another queue and waits for its time."""
        self.delayed += 1
        self._touched.add(self)
        return self._ranks[RANKS - 1 - priority].home

    def arrived(self, priority: int) -> None:
        """Note that a message of this priority has been put on disk behind all others (it has become due)."""
        index = RANKS - 1 - priority
        self._ranks[index].more = True
        self.waiting += 1
        self.delayed -= 1
        self._touched.add(self)
        self._note(index)

    def put_back(self, messages: Iterable[Waiting]) -> None:
        """Put messages that had been handed out, or taken, back in their old places (before younger ones)."""
        touched: dict[int, list[Waiting]] = {}
        for message in messages:
            touched.setdefault(RANKS - 1 - message.headers.priority, []).append(message)
            self.waiting += 1
            self._budget.used += len(message.payload) + ENTRY_BYTES
        for index, returned in touched.items():
            window = self._ranks[index].window
            returned.sort(key=lambda m: m.key)
            if window and window[0].key < returned[-1].key:
                merged = sorted([*window, *returned], key=lambda m: m.key)
                window.clear()
                window.extend(merged)
            else:
                window.extendleft(reversed(returned))
            self._note(index)
        self._touched.add(self)

    def reinstate(self, message: Waiting) -> None:
        """Let a message, which is on disk, into the place that its key gives it."""
        index = RANKS - 1 - message.headers.priority
        rank = self._ranks[index]
        window, key = rank.window, message.key
        self.waiting += 1
        self._touched.add(self)
        self._note(index)
        if key > rank.first:
            if rank.more:
                return  # it will be read with those around it
            rank.first = key
            window.append(message)
        elif not window or key < window[0].key:
            window.appendleft(message)
        else:
            window.insert(bisect_left(window, key, key=_key), message)
        self._budget.used += len(message.payload) + ENTRY_BYTES

    def reload(self, priority: int, more: int) -> None:
        """Note that so many messages of this priority were put on disk in their old places."""
        self.release()
        index = RANKS - 1 - priority
        rank = self._ranks[index]
        self._budget.used -= sum(len(message.payload) + ENTRY_BYTES for message in rank.window)
        rank.window.clear()
        rank.first, rank.more = rank.home, True
        self.waiting += more
        self._touched.add(self)
        self._note(index)

    def pop(self) -> Waiting | None:
        """Take the next message (it stays on disk); None: nothing waits."""
        while self._nonempty:
            rank = self._ranks[self._nonempty[0]]
            if not rank.window and rank.more:
                self._read_on(rank)
            if rank.window:
                message = rank.window.popleft()
                self._budget.used -= len(message.payload) + ENTRY_BYTES
                self.waiting -= 1
                self._touched.add(self)
                if not rank.window and not rank.more:
                    self._nonempty.pop(0)
                    if not self._nonempty:
                        self._rest()
                return message
            self._nonempty.pop(0)
        self._rest()
        return None

    def _rest(self) -> None:
        """Need no look any more, unless something is set aside here."""
        if not self.blocked:
            self._busy.discard(self)

    def take(self, key: int, priority: int) -> bool:
        """Take out a message that was put back (it stays on disk); False: it is not here any more."""
        self.release()
        window = self._ranks[RANKS - 1 - priority].window
        message = next((waiting for waiting in window if waiting.key == key), None)
        if message is None:
            return False
        window.remove(message)
        self._budget.used -= len(message.payload) + ENTRY_BYTES
        self.waiting -= 1
        self._touched.add(self)
        return True

    def withdraw(self, key: int, priority: int) -> None:
        """Take out a message that waits here, in memory or on disk only; the caller deletes it there."""
        if not self.take(key, priority):
            self.waiting -= 1
            self._touched.add(self)

    def set_aside(self, message: Waiting) -> None:
        """Keep a popped message until a worker that may have its task asks."""
        self._busy.add(self)
        heappush(self.blocked.setdefault(message.headers.task, []), (_order(message), message))
        self._budget.used += len(message.payload) + ENTRY_BYTES
        self.waiting += 1

    @property
    def paused(self) -> bool:
        """Whether nothing is handed out of it until an operator says so."""
        return self._busy is self._marks.paused

    def pause(self, *, paused: bool) -> None:
        """Hand nothing out, or go on."""
        waits = self in self._busy
        self._busy.discard(self)
        self._busy = self._marks.paused if paused else self._marks.busy
        if waits:
            self._busy.add(self)

    @property
    def total(self) -> int:
        """How many wait, in whatever way, but those that are held."""
        return self.waiting + self.delayed + self.parked

    @property
    def aside(self) -> int:
        """How many messages are set aside."""
        return sum(map(len, self.blocked.values()))

    def first_aside(self, may_have: Callable[[str], bool]) -> str | None:
        """Return the task, of those that may be had, whose set-aside message is the queue's next one.

        None: there is none, or a message that isn't set aside comes before it.
        """
        heads = ((heap[0][0], task) for task, heap in self.blocked.items() if may_have(task))
        first = min(heads, default=None)
        if first is None:
            return None
        ahead = self._peek()
        return first[1] if ahead is None or first[0] < _order(ahead) else None

    def _peek(self) -> Waiting | None:
        """Return what ``pop`` would take."""
        while self._nonempty:
            rank = self._ranks[self._nonempty[0]]
            if not rank.window and rank.more:
                self._read_on(rank)
            if rank.window:
                return rank.window[0]
            self._nonempty.pop(0)
        return None

    def oldest(self) -> tuple[int, str] | None:
        """Return the sequence number and msgid of what has waited longest (of what is set aside, of each task
        what is next); None: nothing waits.
        """
        found = [(heap[0][1].key, heap[0][1].msgid) for heap in self.blocked.values()]
        for index in list(self._nonempty) if self.waiting else ():
            rank = self._ranks[index]
            if rank.window:
                found.append((rank.window[0].key, rank.window[0].msgid))
            elif rank.more:
                rows = self._journal.read_messages(rank.first, rank.last, WINDOW_MESSAGES)
                first = next((row for row in rows if not self._skip(row.key)), None)
                if first is not None:
                    found.append((first.key, first.msgid))
        return min(((key & SEQUENCE_MASK, msgid) for key, msgid in found), default=None)

    def front(self, most: int) -> list[Waiting | StoredMessage]:
        """Return some of those that are handed out next, at most so many; they stay where they are."""
        found: list[Waiting | StoredMessage] = []
        for index in self._nonempty:
            rank, room = self._ranks[index], most - len(found)
            if room <= 0:
                break
            if rank.window:
                found += islice(rank.window, room)
            elif rank.more:
                rows = self._journal.read_messages(rank.first, rank.last, room)
                found += (row for row in rows if not self._skip(row.key))
        return found

    def pop_set_aside(self, task: str) -> Waiting:
        """Take the first message that was set aside for ``task``."""
        messages = self.blocked[task]
        message = heappop(messages)[1]
        if not messages:
            del self.blocked[task]
        self._budget.used -= len(message.payload) + ENTRY_BYTES
        self.waiting -= 1
        self._touched.add(self)
        return message

    def release(self) -> None:
        """Put everything that was set aside back in its place."""
        blocked, self.blocked = self.blocked, {}
        for heap in blocked.values():
            messages = [message for _, message in heap]
            for message in messages:
                self._budget.used -= len(message.payload) + ENTRY_BYTES
                self.waiting -= 1
            self.put_back(messages)

    def clear(self) -> None:
        """Forget what is in memory (the journal has purged the queue)."""
        for rank in self._ranks:
            self._budget.used -= sum(len(m.payload) + ENTRY_BYTES for m in rank.window)
            rank.window.clear()
            rank.more = False
        for heap in self.blocked.values():
            self._budget.used -= sum(len(m.payload) + ENTRY_BYTES for _, m in heap)
        self.blocked.clear()
        self._nonempty.clear()
        self.waiting = self.delayed = 0
        self._touched.add(self)

    @property
    def empty(self) -> bool:
        """Whether nothing can be popped, as far as known without reading."""
        return not self._nonempty

    def touch(self) -> None:
        """Note that a count was changed from outside."""
        self._touched.add(self)

    def _note(self, index: int) -> None:
        self._busy.add(self)
        nonempty = self._nonempty
        if index not in nonempty:
            nonempty.append(index)
            nonempty.sort()

    def _read_on(self, rank: Rank) -> None:
        """Fill the rank's window from disk; at least one message, if there is one."""
        budget = self._budget
        while rank.more and not rank.window:
            n = 0
            for row in self._journal.read_messages(rank.first, rank.last, WINDOW_MESSAGES):
                n += 1
                rank.first = row.key
                if self._skip(row.key):
                    continue
                headers = Headers.decode(row.header_text)
                rank.window.append(
                    Waiting(
                        row.key, row.msgid, headers, row.header_text, row.payload, row.attempt, row.losses
                    )
                )
                budget.used += len(row.payload) + ENTRY_BYTES
                if budget.used >= budget.limit:
                    return
            rank.more = n == WINDOW_MESSAGES
