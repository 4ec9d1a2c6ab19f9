"""What SQLite or the system says of the journal, as errors that say what to do."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from emq_compat.broker.opening import advice
from emq_compat.errors import JournalDamaged, JournalError

__all__ = ["trouble"]

#: What SQLite or the system says → what to do.
_REMEDIES = {
    "is full": "make room on its disk",
    "No space left": "make room on its disk",
    "written in part": "make room on its disk",
    "Too many open files": "raise the limit of open files (`ulimit -n`, LimitNOFILE= in systemd)",
    "disk I/O error": "its disk is full or fails: see the system's log",
    "readonly": "the broker must be able to write to the file and its folder",
    "unable to open": "the broker must be able to write to the file and its folder",
}


def trouble(journal: Path | None, what: str, exc: sqlite3.Error | OSError) -> JournalError:
    """Return the error that says that the journal can't be opened, read or written, and what to do."""
    said = str(exc)
    if journal is not None and ("malformed" in said or "not a database" in said):
        return JournalDamaged(f"the journal {journal} is damaged: {said}. {advice(journal)}")
    remedy = next((remedy for text, remedy in _REMEDIES.items() if text in said), "")
    name = f"the journal {journal}" if journal is not None else "the journal"
    return JournalError(f"{name} can't be {what}: {said}" + (f"; {remedy}" if remedy else ""))
