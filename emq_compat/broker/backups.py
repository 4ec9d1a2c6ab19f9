"""Copies of the journal, each made in a thread of its own while the broker goes on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from emq_compat.broker.store import Store
from emq_compat.errors import EmqError, JournalError

__all__ = ["Backups"]

#: Is told, in the broker's thread, what went wrong, or None.
_Done: TypeAlias = Callable[[EmqError | None], None]

_DISK_FULL = (
    "the journal's disk is full, so that its last seconds stand beside it and would miss in the copy: "
    "make room there, and ask again"
)


class Backups:
    """The backups that are asked for and made.

    Args:
        wake: has ``tell`` called soon; from any thread.
    """

    def __init__(self, store: Store, wake: Callable[[], None]) -> None:
        self._store = store
        self._wake = wake
        self._asked: list[tuple[Path, _Done]] = []
        self._threads: list[threading.Thread] = []
        self._ended: deque[tuple[_Done, EmqError | None]] = deque()

    def ask(self, file: Path, done: _Done) -> None:
        """Have the journal copied to a file as it is at the end of this turn."""
        self._asked.append((file, done))

    def begin(self) -> None:
        """Begin those that were asked for; right after a commit."""
        if not self._asked:
            return
        asked, self._asked = self._asked, []
        if not self._store.fold():
            self._ended.extend((done, JournalError(_DISK_FULL)) for _, done in asked)
            self._wake()
            return
        for one in asked:
            thread = threading.Thread(target=self._copy, args=one, name="backup", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _copy(self, file: Path, done: _Done) -> None:
        error: EmqError | None = None
        try:
            self._store.backup(file)
        except EmqError as exc:
            error = exc
        self._ended.append((done, error))
        self._wake()

    def tell(self) -> None:
        """Tell those who asked what has become of theirs."""
        while self._ended:
            done, error = self._ended.popleft()
            done(error)
        if self._threads:
            self._threads = [thread for thread in self._threads if thread.is_alive()]

    def close(self) -> None:
        """End those that are being made."""
        self._store.interrupt_backups()
        for thread in self._threads:
            thread.join()
