"""Copies of the journal's file, made while a broker uses it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from emq_compat.errors import JournalError

__all__ = ["Copies"]


class Copies:
    """The copies of a journal that are being made; ``journal=None``: it is in memory."""

    def __init__(self, journal: Path | None) -> None:
        self._journal = journal
        self._copying: list[sqlite3.Connection] = []

    def write(self, file: Path) -> None:
        """Write a consistent copy of what SQLite has committed to ``file``; in any thread.

        Raises:
            JournalError: the journal is in memory, the file exists, or it can't be written.
        """
        if self._journal is None:
            raise JournalError("a broker in memory has nothing to back up")
        if file.exists():
            raise JournalError(f"{file} exists already")
        try:
            os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError as exc:
            raise JournalError(f"the backup {file} can't be written: {exc.strerror or exc}") from exc
        source = sqlite3.connect(self._journal, isolation_level=None, check_same_thread=False)
        self._copying.append(source)
        try:
            source.execute("VACUUM INTO ?", (str(file),))
            _make_own(file)
        except sqlite3.Error as exc:
            file.unlink(missing_ok=True)
            raise JournalError(f"the backup {file} can't be written: {exc}") from exc
        finally:
            self._copying.remove(source)
            source.close()

    def interrupt(self) -> None:
        """Have the copies under way fail now; may be called from another thread than theirs."""
        for source in tuple(self._copying):
            source.interrupt()


def _make_own(copy: Path) -> None:
    """Have a copy be a journal that belongs to no run."""
    db = sqlite3.connect(copy, isolation_level=None)
    try:
        db.execute("DELETE FROM meta WHERE name IN ('session', 'probe', 'redo')")
    finally:
        db.close()
