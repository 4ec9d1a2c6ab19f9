"""The journal: SQLite in WAL mode, one transaction for each batch of the server.

Writes are collected and executed in bulk, in an order in which they can't disturb each other, when the batch
is committed or when a read needs to see them.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import IO, Any

from emq_compat.broker.records import (
    SEQUENCE_MASK,
    ChordRow,
    DeadLetter,
    QueueRow,
    ScheduleRow,
    StoredMessage,
    StoredResult,
    home_key,
)
from emq_compat.errors import JournalError

__all__ = ["SCHEMA_VERSION", "Store"]

#: Version of the tables in queries.sql. Newer code migrates an older folder, older code refuses a newer one.
SCHEMA_VERSION = 2
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


_SQL = _load_queries()

#: Buffered writes in the order in which they are executed.
_WRITES = (
    "add_message",
    "add_delayed",
    "add_held",
    "give_back",
    "end_hand_out",
    "hand_out",
    "bury",
    "drop_message",
    "remember_finished",
    "put_result",
    "revoke",
    "put_schedule",
    "set_counts",
    "add_part",
    "put_chord",
    "drop_parts",
    "drop_chord",
)


class Store:
    """The engine's Journal on disk (``folder``) or, with ``folder=None``, in memory.

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
        row = self._db.execute(_SQL["get_meta"], ("finished",)).fetchone()
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
            steps = [_SQL["schema"]] if version == 0 else []
            steps += [_SQL[f"migrate_{step}"] for step in range(max(version, 1), SCHEMA_VERSION)]
            script = "\n".join(["BEGIN;", *steps, f"PRAGMA user_version = {SCHEMA_VERSION};", "COMMIT;"])
            self._db.executescript(script)
        elif version > SCHEMA_VERSION:
            raise JournalError(
                f"{self.path} was written by a newer emq-compat "
                f"(schema {version}, this one knows {SCHEMA_VERSION}): upgrade"
            )

    def _reserved(self) -> int:
        row = self._db.execute(_SQL["get_meta"], ("sequence",)).fetchone()
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
                    sql = _SQL[name]
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
            self._db.execute(_SQL["set_meta"], ("probe", os.urandom(8192)))
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
            return self._db.execute(_SQL[name], parameters)
        except sqlite3.Error as exc:
            self._undo()
            raise JournalError(f"the journal can't be {'written' if writes else 'read'}: {exc}") from exc

    # Messages

    def known(self, msgids: Sequence[str]) -> set[str]:
        """See Journal."""
        return {row[0] for row in self._execute("known", (json.dumps(msgids),))}

    def next_sequence(self) -> int:
        """See Journal."""
        if self._sequence >= self._sequence_end:
            self._sequence_end = self._sequence + _SEQUENCE_BLOCK
            self._execute("set_meta", ("sequence", self._sequence_end), writes=True)
        self._sequence += 1
        return self._sequence

    def add_queue(self, name: str) -> int:
        """Make a queue; returns its id."""
        return self._execute("add_queue", (name,), writes=True).lastrowid or 0

    def queues(self) -> list[QueueRow]:
        """Return every queue."""
        return [QueueRow(*row) for row in self._execute("queues")]

    def set_counts(self, queue_id: int, waiting: int, delayed: int) -> None:
        """Note a queue's counts."""
        self._write("set_counts", (waiting, delayed, queue_id))

    def add_message(self, key: int, msgid: str, header_text: str, payload: bytes, marked: str | None) -> None:
        """Store a message that waits."""
        self._write("add_message", (key, msgid, header_text, payload, marked))

    def add_delayed(
        self,
        sequence: int,
        home: int,
        due_ms: int,
        msgid: str,
        header_text: str,
        payload: bytes,
        marked: str | None,
    ) -> None:
        """Store a message that waits for its time."""
        self._write("add_delayed", (sequence, home, due_ms, msgid, header_text, payload, marked))

    def add_held(
        self, sequence: int, home: int, msgid: str, header_text: str, payload: bytes, marked: str | None
    ) -> None:
        """See Journal."""
        self._write("add_held", (sequence, home, msgid, header_text, payload, marked))

    def release(
        self,
        key: int,
        new_key: int,
        home: int | None,
        due_ms: int | None,
        header_text: str,
        payload: bytes,
    ) -> None:
        """See Journal."""
        self._execute("release", (key, new_key, home, due_ms, header_text, payload), writes=True)

    def marked_as(self, task_id: str) -> list[tuple[StoredMessage, int | None]]:
        """See Journal."""
        return [(StoredMessage(*row[:6]), row[6]) for row in self._execute("marked_as", (task_id,))]

    def marked_in(self, queue_id: int) -> list[StoredMessage]:
        """See Journal."""
        return [StoredMessage(*row) for row in self._execute("marked_in", _range(queue_id))]

    def remember(self, msgid: str) -> None:
        """See Journal."""
        self._write("remember_finished", (msgid,))

    def next_due_ms(self) -> int | None:
        """Return when the next delayed message is due, unix milliseconds."""
        due: int | None = self._execute("next_due_ms").fetchone()[0]
        return due

    def due(self, until_ms: int, limit: int) -> list[tuple[int, int]]:
        """See Journal."""
        return self._execute("due", (until_ms, limit)).fetchall()

    def make_ready(self, moves: Sequence[tuple[int, int]]) -> None:
        """See Journal."""
        self._flush()
        self._begin()
        try:
            self._db.executemany(_SQL["make_ready"], moves)
        except sqlite3.Error as exc:
            self._undo()
            raise JournalError(f"the journal can't be written: {exc}") from exc

    def read_messages(self, after_key: int, last_key: int, limit: int) -> Iterator[StoredMessage]:
        """See Journal."""
        cursor = self._execute("read_messages", (after_key, last_key, limit))
        try:
            for row in cursor:
                yield StoredMessage(*row)
        finally:
            cursor.close()

    def read_message(self, key: int) -> StoredMessage | None:
        """Return one message."""
        row = self._execute("read_message", (key,)).fetchone()
        return StoredMessage(*row) if row else None

    def hand_out(self, key: int, attempt: int, worker: bytes, late: bool) -> None:
        """Note a hand-out."""
        self._write("hand_out", (key, attempt, worker, late))

    def give_back(self, key: int, attempt: int, losses: int) -> None:
        """See Journal."""
        self._write("give_back", (key, attempt, losses))
        self._write("end_hand_out", (key,))

    def mark_redelivered(self, key: int) -> None:
        """See Journal."""
        self._execute("mark_redelivered", (key,), writes=True)

    def in_flight(self) -> list[tuple[StoredMessage, int, bytes, bool]]:
        """See Journal."""
        return [(StoredMessage(*row[:6]), row[6], row[7], bool(row[8])) for row in self._execute("in_flight")]

    def finish(self, key: int, msgid: str) -> None:
        """See Journal."""
        self._write("end_hand_out", (key,))
        self._write("drop_message", (key,))
        self._write("remember_finished", (msgid,))

    def bury(self, key: int, msgid: str, queue: str, reason: str, at: float, losses: int) -> None:
        """See Journal."""
        self._write("bury", (key, queue, reason, at, losses))
        self.finish(key, msgid)

    def purge(self, queue_id: int) -> int:
        """See Journal."""
        n = self._execute("purge_waiting", _range(queue_id), writes=True).rowcount
        return n + self._execute("purge_delayed", _range(queue_id), writes=True).rowcount

    def rotate_finished(self) -> None:
        """See Journal."""
        self._flush()
        self._generation = 1 - self._generation
        self._execute("set_meta", ("finished", self._generation), writes=True)
        self._db.execute(_SQL["forget_finished"].format(current=self._generation))

    # Chords

    def chords(self) -> list[ChordRow]:
        """Return every chord."""
        return [ChordRow(*row) for row in self._execute("chords")]

    def put_chord(
        self,
        number: int,
        chord_id: str,
        size: int,
        grown: int,
        arrived: int,
        body: int | None,
        failure: str | None,
        at: float,
    ) -> None:
        """Store a chord, or what it has become."""
        self._write("put_chord", (number, chord_id, size, grown, arrived, body, failure, at))

    def drop_chord(self, number: int) -> None:
        """Delete a chord."""
        self._write("drop_chord", (number,))

    def expect_part(self, number: int, place: str) -> bool:
        """See Journal."""
        return self._execute("expect_part", (number, place), writes=True).rowcount > 0

    def add_part(self, number: int, place: str, value: bytes) -> None:
        """See Journal."""
        self._write("add_part", (number, place, value))

    def parts(self, number: int) -> list[tuple[str, bytes]]:
        """See Journal."""
        return self._execute("parts", (number,)).fetchall()

    def drop_parts(self, number: int) -> None:
        """Delete the values of a chord's parts."""
        self._write("drop_parts", (number,))

    # Results, revokes, schedules, dead letters

    def put_result(self, task_id: str, state: str, body: bytes, expires_at: float | None) -> None:
        """Store a result; ``expires_at`` is unix seconds, None: kept for good."""
        self._write("put_result", (task_id, state, body, expires_at))

    def results(self, task_ids: Sequence[str]) -> dict[str, StoredResult]:
        """Return those of these results that are stored."""
        rows = self._execute("results", (json.dumps(task_ids),))
        return {task_id: StoredResult(state, body) for task_id, state, body in rows}

    def forget(self, task_ids: Sequence[str]) -> int:
        """Delete results; returns how many."""
        return self._execute("forget", (json.dumps(task_ids),), writes=True).rowcount

    def expire_results(self, until: float, limit: int) -> int:
        """Delete results that have expired; returns how many (at most ``limit``)."""
        return self._execute("expire_results", (until, limit), writes=True).rowcount

    def revoke(self, task_id: str, expires_at: float) -> None:
        """Remember a revoke."""
        self._write("revoke", (task_id, expires_at))

    def revoked(self, now: float) -> list[str]:
        """Return the task ids that are revoked; those past their time are forgotten."""
        self._execute("drop_old_revokes", (now,), writes=True)
        return [row[0] for row in self._execute("revoked")]

    def put_schedule(self, row: ScheduleRow) -> None:
        """Store a schedule, or what it has become."""
        self._write("put_schedule", tuple(row))

    def drop_schedule(self, key: str) -> bool:
        """Delete a schedule; returns whether there was one."""
        return self._execute("drop_schedule", (key,), writes=True).rowcount > 0

    def schedules(self) -> list[ScheduleRow]:
        """Return every schedule."""
        return [ScheduleRow(*row) for row in self._execute("schedules")]

    def dead_letters(self, after_key: int, limit: int) -> list[DeadLetter]:
        """Return dead letters without payload, oldest first."""
        return [DeadLetter(*row) for row in self._execute("dead_letters", (after_key, limit))]

    def dead_letter(self, key: int) -> DeadLetter | None:
        """Return one dead letter, whole."""
        row = self._execute("dead_letter", (key,)).fetchone()
        return DeadLetter(*row) if row else None

    def drop_dead(self, keys: Sequence[int]) -> int:
        """Delete dead letters; returns how many."""
        return sum(self._execute("drop_dead", (key,), writes=True).rowcount for key in keys)

    def sizes(self) -> dict[str, Any]:
        """Return counts and bytes for ``stats``."""
        pages = self._execute("count_dead").fetchone()[0]
        size = self.path.stat().st_size if self.path is not None else 0
        return {"dead": pages, "results": self._execute("count_results").fetchone()[0], "journal_bytes": size}


def _range(queue_id: int) -> tuple[int, int]:
    """Return the keys between which a queue's messages are."""
    return home_key(queue_id, 9), home_key(queue_id, 0) | SEQUENCE_MASK


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
