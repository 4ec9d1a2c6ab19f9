"""The journal's file: SQLite in WAL mode, its folder and its lock, transactions, backups.

Writes are collected and executed in bulk, in an order in which they can't disturb each other, when the batch
is committed or when a read needs to see them.

SQLite's transaction stays open over many commits: a commit is a record in the redo log, and SQLite's own one
has in it what has come since its last (``fold``). A start executes what is in the log anew. A batch that is
large, or has written in SQLite directly, is folded at once.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import sqlite3
import stat
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import IO, Any

from emq_compat.broker.redo import TOKEN_BYTES, RedoLog, Writes
from emq_compat.errors import JournalError

__all__ = ["SCHEMA_VERSION", "SQL", "Database"]

logger = logging.getLogger(__name__)

#: Version of the tables in queries.sql. Newer code migrates an older folder, older code refuses a newer one.
SCHEMA_VERSION = 5
_FILE = "journal.sqlite3"
_LOCK = "lock"
_REDO = "journal.redo"
#: For so long commits stand in the redo log only; and after a fold that failed, the next is tried.
_FOLD_AFTER_S = 1.0
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
        self._redo: RedoLog | None = None
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
        #: What was executed and is in no record yet: of this batch, and of those before it that told nothing.
        self._executed: Writes = []
        self._unrecorded: Writes = []
        #: This batch has written in SQLite directly: no record can repeat that.
        self._direct = False
        self._generation = 0
        #: The transaction lacks what is in the redo log: nothing may be committed.
        self._behind = False
        #: The monotonic time at which ``commit`` is to be called though nothing was written.
        self.fold_at = math.inf
        self._sequence, self._sequence_end = self._reserved(), 0
        try:
            self._repeat()
            if folder is not None:
                self._open_redo(folder / _REDO, synced=durability == "full")
        except BaseException:
            self._release()
            raise

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

    def _open_redo(self, file: Path, *, synced: bool) -> None:
        """Open the redo log and execute what is in it; without room for one each commit is SQLite's."""
        try:
            self._redo = RedoLog(file, synced=synced)
        except OSError as exc:
            logger.warning("%s can't be made (%s): every commit is slower", file, exc.strerror or exc)
            return
        try:
            self._repeat()
            self._begin()
            self._fold()
        except (sqlite3.Error, OSError) as exc:
            raise JournalError(f"what is in {file} can't be brought into the journal: {exc}") from exc

    def _repeat(self) -> None:
        """Execute what is in the redo log, in a transaction that stays open."""
        row = self._db.execute(SQL["get_meta"], ("finished",)).fetchone()
        self._generation = int(row[0]) if row else 0
        if self._redo is None:
            return
        row = self._db.execute(SQL["get_meta"], ("redo",)).fetchone()
        for writes in self._redo.read(row[0] if row else bytes(TOKEN_BYTES)):
            self._begin()
            for name, rows in writes:
                self._db.executemany(self._sql(name), rows)

    def close(self) -> None:
        """Bring what is committed into the database, and nothing more; free the folder."""
        if self._dirty or self._executed or self._direct:
            self._undo()
        if not self._behind:
            try:
                self._fold()
            except sqlite3.Error as exc:
                logger.warning("the next start will take up what is in %s: %s", _REDO, exc)
        self._release()

    def _release(self) -> None:
        self._db.close()
        if self._redo is not None:
            self._redo.close()
            self._redo = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # Transactions

    def _sql(self, name: str) -> str:
        sql = SQL[name]
        return sql.format(current=self._generation) if name == "remember_finished" else sql

    def _flush(self) -> None:
        if not self._dirty:
            return
        try:
            self._begin()
            for name, rows in self._pending.items():
                if rows:
                    self._db.executemany(self._sql(name), rows)
                    self._executed.append((name, rows))
                    self._pending[name] = []
        except sqlite3.Error as exc:
            self._undo()
            raise JournalError(f"the journal can't be written: {exc}") from exc
        self._dirty = False

    def _begin(self) -> None:
        if not self._in_transaction:
            self._db.execute("BEGIN IMMEDIATE")
            self._in_transaction = True

    def _undo(self) -> None:
        """Undo what isn't committed, with it the batches that told nothing."""
        for rows in self._pending.values():
            rows.clear()
        self._dirty = self._direct = False
        self._executed, self._unrecorded = [], []
        self._sequence_end = self._sequence  # its reservation may be undone, too
        if self._in_transaction:
            self._in_transaction = False
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        self._behind = True
        try:
            self._repeat()
        except (sqlite3.Error, JournalError) as exc:
            logger.warning("what is in %s can't be brought into the journal now: %s", _REDO, exc)
        else:
            self._behind = False

    def commit(self, *, told: bool = True) -> None:
        """Make everything since the last commit durable at once.

        Args:
            told: somebody will be told something that follows from it. If not, it may be lost with the
                process as if it had never been received; it becomes durable with a later commit, within
                ``_FOLD_AFTER_S``.

        Raises:
            JournalError: it could not be written (disk full …); all of it is undone.
        """
        self._flush()
        redo = self._redo
        if redo is not None and not self._direct:
            self._unrecorded += self._executed
            self._executed = []
            now = time.monotonic()
            due = now >= self.fold_at
            if not (told or due) or self._record(redo):
                if due:
                    self._fold_or_wait(now)
                elif self.fold_at == math.inf and (self._unrecorded or not redo.empty):
                    self.fold_at = now + _FOLD_AFTER_S
                return
        try:
            self._fold()
        except sqlite3.Error as exc:
            self._undo()
            raise JournalError(f"the journal can't be written: {exc}") from exc

    def _record(self, redo: RedoLog) -> bool:
        """Append what is in no record yet to the redo log; False: it is full."""
        if not self._unrecorded:
            return True
        try:
            appended = redo.append(self._unrecorded)
        except OSError as exc:
            self._undo()
            raise JournalError(f"the journal can't be written: {exc}") from exc
        if appended:
            self._unrecorded = []
        return appended

    def fold(self) -> None:
        """Bring what is committed into the database, for others that read it; right after a ``commit``.

        Where the disk is full it stays in the redo log.

        Raises:
            JournalError: the database can't be read any more.
        """
        self._fold_or_wait(time.monotonic())

    def _fold_or_wait(self, now: float) -> None:
        try:
            self._fold()
        except sqlite3.Error as exc:
            logger.warning("the journal can't be written: %s; what was confirmed stands in %s", exc, _REDO)
            self._undo()
            self.fold_at = now + _FOLD_AFTER_S
            if self._behind:
                raise JournalError(f"the journal can't be read: {exc}") from exc

    def _fold(self) -> None:
        """Commit SQLite's transaction; the redo log starts over."""
        if self._in_transaction:
            token = os.urandom(TOKEN_BYTES)
            if self._redo is not None:
                self._db.execute(SQL["set_meta"], ("redo", token))
            self._db.execute("COMMIT")
            self._in_transaction = False
            if self._redo is not None:
                self._redo.begin(token)
        self._executed, self._unrecorded = [], []
        self._direct = False
        self.fold_at = math.inf

    def probe(self) -> bool:
        """Return whether the disk takes a write again."""
        try:
            self._undo()
            if self._behind:
                return False
            self._begin()
            self._db.execute(SQL["set_meta"], ("probe", os.urandom(8192)))
            self._fold()
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error:
            return False
        return True

    def backup(self, file: Path) -> None:
        """Write a consistent copy of what was committed when ``fold`` was called last to ``file``.

        It has a connection of its own, and may be called in a thread of its own while the others are used.

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
            if not writes:
                return self._db.execute(SQL[name], parameters)
            self._begin()
            cursor = self._db.execute(SQL[name], parameters)
            self._direct = self._direct or cursor.rowcount != 0
            return cursor
        except sqlite3.Error as exc:
            self._undo()
            raise JournalError(f"the journal can't be {'written' if writes else 'read'}: {exc}") from exc

    def _execute_many(self, name: str, rows: Sequence[tuple[Any, ...]]) -> None:
        self._flush()
        try:
            self._begin()
            self._db.executemany(SQL[name], rows)
            self._direct = True
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
