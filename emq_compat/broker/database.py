"""The journal's database: SQLite in WAL mode, its folder and its lock, and its transactions.

Writes are collected and executed in bulk, in an order in which they can't disturb each other, when the batch
is committed or when a read needs to see them.

SQLite's transaction stays open over many commits: a commit is a record in the redo log, and SQLite's own one
has in it what has come since its last (``fold``). A start executes what is in the log anew. A batch of many
writes, or that has written in SQLite directly, is folded at once. Large values come into SQLite with the fold
(aside.py).
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from emq_compat.broker.aside import AWARE, FILLS, Aside
from emq_compat.broker.copies import Copies
from emq_compat.broker.folder import JOURNAL, REDO, claim
from emq_compat.broker.folding import Folding
from emq_compat.broker.journal_file import abandon, begin_run, connect, end_run, prepare
from emq_compat.broker.mark import Marker
from emq_compat.broker.opening import Found, look
from emq_compat.broker.redo import TOKEN_BYTES, RedoLog, Writes
from emq_compat.broker.schema import LARGE, SQL, WRITES
from emq_compat.broker.trouble import trouble
from emq_compat.errors import JournalDamaged, JournalError

__all__ = ["Database"]

logger = logging.getLogger(__name__)

#: Sequence numbers are reserved on disk in blocks, so that a commit needn't write the counter.
_SEQUENCE_BLOCK = 1_000_000


class Database:
    """A database on disk (``folder``) or, with ``folder=None``, in memory.

    Args:
        folder: the data folder; made with mode 0700. Another user's, or one
            that another broker uses, is refused.
        durability: ``full`` (each commit is fsync'd: safe against power loss) or ``normal`` (safe against a
            killed process).

    Attributes:
        notes: what an operator should know of what was found.
        on_write: is told of each write that others wait for, and its seconds: ``record``, into the redo log,
            or ``database``, SQLite's COMMIT; None: nobody wants to know.

    Raises:
        JournalDamaged: a part of it is missing, or can't be read.
        JournalError: the folder can't be used; the message says why and what to do.
    """

    def __init__(self, folder: Path | None, *, durability: str = "full") -> None:
        self._lock: IO[str] | None = None
        self.path: Path | None = None
        self._redo: RedoLog | None = None
        self._marker: Marker | None = None
        self.notes: tuple[str, ...] = ()
        self.on_write: Callable[[str, float], None] | None = None
        self._pending: dict[str, list[tuple[Any, ...]]] = {name: [] for name in WRITES}
        self._aside = Aside()
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
        self._folding = Folding()
        if folder is not None:
            self._lock = claim(folder)
            self.path = folder / JOURNAL
        self._copies = Copies(self.path)
        try:
            self._open(durability)
        except (sqlite3.Error, OSError) as exc:
            self._free()
            raise trouble(self.path, "opened", exc) from exc
        except BaseException:
            self._free()
            raise

    def _open(self, durability: str) -> None:
        found = look(self.path) if self.path is not None else Found()
        self.notes = found.notes
        self._db = connect(self.path)
        try:
            prepare(self._db, self.path, durability)
            if self.path is not None:
                self._marker = begin_run(self._db, self.path, found.session, durability)
            self._sequence, self._sequence_end = self._reserved(), 0
            self._repeat()
            if self.path is not None:
                self._open_redo(self.path.with_name(REDO), synced=durability == "full")
        except BaseException:
            abandon(self._db, self.path)
            raise

    # Opening

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
            raise trouble(self.path, f"joined by what is in {file}", exc) from exc

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
        try:
            if self._behind:
                raise JournalError(f"it lacks what is in {REDO}")
            self._fold()
            if self._marker is not None:
                end_run(self._db, self._marker)
        except (sqlite3.Error, OSError, JournalError) as exc:
            logger.warning("the next start will take up what is in the journal's logs: %s", exc)
            abandon(self._db, self.path)
        else:
            self._db.close()
        self._free()

    def _free(self) -> None:
        """Close all files but SQLite's."""
        if self._marker is not None:
            self._marker.close()
            self._marker = None
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
                    if name not in FILLS:
                        self._db.executemany(self._sql(name), rows)
                    self._executed.append((name, rows))
                    self._pending[name] = []
        except sqlite3.Error as exc:
            raise self._failed("written", exc) from exc
        self._dirty = False

    def whole(self) -> None:
        """Bring the values that are kept aside into their rows, in the transaction.

        Raises:
            JournalError: it can't be written.
        """
        if self._aside:
            self._flush()
            try:
                self._fill()
            except sqlite3.Error as exc:
                raise self._failed("written", exc) from exc

    def _fill(self) -> None:
        fresh = self._aside.fresh_bytes
        for name, rows in self._aside.rows().items():
            if rows:
                self._begin()
                self._db.executemany(SQL[name], rows)
        self._aside.clear()
        self._aside.fresh_bytes = fresh

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
        self._aside.clear()
        self._sequence_end = self._sequence  # its reservation may be undone, too
        if self._in_transaction:
            self._in_transaction = False
            with suppress(sqlite3.Error):  # what is damaged may have been rolled back already
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
        self._behind = True
        try:
            self._repeat()
        except (sqlite3.Error, OSError, JournalError) as exc:
            logger.warning("what is in %s can't be brought into the journal now: %s", REDO, exc)
        else:
            self._behind = False

    @property
    def fold_at(self) -> float:
        """The monotonic time at which ``commit`` is to be called though nothing was written."""
        return self._folding.at

    def commit(self, *, told: bool = True) -> None:
        """Make everything since the last commit durable at once.

        Args:
            told: somebody will be told something that follows from it. If not, it may be lost with the
                process as if it had never been received; it becomes durable with a later commit, within
                ``FOLD_AFTER_S``.

        Raises:
            JournalError: it could not be written (disk full …); all of it is undone.
        """
        self._flush()
        redo = self._redo
        if redo is not None and not self._direct:
            self._unrecorded += self._executed
            self._executed = []
            now = time.monotonic()
            large, due = self._aside.fresh_bytes > 0, self._folding.due(now)
            if not (told or due) or self._record(redo):
                stands = bool(self._unrecorded) or not redo.empty
                if self._folding.wanted(now, self._aside, large=large, log_bytes=redo.end, stands=stands):
                    self._fold_or_wait(now)
                return
        try:
            self._fold()
        except sqlite3.Error as exc:
            raise self._failed("written", exc) from exc

    def _record(self, redo: RedoLog) -> bool:
        """Append what is in no record yet to the redo log; False: it is full."""
        if not self._unrecorded:
            return True
        began = time.monotonic()
        try:
            appended = redo.append(self._unrecorded, self._aside.fresh_bytes)
        except OSError as exc:
            raise self._failed("written", exc) from exc
        if self.on_write is not None and appended:
            self.on_write("record", time.monotonic() - began)
        if appended:
            self._unrecorded = []
            self._aside.fresh_bytes = 0
            if self._marker is not None:
                self._marker.note_redo(redo.token, redo.end)
        return appended

    def fold(self) -> bool:
        """Bring what is committed into the database, for others that read it; right after a ``commit``.

        Returns:
            False: the disk is full, and it stays in the redo log.

        Raises:
            JournalError: the database can't be read any more, or what stands in no record yet is undone.
        """
        return self._fold_or_wait(time.monotonic())

    def _fold_or_wait(self, now: float) -> bool:
        # What told nothing may stand in no record: whoever has it in memory must hear that it is undone.
        lacks = bool(self._unrecorded)
        try:
            self._fold()
        except sqlite3.Error as exc:
            error = self._failed("written", exc)
            if isinstance(error, JournalDamaged) or self._behind or lacks:
                raise error from exc
            logger.warning("%s; what was confirmed stands in %s", error, REDO)
            self._folding.failed(now)
            return False
        return True

    def _fold(self) -> None:
        """Commit SQLite's transaction; the redo log starts over."""
        if self._in_transaction:
            self._fill()
            token = os.urandom(TOKEN_BYTES)
            if self._redo is not None:
                self._db.execute(SQL["set_meta"], ("redo", token))
            began = time.monotonic()
            self._db.execute("COMMIT")
            self._in_transaction = False
            if self.on_write is not None:
                self.on_write("database", time.monotonic() - began)
            if self._redo is not None:
                self._redo.begin(token)
            if self._marker is not None:
                self._marker.note(token)
        self._executed, self._unrecorded = [], []
        self._aside.clear()
        self._direct = False
        self._folding.made()

    def probe(self) -> bool:
        """Return whether the disk takes a write again.

        Raises:
            JournalDamaged: it is no matter of the disk's room.
        """
        try:
            self._undo()
            if self._behind:
                return False
            self._begin()
            self._db.execute(SQL["set_meta"], ("probe", os.urandom(8192)))
            self._fold()
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as exc:
            error = self._failed("written", exc)
            if isinstance(error, JournalDamaged):
                raise error from exc
            return False
        return True

    def shrink(self) -> None:
        """Give up what is only kept to be quick: pages, and what statements were given last.

        Raises:
            JournalError: the journal can't be used.
        """
        try:
            for name, fields in LARGE.items():
                # A statement keeps its values until it has others; these are refused, for the NULLs in them.
                with suppress(sqlite3.IntegrityError):
                    self._db.execute(SQL[name], (None,) * fields)
            self._db.execute("PRAGMA shrink_memory")
            if self._redo is not None:
                self._redo.cut()
        except sqlite3.Error as exc:
            raise JournalError(f"the journal can't be used: {exc}") from exc

    def backup(self, file: Path) -> None:
        """Write a consistent copy of what was committed when ``fold`` was called last to ``file``.

        It has a connection of its own, and may be called in a thread of its own while the others are used.

        Raises:
            JournalError: the journal is in memory, the file exists, or it can't be written.
        """
        self._copies.write(file)

    def interrupt_backups(self) -> None:
        """Have the backups under way fail now; may be called from another thread than theirs."""
        self._copies.interrupt()

    def _write(self, name: str, row: tuple[Any, ...]) -> None:
        self._pending[name].append(row)
        self._dirty = True

    def _execute(self, name: str, parameters: Sequence[Any] = (), *, writes: bool = False) -> sqlite3.Cursor:
        self._flush()
        try:
            if self._aside and name not in AWARE:
                self._fill()
            if not writes:
                return self._db.execute(SQL[name], parameters)
            self._begin()
            cursor = self._db.execute(SQL[name], parameters)
            self._direct = self._direct or cursor.rowcount != 0
            return cursor
        except sqlite3.Error as exc:
            raise self._failed("written" if writes else "read", exc) from exc

    def _rows(self, name: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Return all rows of a query."""
        cursor = self._execute(name, parameters)
        try:
            return cursor.fetchall()
        except sqlite3.Error as exc:
            raise self._failed("read", exc) from exc

    def _failed(self, what: str, exc: sqlite3.Error | OSError) -> JournalError:
        """Undo what isn't committed; returns the error to raise."""
        self._undo()
        return trouble(self.path, what, exc)

    def _execute_many(self, name: str, rows: Sequence[tuple[Any, ...]]) -> None:
        self._flush()
        try:
            self._begin()
            self._fill()
            self._db.executemany(SQL[name], rows)
            self._direct = True
        except sqlite3.Error as exc:
            raise self._failed("written", exc) from exc

    def next_sequence(self) -> int:
        """See Journal."""
        if self._sequence >= self._sequence_end:
            self._sequence_end = self._sequence + _SEQUENCE_BLOCK
            self._execute("set_meta", ("sequence", self._sequence_end), writes=True)
        self._sequence += 1
        return self._sequence

    def last_sequence(self) -> int:
        """See Journal."""
        return self._sequence
