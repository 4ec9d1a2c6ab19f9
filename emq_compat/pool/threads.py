"""The threads pool: each assignment runs in a thread of this process.

A coroutine runs in a loop that its thread keeps, and is interrupted where it awaits, at once; a plain
function is interrupted between two bytecodes.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
import time
from collections.abc import Callable
from contextvars import copy_context

from emq_compat.coroutines.base import running_in
from emq_compat.message import Reply
from emq_compat.pool.base import SOFTENS, Key, PoolOptions, Report, Work
from emq_compat.pool.inprocess import InProcessPool
from emq_compat.pool.slot import Given, Post, Slot, Stopped

__all__ = ["ThreadSlot", "ThreadsPool"]

_set_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_async_exc.argtypes = [ctypes.c_ulong, ctypes.py_object]
_set_async_exc.restype = ctypes.c_int
#: Turns of a loop within which the interpreter raises what was set.
_TURNS = 10


class ThreadSlot(Slot):
    """A thread. Exceptions are raised in it between two bytecodes, not while it sits in a blocking call."""

    def __init__(self, name: str, work: Work, post: Post) -> None:
        super().__init__(name)
        self._lock = threading.Lock()
        self._current: Given | None = None
        self._interrupted = False
        self._thread = threading.Thread(target=self.serve, args=(work, post), name=name, daemon=True)

    def start(self) -> None:
        """Start the thread, unless it has been."""
        if not self.ident:
            self._thread.start()
            assert self._thread.ident is not None
            self.ident = self._thread.ident

    def join(self, timeout_s: float) -> None:
        """Wait for the thread's end."""
        if self.ident:
            self._thread.join(timeout_s)

    def interrupt(self, given: Given, raised: type[BaseException]) -> bool:
        """Raise ``raised`` in the thread if it runs ``given`` now."""
        with self._lock:
            if self._current is not given:
                return False
            run = running_in(self.ident)
            if run is not None:
                run.interrupt(raised)
            else:
                self._interrupted = True
                _set_async_exc(self.ident, raised)
            return True

    def _run(self, work: Work, given: Given, report: Report) -> Reply | BaseException:
        result: Reply | BaseException
        try:
            with self._lock:
                self._current = given
                given_up = given.given_up is not None
            result = Stopped() if given_up else copy_context().run(work, given.assignment.delivery, report)
        except BaseException as exc:  # noqa: BLE001 - user code: whatever it raises, the thread goes on
            result = exc
        while True:
            try:
                with self._lock:
                    self._current = None
                    # What was set and has not come yet would hit the next assignment: it comes here. To take
                    # it back (a null pointer) would leave CPython 3.11 looking for it for ever: slower, and
                    # without end where a debugger or coverage traces.
                    for _ in range(_TURNS if self._interrupted else 0):
                        pass
                    self._interrupted = False
                return result
            except BaseException:  # noqa: BLE001, S112 - the interruption came just here: the work is over
                continue


class ThreadsPool(InProcessPool):
    """Threads of this process; one whose assignment is lost is abandoned, and another one takes its place."""

    name = "threads"

    def __init__(self, options: PoolOptions, work: Work) -> None:
        super().__init__(options, work)
        self._numbers = itertools.count(1)

    def run_loop(self, loop: Callable[[], int]) -> int:
        """Run the loop here."""
        return loop()

    def _make_slot(self) -> ThreadSlot:
        slot = ThreadSlot(f"emq-worker-{next(self._numbers)}", self._work, self._post)
        slot.start()
        return slot

    def _give_up(self, slot: Slot) -> None:
        slot.abandoned = True
        slot.leave()
        self._slots.remove(slot)
        if not self._closed and len(self._slots) < self._target:
            self._add_slot()

    def terminate(self, key: Key, signum: int | None = None) -> bool:
        """Raise an exception in its thread, and abandon the thread; SOFTENS only raises the soft limit's."""
        slot = self._running_slot(key)
        if slot is None:
            return False
        if signum == SOFTENS:
            slot.soft_at = time.monotonic()
            return True
        self._end(slot, "terminated", time.monotonic())
        return True

    def grow(self, n: int = 1) -> None:
        """Start n threads."""
        self._target += n
        for _ in range(n):
            self._add_slot()

    def _join(self, deadline: float) -> None:
        for slot in self._slots:
            assert isinstance(slot, ThreadSlot)
            slot.join(max(0.0, deadline - time.monotonic()))
