"""The journal's file: SQLite in WAL mode, its folder and its lock, transactions, backups.

Writes are collected and executed in bulk, in an order in which they can't disturb each other, when the batch
is committed or when a read needs to see them.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import IO, Any

from emq_compat.errors import JournalError

__all__ = ["SCHEMA_VERSION", "SQL", "Database"]

#: Version of the tables in queries.sql. Newer code migrates an older folder, older code refuses a newer one.
SCHEMA_VERSION = 5
_FILE = "journal.sqlite3"
_LOCK = "lock"
#: Sequence numbers are reserved on disk in blocks, so that a commit needn't write the counter.
_SEQUENCE_BLOCK = 1_000_000


def _load_queries() -> dict[str, str]:
    text = resources.files("emq_compat.broker").joinpath("queries.sql").read_text("utf-8")
    return {
        name.strip(): body.strip()
        for name, _, body in (part.partition("\n") for part in text.split("-- name:")[1:])
    }


SQL = _load_queries()

#: Buffered writes in the order in which they are executed.
_WRITES = (
    "add_message",
    "add_delayed",
    "add_held",
    "add_parked",
    "give_back",
    "end_hand_out",
    "move",
    "hand_out",
    "bury",
    "drop_message",
    "remember_finished",
    "drop_lock",
    "put_lock",
    "put_pace",
    "put_result",
    "revoke",
    "put_schedule",
    "put_periodic",
    "set_counts",
    "add_part",
    "put_chord",
    "drop_parts",
    "drop_chord",
)


class Database:
    """A database on disk (``folder``) or, with ``folder=None``, in memory.

    Args:
        folder: the data folder; made with mode 0700. Another user's, or one
            that another broker uses, is refused.
        durability: ``full`` (each commit is fsync'd: safe against power loss) or ``normal`` (safe against a
            killed process).

    Raises:
        JournalError: the folder can't be used; the message says why and what to do.
    """

    def __init__(self, folder: Path | None, *, durability: str = "full") -> None:
        self._lock: IO[str] | None = None
        self.path: Path | None = None
        self._copying: list[sqlite3.Connection] = []
        if folder is not None:
            self._lock = _claim(folder)
            self.path = folder / _FILE
        try:
            self._db = self._connect()
            try:
                self._prepare(durability)
            except BaseException:
                self._db.close()
                raise
        except (sqlite3.Error, JournalError) as exc:
            if self._lock is not None:
                self._lock.close()
            if isinstance(exc, JournalError):
                raise
            raise JournalError(
                f"the journal {self.path} can't be opened: {exc}; "
                "move the file away to start empty, or restore a backup"
            ) from exc
        self._pending: dict[str, list[tuple[Any, ...]]] = {name: [] for name in _WRITES}
        self._dirty = False
        self._in_transaction = False
        row = self._db.execute(SQL["get_meta"], ("finished",)).fetchone()
        self._generation = int(row[0]) if row else 0
        self._sequence, self._sequence_end = self._reserved(), 0

    # Opening

    def _connect(self) -> sqlite3.Connection:
        if self.path is not None:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        return sqlite3.connect(self.path or ":memory:", isolation_level=None, check_same_thread=False)

    def _prepare(self, durability: str) -> None:
        db = self._db
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
        db.execute("PRAGMA wal_autocheckpoint = 4000")
        db.execute("PRAGMA journal_size_limit = 67108864")
        db.execute("PRAGMA cache_size = -49152")
        db.execute("PRAGMA temp_store = MEMORY")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version < SCHEMA_VERSION:
            steps = [SQL["schema"]] if version == 0 else []
            steps += [SQL[f"migrate_{step}"] for step in range(max(version, 1), SCHEMA_VERSION)]
            script = "\n".join(["BEGIN;", *steps, f"PRAGMA user_version = {SCHEMA_VERSION};", "COMMIT;"])
            self._db.executescript(script)
        elif version > SCHEMA_VERSION:
            raise JournalError(
                f"{self.path} was written by a newer emq-compat "
                f"(schema {version}, this one knows {SCHEMA_VERSION}): upgrade"
            )

    def _reserved(self) -> int:
        row = self._db.execute(SQL["get_meta"], ("sequence",)).fetchone()
        return int(row[0]) if row else 0

    def close(self) -> None:
        """Commit nothing more; close the file and free the folder."""
        self._db.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # Transactions

    def _flush(self) -> None:
        if not self._dirty:
            return
        self._begin()
        try:
            for name, rows in self._pending.items():
                if rows:
                    sql = SQL[name]
                    if name == "remember_finished":
                        sql = sql.format(current=self._generation)
                    self._db.executemany(sql, rows)
                    rows.clear()
        except sqlite3.Error as exc:
            self._undo()
            raise JournalError(f"the journal can't be written: {exc}") from exc
        self._dirty = False

    def _begin(self) -> None:
        if not self._in_transaction:
            self._db.execute("BEGIN IMMEDIATE")
            self._in_transaction = True

    def _undo(self) -> None:
        for rows in self._pending.values():
            rows.clear()
        self._dirty = False
        if self._in_transaction:
            self._in_transaction = False
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def commit(self) -> None:
        """Make everything since the last commit durable at once.

        Raises:
            JournalError: it could not be written (disk full …); all of it is undone.
        """
        self._flush()
        if not self._in_transaction:
            return
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as exc:
            self._undo()
            raise JournalError(f"the journal can't be written: {exc}") from exc
        self._in_transaction = False

    def probe(self) -> bool:
        """Return whether the disk takes a write again."""
        try:
            self._db.execute(SQL["set_meta"], ("probe", os.urandom(8192)))
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error:
            return False
        return True

    def backup(self, file: Path) -> None:
        """Write a consistent copy of the last committed state to ``file``, from a connection of its own.

        May be called in a thread of its own while the others are used.

        Raises:
            JournalError: the journal is in memory, the file exists, or it can't be written.
        """
        if self.path is None:
            raise JournalError("a broker in memory has nothing to back up")
        if file.exists():
            raise JournalError(f"{file} exists already")
        try:
            os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError as exc:
            raise JournalError(f"the backup {file} can't be written: {exc.strerror or exc}") from exc
        source = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        self._copying.append(source)
        try:
            source.execute("VACUUM INTO ?", (str(file),))
        except sqlite3.Error as exc:
            file.unlink(missing_ok=True)
            raise JournalError(f"the backup {file} can't be written: {exc}") from exc
        finally:
            self._copying.remove(source)
            source.close()

    def interrupt_backups(self) -> None:
        """Have the backups under way fail now; may be called from another thread than theirs."""
        for source in tuple(self._copying):
            source.interrupt()

    def _write(self, name: str, row: tuple[Any, ...]) -> None:
        self._pending[name].append(row)
        self._dirty = True

    def _execute(self, name: str, parameters: Sequence[Any] = (), *, writes: bool = False) -> sqlite3.Cursor:
        self._flush()
        try:
            if writes:
                self._begin()
            return self._db.execute(SQL[name], parameters)
        except sqlite3.Error as exc:
            self._undo()
            raise JournalError(f"the journal can't be {'written' if writes else 'read'}: {exc}") from exc

    def _execute_many(self, name: str, rows: Sequence[tuple[Any, ...]]) -> None:
        self._flush()
        self._begin()
        try:
            self._db.executemany(SQL[name], rows)
        except sqlite3.Error as exc:
            self._undo()
            raise JournalError(f"the journal can't be written: {exc}") from exc

    def next_sequence(self) -> int:
        """See Journal."""
        if self._sequence >= self._sequence_end:
            self._sequence_end = self._sequence + _SEQUENCE_BLOCK
            self._execute("set_meta", ("sequence", self._sequence_end), writes=True)
        self._sequence += 1
        return self._sequence


def _claim(folder: Path) -> IO[str]:
    """Make or check the data folder and take its lock."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = folder.stat()
        if not stat.S_ISDIR(info.st_mode):
            raise JournalError(f"{folder} is not a folder")
        if info.st_uid != os.getuid():
            raise JournalError(f"the data folder {folder} belongs to another user (uid {info.st_uid})")
        if info.st_mode & 0o077:
            raise JournalError(
                f"others can read the data folder {folder}: chmod 700 it, or choose another by --data"
            )
        lock = open(folder / _LOCK, "a+", encoding="utf-8", opener=lambda p, f: os.open(p, f, 0o600))  # noqa: SIM115
    except OSError as exc:
        raise JournalError(f"the data folder {folder} can't be used: {exc.strerror or exc}") from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        lock.close()
        raise JournalError(f"another broker (pid {holder}) uses the data folder {folder}") from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock
