"""Telling many, from one thread, of results as they become final."""

from __future__ import annotations

import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

from emq_compat.errors import EmqError
from emq_compat.message import FINAL_STATES
from emq_compat.stored import StoredResult
from emq_compat.words import amount

if TYPE_CHECKING:
    from emq_compat.backends.base import ResultStore

__all__ = ["PipedWatcher", "PollingWatcher", "Told", "Watcher"]

logger = logging.getLogger(__name__)

#: Called with (task id, result) from the watcher's thread; must not wait for anything.
Told: TypeAlias = Callable[[str, StoredResult], object]


class Watcher(ABC):
    """Waits for any number of ids, which may come and go, on one thread that lives while there are some.

    For any number of threads; a forked process begins anew.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._told: dict[str, list[Told]] = {}
        self._new: set[str] = set()
        self._gone: set[str] = set()
        self._thread: threading.Thread | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is waited for, and no thread is there."""
        return self._thread is None

    def add(self, ids: Iterable[str], told: Told) -> None:
        """Call ``told`` once for each of these ids, as soon as its result is final.

        A watcher that tells of states on the way calls it with each of them before.
        """
        if self._pid != os.getpid():
            self._begin_anew()
        with self._lock:
            for task_id in ids:
                if task_id not in self._told:
                    self._new.add(task_id)
                    self._gone.discard(task_id)
                self._told.setdefault(task_id, []).append(told)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._prepare()
                self._thread.start()
            else:
                self._wake()

    def discard(self, ids: Iterable[str], told: Told) -> None:
        """Don't call ``told`` for these ids; those that are unknown don't matter."""
        with self._lock:
            for task_id in ids:
                waiting = self._told.get(task_id)
                if waiting is None or told not in waiting:
                    continue
                waiting.remove(told)
                if not waiting:
                    del self._told[task_id]
                    self._new.discard(task_id)
                    self._gone.add(task_id)
            if self._thread is not None and self._gone:
                self._wake()

    def _run(self) -> None:
        try:
            while True:
                with self._lock:
                    new, self._new = self._new, set()
                    gone, self._gone = self._gone, set()
                    pending = list(self._told)
                    if not pending:
                        self._finish(gone)
                        self._thread = None
                        return
                for task_id, stored in self._arrived(new, gone, pending):
                    self._tell(task_id, stored)
        except BaseException:  # a thread's edge
            logger.exception("the thread that waits for results ended; they are not told any more")
            with self._lock:
                self._told.clear()
                self._thread = None

    def _tell(self, task_id: str, stored: StoredResult) -> None:
        with self._lock:
            final = stored.state in FINAL_STATES
            waiting = self._told.pop(task_id, []) if final else list(self._told.get(task_id, ()))
        for told in waiting:
            try:
                told(task_id, stored)
            except Exception:
                logger.exception("telling the result of %s failed", task_id)

    @abstractmethod
    def _prepare(self) -> None:
        """Make what ``_wake`` needs; called under the lock, before the thread starts."""

    @abstractmethod
    def _wake(self) -> None:
        """Have ``_arrived`` return soon; called under the lock, from any thread."""

    @abstractmethod
    def _arrived(
        self, new: set[str], gone: set[str], pending: list[str]
    ) -> Iterable[tuple[str, StoredResult]]:
        """Return final results, after having waited for one, or for ``_wake``.

        ``pending`` are all ids; ``new`` those of them that came, and ``gone`` others that left since.
        """

    @abstractmethod
    def _finish(self, gone: set[str]) -> None:
        """Close what is open; called under the lock, at the thread's end."""


class PipedWatcher(Watcher):
    """Waits at file descriptors: ``_wake`` writes to a pipe, so that waiting at its read end, too, ends."""

    def _begin_anew(self) -> None:
        super()._begin_anew()
        self._fds: tuple[int, int] | None = None

    @property
    def wake_fd(self) -> int:
        """The end that can be read once ``_wake`` was called; -1: nobody waits."""
        return -1 if self._fds is None else self._fds[0]

    def _prepare(self) -> None:
        self._fds = os.pipe()
        for fd in self._fds:
            os.set_blocking(fd, False)

    def _wake(self) -> None:
        if self._fds is not None:
            try:
                os.write(self._fds[1], b".")
            except BlockingIOError:  # it is woken already
                pass

    def _woken(self) -> None:
        """Take what ``_wake`` has written."""
        try:
            os.read(self.wake_fd, 4096)
        except BlockingIOError:
            pass

    def _finish(self, gone: set[str]) -> None:
        fds, self._fds = self._fds, None
        for fd in fds or ():
            os.close(fd)


class PollingWatcher(Watcher):
    """Reads a store that can't push every ``interval_s`` seconds."""

    def __init__(self, store: ResultStore, interval_s: float = 0.5) -> None:
        super().__init__(f"results of {store.url}")
        self._store = store
        self._interval_s = interval_s

    def _begin_anew(self) -> None:
        super()._begin_anew()
        self._changed = threading.Event()

    def _prepare(self) -> None:
        self._changed.set()

    def _wake(self) -> None:
        self._changed.set()

    def _arrived(
        self, new: set[str], gone: set[str], pending: list[str]
    ) -> Iterable[tuple[str, StoredResult]]:
        if not new:
            self._changed.wait(self._interval_s)
        self._changed.clear()
        try:
            read = self._store.read(pending)
        except EmqError as exc:
            logger.warning("still waiting for %s: %s", amount(len(pending), "result"), exc)
            return []
        return [
            (task_id, stored)
            for task_id, stored in read.items()
            if stored is not None and stored.state in FINAL_STATES
        ]

    def _finish(self, gone: set[str]) -> None:
        """Nothing is open."""
