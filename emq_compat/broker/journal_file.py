"""The journal's file: opened with SQLite's settings and of this schema, and the runs of brokers on it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from emq_compat.broker.mark import Mark, Marker
from emq_compat.broker.schema import SCHEMA_VERSION, SQL
from emq_compat.errors import JournalError
from emq_compat.ids import new_id

__all__ = ["abandon", "begin_run", "connect", "end_run", "prepare"]


def connect(file: Path | None) -> sqlite3.Connection:
    """Return a connection to the file, which is made with mode 0600; None: a database in memory."""
    if file is not None:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    return sqlite3.connect(file or ":memory:", isolation_level=None, check_same_thread=False)


#: SQLite's pages in memory, to which a busy broker's memory grows as its file does. Messages come and go in
#: the order of their keys: 16 MB are as quick as 48.
CACHE_KB = 16 << 10


def prepare(db: sqlite3.Connection, file: Path | None, durability: str) -> None:
    """Set SQLite's options, and bring the schema up to date.

    Raises:
        JournalError: a newer version has written it.
    """
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
    db.execute("PRAGMA wal_autocheckpoint = 4000")
    db.execute("PRAGMA journal_size_limit = 67108864")
    db.execute(f"PRAGMA cache_size = {-CACHE_KB}")
    db.execute("PRAGMA temp_store = MEMORY")
    # Some builds (Debian's) fill with zeros what is deleted: each payload would be written once more.
    db.execute("PRAGMA secure_delete = OFF")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version < SCHEMA_VERSION:
        steps = [SQL["schema"]] if version == 0 else []
        steps += [SQL[f"migrate_{step}"] for step in range(max(version, 1), SCHEMA_VERSION)]
        db.executescript("\n".join(["BEGIN;", *steps, f"PRAGMA user_version = {SCHEMA_VERSION};", "COMMIT;"]))
    elif version > SCHEMA_VERSION:
        raise JournalError(
            f"{file} was written by a newer emq-compat "
            f"(schema {version}, this one knows {SCHEMA_VERSION}): upgrade"
        )


def begin_run(db: sqlite3.Connection, file: Path, before: str, durability: str) -> Marker:
    """Note in the journal and beside it (mark.py) that a run has begun; each step may be the last one."""
    _checkpoint(db)
    session = new_id()
    marker = Marker(file, Mark(session=session, before=before, full=durability == "full"))
    try:
        db.execute(SQL["set_meta"], ("session", f"{session} open"))
        if _checkpoint(db):
            marker.say()
    except BaseException:
        marker.close()
        raise
    return marker


def end_run(db: sqlite3.Connection, marker: Marker) -> None:
    """Note that nothing in the logs is needed, then that the run has ended.

    Raises:
        JournalError: somebody reads the file, so that its log can't be emptied.
    """
    if not _checkpoint(db):
        raise JournalError("somebody reads the journal")
    marker.say()
    session = db.execute(SQL["get_meta"], ("session",)).fetchone()[0].split()[0]
    db.execute(SQL["set_meta"], ("session", f"{session} closed"))
    if _checkpoint(db):
        marker.say(closed=True)


def abandon(db: sqlite3.Connection, file: Path | None) -> None:
    """Close the file and leave its log, which SQLite would put into the file and delete."""
    keeper = None
    if file is not None:
        with suppress(sqlite3.Error):
            keeper = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
            keeper.execute("SELECT count(*) FROM sqlite_master").fetchone()
    db.close()
    if keeper is not None:
        keeper.close()


def _checkpoint(db: sqlite3.Connection) -> bool:
    """Put the whole log into the file, on disk; False: somebody reads it."""
    busy, pages, done = db.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
    return not busy and pages == done
