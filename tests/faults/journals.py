"""Journals as a kill or a power cut leaves them: copies of the files of one that is in use."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emq_compat.broker.records import home_key
from emq_compat.broker.store import Store
from emq_compat.errors import JournalDamaged

#: The journal's file, its log, the mark, and the redo log.
FILES = ("journal.sqlite3", "journal.sqlite3-wal", "journal.sqlite3-mark", "journal.redo")


class Written:
    """A store in use; ``confirmed`` is what its commits have promised.

    ``folds``: each commit is one of SQLite's, too, as that of a broker without work is after a second.
    """

    def __init__(self, folder: Path, durability: str = "full", first: int = 0, *, folds: bool = True) -> None:
        self.folds = folds
        self.store = Store(folder, durability=durability)
        self.queue = self.store.queues()[0].id if first else self.store.add_queue("q")
        self.store.commit()
        self.confirmed: list[str] = [f"m{n}" for n in range(first)]

    @property
    def total(self) -> int:
        """How many messages are confirmed."""
        return len(self.confirmed)

    def commit(self, n: int = 1, payload: bytes = b"[]") -> None:
        """Store n messages in one transaction."""
        msgids = [f"m{len(self.confirmed) + i}" for i in range(n)]
        for msgid in msgids:
            key = home_key(self.queue, 0) | self.store.next_sequence()
            self.store.add_message(key, msgid, f"id:{msgid}", payload, None)
        self.store.set_counts(self.queue, len(self.confirmed) + n, 0)
        self.store.commit()
        if self.folds:
            self.store.fold()
        self.confirmed += msgids

    def copy(self, to: Path, files: tuple[str, ...] = FILES) -> Path:
        """Copy the files as they are on disk now."""
        to.mkdir(mode=0o700)
        assert self.store.path is not None
        for name in files:
            source = self.store.path.with_name(name)
            if source.exists():
                shutil.copy(source, to / name)
        if (to / FILES[3]).exists():
            os.truncate(to / FILES[3], 1 << 16)  # the rest is zeros
        return to


@contextmanager
def written(folder: Path, durability: str = "full", *, folds: bool = True) -> Iterator[Written]:
    """A store in use that is closed in the end."""
    journal = Written(folder, durability, folds=folds)
    try:
        yield journal
    finally:
        journal.store.close()


def taken_up(folder: Path) -> list[str]:
    """The msgids that a broker finds in a folder; each message has its payload."""
    store = Store(folder)
    try:
        [queue] = store.queues()
        rows = list(store.read_messages(0, 1 << 62, 1_000_000))
        assert queue.waiting == len(rows)
        assert [] == [row.msgid for row in rows if not row.payload]
        return [row.msgid for row in rows]
    finally:
        store.close()


def refused(folder: Path) -> str:
    """Why a folder is refused; an assertion fails if it isn't, or if that changes anything."""
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.name in FILES}
    with pytest.raises(JournalDamaged) as refusal:
        Store(folder).close()
    after = {file.name: file.read_bytes() for file in folder.iterdir() if file.name in FILES}
    assert before == after, "it was changed"
    told = str(refusal.value)
    for word in ("--check", "--salvage", str(folder)):
        assert word in told
    return told
