"""What the pools that run work in this very process (threads, solo) have in common.

Nothing can kill a thread. At a hard limit, or when told to terminate, an exception is raised in the work;
whether or not it gets through, the assignment is Lost and a result that comes later is dropped. A thread that
sits in a blocking call outlives its slot: slots are daemon threads, and a process that wants to end though
one is stuck must use ``os._exit``.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Sequence

from emq_compat.message import Reply
from emq_compat.pool import stacks
from emq_compat.pool.base import (
    Assignment,
    Begun,
    Finished,
    Key,
    LossReason,
    Lost,
    Pool,
    PoolEvent,
    PoolOptions,
    Updated,
    Work,
)
from emq_compat.pool.slot import Done, Given, Slot, Stopped, Told

__all__ = ["InProcessPool"]

#: An interruption that may not have come through is repeated, after ever longer pauses.
_REPEAT_S, _REPEAT_MAX_S = 0.02, 5.0


class InProcessPool(Pool):
    """Slots of this process; a subclass makes them and says what becomes of one that is given up."""

    def __init__(self, options: PoolOptions, work: Work) -> None:
        self._options = options
        self._work = work
        self._pid = os.getpid()
        self._target = options.concurrency
        #: How many may wait behind a running one.
        self._reserve = options.reserve_per_child
        self._slots: list[Slot] = []
        self._idle: list[Slot] = []
        self._homeless: deque[Given] = deque()
        self._pending: list[PoolEvent] = []
        self._posted: deque[Done | Told] = deque()
        self._woken = False
        self._closed = False
        self._started = False

    def start(self) -> None:
        """Run ``child_init`` and make the slots."""
        self._pid = os.getpid()
        self._wake = _Wake()
        self._fds = (self._wake.fileno(),)
        self._started = True
        if self._options.child_init is not None:
            self._options.child_init()
        for _ in range(self._target):
            self._add_slot()

    @abstractmethod
    def _make_slot(self) -> Slot:
        """Return a new slot, running."""

    @abstractmethod
    def _give_up(self, slot: Slot) -> None:
        """The slot's running assignment is Lost: go on without it."""

    def _add_slot(self) -> None:
        slot = self._make_slot()
        self._slots.append(slot)
        self._idle.append(slot)

    def _post(self, posted: Done | Told) -> None:
        # Called by slots. The flag saves a system call; it is cleared before the queue is emptied, so whoever
        # appends later wakes the loop again.
        self._posted.append(posted)
        if not self._woken:
            self._woken = True
            self._wake.set()

    @property
    def concurrency(self) -> int:
        """How many assignments run at once now."""
        return self._target

    @property
    def reserve_per_slot(self) -> int:
        """How many may wait behind the running one."""
        return self._reserve

    def idle(self) -> int:
        """How many further assignments could begin at once."""
        return max(0, len(self._idle) - len(self._homeless))

    def submit(self, assignment: Assignment, *, reserve: bool = False) -> bool:
        """Give it to an idle slot or, with ``reserve``, queue it behind the least loaded one's."""
        if self._closed:
            return False
        if self._idle:
            self._give(self._idle[-1], Given(assignment), time.monotonic())
            return True
        if not reserve:
            return False
        # When one that was given up lets go, nobody knows: nothing waits for that.
        busy = [slot for slot in self._slots if not (slot.retiring or slot.given[0].given_up)]
        slot = min(busy, key=lambda slot: len(slot.given), default=None)
        if slot is None or len(slot.given) > self._reserve:
            return False
        self._give(slot, Given(assignment), time.monotonic())
        return True

    def _give(self, slot: Slot, given: Given, now: float) -> None:
        if slot.given:
            slot.give(given)
            return
        self._idle.remove(slot)
        self._begin(slot, given, now)
        slot.give(given)

    def _begin(self, slot: Slot, given: Given, now: float) -> None:
        given.began = now
        soft, hard = given.assignment.soft_limit_s, given.assignment.limit_s
        slot.soft_at = math.inf if soft is None else now + soft
        slot.hard_at = math.inf if hard is None else now + hard
        slot.stop_at = math.inf
        slot.repeat_s = _REPEAT_S
        self._pending.append(Begun(key=given.key, pid=self._pid))

    def take_back(self) -> list[Assignment]:
        """Take back all that waits."""
        taken = list(self._homeless)
        self._homeless.clear()
        for slot in self._slots:
            if len(slot.given) > 1:
                taken += slot.withdraw()
        return [given.assignment for given in taken]

    def overrun(self, after_s: float, now: float) -> list[Assignment]:
        """Take back what waits behind an assignment that began ``after_s`` ago or earlier, or for a slot."""
        taken = list(self._homeless)
        self._homeless.clear()
        for slot in self._slots:
            if len(slot.given) > 1:
                began = slot.given[0].began
                if began is not None and now - began >= after_s:
                    taken += slot.withdraw()
        return [given.assignment for given in taken]

    def running(self) -> dict[Key, tuple[int, float]]:
        """Return what has begun; a lost one that still sits in its slot is no longer among it."""
        return {
            first.key: (self._pid, first.began)
            for slot in self._slots
            if slot.given and (first := slot.given[0]).began is not None and not _told_lost(first)
        }

    def fds(self) -> Sequence[int]:
        """Return the descriptor by which slots wake the loop."""
        return self._fds

    def next_deadline(self) -> float | None:
        """Return when ``step`` is due: at once if there's something to tell."""
        if self._pending:
            return 0.0
        due = min((min(slot.soft_at, slot.hard_at, slot.stop_at) for slot in self._slots), default=math.inf)
        return None if due == math.inf else due

    def step(self, readable: Sequence[int], now: float) -> list[PoolEvent]:
        """Take in what slots have posted and keep limits."""
        if readable:
            self._wake.clear()
        self._take_in(now)
        for slot in tuple(self._slots):
            if slot.hard_at <= now:
                self._end(slot, "time-limit", now)
            elif slot.soft_at <= now:
                done = slot.interrupt(slot.given[0], self._options.soft_limit_exceeded)
                slot.soft_at = math.inf if done else self._repeat(slot, now)
            if slot.stop_at <= now:
                slot.stop_at = math.inf if slot.interrupt(slot.given[0], Stopped) else self._repeat(slot, now)
        self._rehome(now)
        events, self._pending = self._pending, []
        return events

    def _repeat(self, slot: Slot, now: float) -> float:
        at = now + slot.repeat_s
        slot.repeat_s = min(slot.repeat_s * 2, _REPEAT_MAX_S)
        return at

    def _take_in(self, now: float) -> None:
        self._woken = False
        posted = self._posted
        while posted:
            post = posted.popleft()
            if isinstance(post, Told):
                if not _told_lost(post.given):
                    self._pending.append(Updated(key=post.given.key, state=post.state, body=post.body))
            else:
                self._on_done(post, now)

    def _on_done(self, done: Done, now: float) -> None:
        slot, given, result = done.slot, done.given, done.result
        if slot.abandoned:
            return
        slot.given.popleft()
        slot.soft_at = slot.hard_at = slot.stop_at = math.inf
        if given.given_up == "terminated":  # told now: not before had it really ended
            self._lose(given, "terminated", "terminated")
        elif given.given_up is None:
            if isinstance(result, Reply):
                finished = Finished(key=given.key, reply=result, pid=self._pid, runtime_s=done.runtime_s)
                self._pending.append(finished)
            else:
                soft = isinstance(result, self._options.soft_limit_exceeded) and _soft_limit_over(given, now)
                self._lose(given, "time-limit" if soft else "died", _repr(result))
        if slot.given:
            self._begin(slot, slot.given[0], now)
        elif slot.retiring:
            self._slots.remove(slot)
        else:
            self._idle.append(slot)

    def _lose(self, given: Given, reason: LossReason, detail: str) -> None:
        self._pending.append(Lost(key=given.key, reason=reason, detail=detail, pid=self._pid))

    def _rehome(self, now: float) -> None:
        while self._homeless and self._idle:
            self._give(self._idle[-1], self._homeless.popleft(), now)

    def _end(self, slot: Slot, reason: LossReason, now: float) -> None:
        """Tell the loss of what the slot runs, and go on without it."""
        given = slot.given[0]
        self._homeless.extendleft(reversed(slot.withdraw()))
        slot.soft_at = slot.hard_at = slot.stop_at = math.inf
        given.given_up = reason
        self._lose(given, reason, _DETAILS[reason])
        if not slot.interrupt(given, Stopped):
            slot.stop_at = self._repeat(slot, now)
        self._give_up(slot)

    def _running_slot(self, key: Key) -> Slot | None:
        self._take_in(time.monotonic())  # it may have ended
        for slot in self._slots:
            if slot.given and slot.given[0].key == key and slot.given[0].given_up is None:
                return slot
        return None

    def pids(self) -> list[int]:
        """Return this process."""
        return [self._pid]

    def shrink(self, n: int = 1) -> None:
        """Remove n slots, idle ones first; busy ones end their assignment first."""
        self._target = max(0, self._target - n)
        staying = sorted(
            (slot for slot in self._slots if not slot.retiring), key=lambda slot: len(slot.given)
        )
        for slot in staying[: max(0, len(staying) - self._target)]:
            if slot.given:
                self._homeless.extendleft(reversed(slot.withdraw()))
            else:
                self._idle.remove(slot)
                self._slots.remove(slot)
            slot.leave()

    def dump_stacks(self) -> str:
        """Return each slot's stack."""
        return stacks.of_threads({slot.ident: slot.name for slot in self._slots})

    def close(self) -> None:
        """Take no more assignments."""
        self._closed = True

    def stop(self, timeout_s: float) -> list[PoolEvent]:
        """Give up what runs, and wait for the others; ``take_back`` still returns what never began."""
        if not self._started:
            return []
        self._started, self._closed = False, True
        now = time.monotonic()
        self._take_in(now)
        for slot in tuple(self._slots):
            if slot.given:
                self._homeless.extendleft(reversed(slot.withdraw()))
                if slot.given[0].given_up is None:
                    self._end(slot, "stopped", now)
                elif slot.given[0].given_up == "terminated":
                    self._lose(slot.given[0], "terminated", _DETAILS["terminated"])
            slot.leave()
        self._join(now + timeout_s)
        if self._options.child_exit is not None:
            self._options.child_exit()
        self._wake.close()
        events, self._pending = self._pending, []
        return events

    @abstractmethod
    def _join(self, deadline: float) -> None:
        """Wait, until then at most, for the slots that are leaving."""


_DETAILS: dict[LossReason, str] = {
    "time-limit": "it ran longer than its time limit",
    "terminated": "terminated",
    "stopped": "the pool was stopped",
    "died": "",
}


def _told_lost(given: Given) -> bool:
    return given.given_up is not None and given.given_up != "terminated"


def _soft_limit_over(given: Given, now: float) -> bool:
    soft = given.assignment.soft_limit_s
    return soft is not None and given.began is not None and now - given.began >= soft


def _repr(exc: Reply | BaseException) -> str:
    try:
        return repr(exc)
    except Exception:  # noqa: BLE001 - user code
        return f"{type(exc).__name__} (its repr failed)"


class _Wake:
    """Wakes a poller from another thread: an eventfd, or a socket pair where there is none."""

    def __init__(self) -> None:
        self._pair: tuple[socket.socket, socket.socket] | None = None
        if hasattr(os, "eventfd"):
            self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._pair = socket.socketpair()
            for sock in self._pair:
                sock.setblocking(False)
            self._fd = self._pair[0].fileno()

    def fileno(self) -> int:
        return self._fd

    def set(self) -> None:
        # A slot that was abandoned may post after the pool is closed: nobody listens then.
        with contextlib.suppress(OSError, ValueError):
            if self._pair is None:
                os.eventfd_write(self._fd, 1)
            else:
                self._pair[1].send(b"\0")

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if self._pair is None:
                os.eventfd_read(self._fd)
            else:
                self._pair[0].recv(4096)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if self._pair is None:
            os.close(fd)
        else:
            for sock in self._pair:
                sock.close()
