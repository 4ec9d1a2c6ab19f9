"""The solo pool: one assignment at a time, in the main thread; the loop runs in another one.

So heartbeats go on while a task runs, and a task may use what only the main thread can (signals, some GUI and
numeric libraries). A limit is raised in the task by a signal, which interrupts blocking calls too; it can't
be forced: after a hard limit the slot stays busy until the work really ends. When the loop has ended and the
work doesn't, the process is ended.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from types import FrameType

from emq_compat.coroutines.base import running_in
from emq_compat.errors import ConfigurationError
from emq_compat.message import Reply
from emq_compat.pool.base import SOFTENS, Key, PoolOptions, Report, Work
from emq_compat.pool.inprocess import InProcessPool
from emq_compat.pool.slot import Given, Slot, Stopped

__all__ = ["SoloPool"]

logger = logging.getLogger(__name__)

#: How long work that was cut off may take to end once the loop has ended.
_LETS_GO_S = 2.0

# USR1 is the job manager's; nobody else is likely to use this one.
_INTERRUPT_SIGNAL: int = signal.SIGRTMIN + 7 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2


class _MainThreadSlot(Slot):
    """The main thread."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._current: Given | None = None
        self._wanted: tuple[Given, type[BaseException]] | None = None
        self._raised: tuple[Given, type[BaseException]] | None = None

    def interrupt(self, given: Given, raised: type[BaseException]) -> bool:
        """Ask the main thread to raise; True once it did."""
        if self._raised == (given, raised):
            return True
        self._wanted = (given, raised)
        signal.pthread_kill(self.ident, _INTERRUPT_SIGNAL)
        return False

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        """Raise what is wanted if it's meant for what runs, and only inside the work.

        In the narrow frames around it an exception would cost a result; the signal is repeated anyway.
        """
        wanted = self._wanted
        if (
            wanted is None
            or wanted[0] is not self._current
            or frame is None
            or frame.f_code in _AROUND_THE_WORK
        ):
            return
        self._wanted, self._raised = None, wanted
        run = running_in(self.ident)
        if run is not None and run.interrupt_here(wanted[1], frame):
            return
        raise wanted[1]()

    def _run(self, work: Work, given: Given, report: Report) -> Reply | BaseException:
        self._current = given
        try:
            if given.given_up is not None:
                return Stopped()
            return copy_context().run(work, given.assignment.delivery, report)
        except BaseException as exc:  # noqa: BLE001 - user code: whatever it raises, the slot goes on
            return exc
        finally:
            self._current = None


_AROUND_THE_WORK = frozenset({Slot.serve.__code__, _MainThreadSlot._run.__code__})


class SoloPool(InProcessPool):
    """One slot: the main thread, for as long as ``run_loop`` runs."""

    name = "solo"

    def __init__(self, options: PoolOptions, work: Work) -> None:
        super().__init__(options, work)
        self._target = 1
        self._slot = _MainThreadSlot("main thread")

    def run_loop(self, loop: Callable[[], int]) -> int:
        """Run the loop in a thread and assignments here, until the loop returns or raises.

        Work that the pool's ``stop`` cut off and that still runs when the loop has ended has a moment to
        end; if it goes on, it takes the whole process with it (exit status 1).

        Raises:
            ConfigurationError: this isn't the main thread.
        """
        if threading.current_thread() is not threading.main_thread():
            raise ConfigurationError("the solo pool runs tasks in the main thread, and this is another one")
        self._slot.ident = threading.get_ident()
        before = signal.signal(_INTERRUPT_SIGNAL, self._slot.on_signal)
        results: list[int] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(loop())
            except BaseException as exc:  # noqa: BLE001 - raised again in the main thread
                errors.append(exc)
            finally:
                self._slot.leave()
                if not served.wait(_LETS_GO_S):
                    logger.critical("the running task does not let go of the main thread: the process ends")
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(1)

        served = threading.Event()
        thread = threading.Thread(target=run, name="emq-loop", daemon=True)
        thread.start()
        try:
            self._slot.serve(self._work, self._post)
            served.set()
            thread.join()
        finally:
            signal.signal(_INTERRUPT_SIGNAL, before)
        if errors:
            raise errors[0]
        return results[0]

    def _make_slot(self) -> Slot:
        return self._slot

    def _give_up(self, slot: Slot) -> None:
        """The main thread can't be replaced: its slot is busy until the work ends."""

    def terminate(self, key: Key, signum: int | None = None) -> bool:
        """Raise an exception in the work; it is told as Lost once it has really ended."""
        slot = self._running_slot(key)
        if slot is None:
            return False
        if signum == SOFTENS:
            slot.soft_at = time.monotonic()
            return True
        slot.given[0].given_up = "terminated"
        slot.stop_at = time.monotonic()
        return True

    def grow(self, n: int = 1) -> None:
        """There is only one main thread: nothing changes."""

    def shrink(self, n: int = 1) -> None:
        """There is only one main thread: nothing changes."""

    def _join(self, deadline: float) -> None:
        """The main thread goes on by itself when the loop returns."""
