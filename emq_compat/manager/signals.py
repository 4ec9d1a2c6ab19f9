"""Signals of a worker: caught in the main thread, acted upon by the loop."""

from __future__ import annotations

import enum
import os
import signal
import threading
import weakref
from collections import deque
from collections.abc import Mapping
from types import FrameType
from typing import Any

__all__ = ["Signals", "Stage", "next_stage", "remapped_term"]


class Stage(enum.IntEnum):
    """How far a job manager has gone towards its end; a stage is never left for an earlier one."""

    RUNNING = 0
    #: Takes nothing new, finishes what runs.
    WARM = 1
    #: Asked to end now, but gives what runs a last while (Celery's worker_soft_shutdown_timeout).
    SOFT = 2
    #: Kills what still runs.
    COLD = 3


def next_stage(stage: Stage, signum: int, *, remapped: bool, soft_timeout_s: float) -> Stage:
    """Return the stage after a TERM, INT or QUIT, by the rules of Celery's worker.

    TERM and INT end warm, QUIT ends cold; any of them, when the end has begun, makes it colder.
    ``remapped``: TERM means QUIT (the variable REMAP_SIGTERM).
    """
    cold = Stage.SOFT if soft_timeout_s > 0 and stage < Stage.SOFT else Stage.COLD
    if stage is not Stage.RUNNING:
        return cold
    if signum == signal.SIGQUIT or (signum == signal.SIGTERM and remapped):
        return cold
    return Stage.WARM


class Signals:
    """Handlers that only note the signal, and a descriptor that becomes readable when one came.

    Made in any thread; ``install`` does nothing outside the main thread, where Python allows no handlers.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._pending: deque[int] = deque()
        self._before: dict[int, Any] = {}
        self._fd_before = -1

    @property
    def fd(self) -> int:
        """Readable when a signal came or ``wake`` was called."""
        return self._read

    @property
    def caught(self) -> frozenset[int]:
        """The signals that are caught now."""
        return frozenset(self._before)

    def install(self, signums: tuple[int, ...]) -> None:
        """Catch these signals from now on."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._fd_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        _installed.add(self)
        for signum in signums:
            self._before[signum] = signal.signal(signum, self._note)

    def restore(self) -> None:
        """Put the handlers back that were there before."""
        if self._before and threading.current_thread() is threading.main_thread():
            for signum, handler in self._before.items():
                signal.signal(signum, handler)
            signal.set_wakeup_fd(self._fd_before)
        self._before.clear()
        _installed.discard(self)

    def close(self) -> None:
        """Put the handlers back and close the descriptor."""
        self.restore()
        fds = (self._read, self._write)
        self._read = self._write = -1  # first: a signal that comes meanwhile must not write to another's
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    def take(self) -> list[int]:
        """Return what came since the last call, and make ``fd`` quiet."""
        try:
            while os.read(self._read, 4096):
                pass
        except BlockingIOError:
            pass
        taken = []
        while self._pending:
            taken.append(self._pending.popleft())
        return taken

    def wake(self) -> None:
        """Make ``fd`` readable; for other threads and for handlers. Nothing after ``close``."""
        if self._write < 0:
            return
        try:
            os.write(self._write, b"\0")
        except BlockingIOError:
            pass  # it is readable already

    def note(self, signum: int) -> None:
        """Act as if the signal had come."""
        self._pending.append(signum)
        self.wake()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._pending.append(signum)
        # Between the C handler's byte and this call the loop may have read the byte and found nothing.
        self.wake()


#: Whose handlers a process forked from this one must not keep.
_installed: weakref.WeakSet[Signals] = weakref.WeakSet()


#: Per thread that forks: the signals it had blocked before.
_masks = threading.local()


def _hold_back() -> None:
    """Block what is caught: a signal between the fork and ``_restore_all`` would be noted, and lost."""
    caught = {signum for signals in list(_installed) for signum in signals.caught}
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, caught) if caught else None


def _let_through() -> None:
    if _masks.before is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _restore_all() -> None:
    """Let what a task forks in solo or threads be ended by signals: multiprocessing's pools wait for that."""
    for signals in list(_installed):
        signals.restore()
    _let_through()


os.register_at_fork(before=_hold_back, after_in_parent=_let_through, after_in_child=_restore_all)


def remapped_term(environ: Mapping[str, str]) -> bool:
    """True when REMAP_SIGTERM says that TERM means QUIT, as Celery's worker reads it."""
    return environ.get("REMAP_SIGTERM") == "SIGQUIT"
