"""The data folder of a broker: for its user only, and for one broker at a time."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import IO

from emq_compat.errors import JournalError

__all__ = ["JOURNAL", "REDO", "FolderInUse", "check_owner", "claim"]

#: The journal's file in it.
JOURNAL = "journal.sqlite3"
#: What is durable and not in the journal yet (redo.py).
REDO = "journal.redo"
_LOCK = "lock"


class FolderInUse(JournalError):
    """Another broker uses the data folder."""


def claim(folder: Path) -> IO[str]:
    """Make or check the data folder and take its lock, which is free again when the file is closed.

    Raises:
        FolderInUse: a broker has it.
        JournalError: it can't be used.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_owner(folder)
        lock = open(folder / _LOCK, "a+", encoding="utf-8", opener=lambda p, f: os.open(p, f, 0o600))  # noqa: SIM115
    except FileExistsError as exc:
        raise JournalError(f"{folder} is a file, and a folder is wanted for the data") from exc
    except OSError as exc:
        raise JournalError(
            f"the data folder {folder} can't be used: {exc.strerror or exc}; the broker must be able to "
            "write there: make it so, or choose another by --data"
        ) from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        lock.close()
        raise FolderInUse(f"another broker (pid {holder}) uses the data folder {folder}") from None
    try:
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
    except OSError as exc:
        lock.close()
        raise JournalError(
            f"the data folder {folder} can't be written: {exc.strerror or exc}; make room on its disk"
        ) from exc
    return lock


def check_owner(folder: Path) -> None:
    """Refuse a folder that is another user's, or open to others.

    Raises:
        JournalError: why.
        OSError: it can't be looked at.
    """
    info = folder.stat()
    if not stat.S_ISDIR(info.st_mode):
        raise JournalError(f"{folder} is not a folder")
    if info.st_uid != os.getuid():
        raise JournalError(f"the data folder {folder} belongs to another user (uid {info.st_uid})")
    if info.st_mode & 0o077:
        raise JournalError(
            f"others can read the data folder {folder}: chmod 700 it, or choose another by --data"
        )
