"""A new journal made of what can be read of a damaged one. The old files are kept, nothing is overwritten."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emq_compat.broker.check import TABLES, Progress, check, tables_of, wrong_headers
from emq_compat.broker.folder import JOURNAL, REDO, claim
from emq_compat.broker.mark import beside, read_mark
from emq_compat.broker.opening import begins_well, foreign_log, reading
from emq_compat.broker.reading import Gap, Table
from emq_compat.broker.records import SEQUENCE_MASK, queue_of
from emq_compat.broker.redo import TOKEN_BYTES, Writes, records
from emq_compat.broker.schema import SCHEMA_VERSION, SQL
from emq_compat.errors import JournalDamaged, JournalError

__all__ = ["Salvaged", "salvage"]

_STEP = 20_000
_OWN_META = ("session", "probe", "redo")


@dataclass(slots=True, kw_only=True)
class Salvaged:
    """What has come of it.

    Attributes:
        counts: rows in the new journal, by table.
        lost: what couldn't be read, or not be kept as it was, a line each.
        notes: what else there is to know.
        kept: the old files, under their new names.
    """

    counts: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)


def salvage(folder: Path, progress: Progress | None = None) -> Salvaged:
    """Make a new journal in a data folder that no broker uses.

    Raises:
        FolderInUse: a broker uses it.
        JournalError: there is nothing that can be read, or no room; everything is as it was.
    """
    tell = progress or (lambda table, rows: None)
    journal = folder / JOURNAL
    if not journal.exists():
        raise JournalError(f"there is no {journal} to salvage; restore a backup")
    lock = claim(folder)
    work = folder / f"salvage-{os.getpid()}-{time.time_ns()}"
    try:
        work.mkdir(mode=0o700)
        try:
            done = Salvaged()
            new = work / JOURNAL
            with _source(journal, work, done) as old:
                _copy(journal, old, new, done, tell)
            _swap(journal, new, done)
        finally:
            shutil.rmtree(work)
    except (OSError, sqlite3.Error) as exc:
        raise JournalError(f"{journal} can't be salvaged: {exc}; nothing was changed") from exc
    finally:
        lock.close()
    return done


@contextmanager
def _source(journal: Path, work: Path, done: Salvaged) -> Iterator[sqlite3.Connection]:
    """Open the old journal, or a copy whose beginning and size are mended, so that SQLite reads it."""
    log: Path | None = beside(journal, "wal")
    if foreign_log(journal):
        done.notes.append(f"{beside(journal, 'wal').name} belongs to another file and was left out")
        log = None
    mended = _mended(journal, work, log, done)
    with reading(mended) as db:
        try:
            tables = tables_of(db)
        except sqlite3.DatabaseError as exc:
            raise JournalDamaged(
                f"nothing of {journal} can be read ({exc}): restore a backup; nothing was changed"
            ) from exc
        if "messages" not in tables:
            raise JournalDamaged(
                f"{journal} has no messages that could be found: restore a backup; nothing was changed"
            )
        yield db


def _mended(journal: Path, work: Path, log: Path | None, done: Salvaged) -> Path:
    with open(journal, "rb") as file:
        head = file.read(100)
    size = journal.stat().st_size
    if len(head) < 100:
        raise JournalDamaged(f"nothing of {journal} can be read ({size} bytes are left): restore a backup")
    whole = begins_well(head)
    pages = int.from_bytes(head[28:32], "big")
    page_bytes = int.from_bytes(head[16:18], "big") if whole else 4096
    if whole and size >= pages * page_bytes and log is not None:
        return journal
    copy = work / "old.sqlite3"
    shutil.copyfile(journal, copy)
    if log is not None and log.exists():
        shutil.copyfile(log, beside(copy, "wal"))
    with open(copy, "r+b") as file:
        if not whole:
            done.notes.append("the beginning of the file was overwritten, and was made anew")
            pages = -(-size // page_bytes)
            file.write(_head(pages))
        if whole and size < pages * page_bytes:
            done.lost.append(f"{pages - size // page_bytes} of {pages} pages: the file is cut off")
            file.truncate(pages * page_bytes)
    return copy


def _head(pages: int) -> bytes:
    """Return the beginning of a database such as ours, of so many pages."""
    head = bytearray(100)
    head[:16] = b"SQLite format 3\0"
    head[16:24] = (4096).to_bytes(2, "big") + bytes((2, 2, 0, 64, 32, 32))
    head[24:28] = head[92:96] = (1).to_bytes(4, "big")
    head[28:32] = pages.to_bytes(4, "big")
    head[44:48] = (4).to_bytes(4, "big")
    head[56:60] = (1).to_bytes(4, "big")
    head[60:64] = SCHEMA_VERSION.to_bytes(4, "big")
    return bytes(head)


def _copy(journal: Path, old: sqlite3.Connection, new: Path, done: Salvaged, tell: Progress) -> None:
    """Fill a new journal."""
    version = old.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise JournalError(f"{journal} was written by a newer emq-compat (schema {version}): use that one")
    os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    db = sqlite3.connect(new, isolation_level=None)
    try:
        migrations = [SQL[f"migrate_{step}"] for step in range(1, SCHEMA_VERSION)]
        db.executescript("\n".join(["BEGIN;", SQL["schema"], *migrations, "COMMIT;"]))
        db.execute("BEGIN")
        for table in TABLES:
            _copy_table(old, db, table, done, tell)
        _name_lost(old, db, done)
        _follow(journal, old, db, done)
        _settle(db, done)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
        db.execute("BEGIN")
        checked = check(db, tell)
        db.execute("COMMIT")
        done.lost += [f"kept as it is: {problem}" for problem in checked.problems]
        done.counts = checked.counts
    finally:
        db.close()
    with open(new, "rb") as file:
        os.fsync(file.fileno())


def _copy_table(
    old: sqlite3.Connection, db: sqlite3.Connection, name: str, done: Salvaged, tell: Progress
) -> None:
    ours = [row[1] for row in db.execute(f"PRAGMA table_info({name})")]
    theirs = {row[1] for row in old.execute(f"PRAGMA table_info({name})")}
    columns = [column for column in ours if column in theirs]
    if not columns:
        return  # an older schema hasn't it

    def gap(gap: Gap) -> None:
        done.lost.append(f"{name}: {gap}")
        if name == "in_flight":
            done.lost.append(
                f"{name}: messages whose hand-out can't be read wait again, and may run a second time"
            )

    insert = f"INSERT OR IGNORE INTO {name} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    for n, row in enumerate(Table(old, name, TABLES[name], columns, gap).rows()):
        if n % _STEP == 0:
            tell(name, n)
        named = dict(zip(columns, row, strict=True))
        if name == "meta" and named["name"] in _OWN_META:
            continue
        if wrong := wrong_headers(named.get("headers", "")):
            done.lost.append(f"{name}: {_shown(named)}: {wrong}")
            continue
        try:
            taken = db.execute(insert, row).rowcount
        except sqlite3.IntegrityError as exc:
            done.lost.append(f"{name}: {_shown(named)}: {exc}")
        else:
            if not taken:
                done.lost.append(f"{name}: {_shown(named)}: it is there twice; the first one was kept")


def _shown(row: dict[str, Any]) -> str:
    names = ("msgid", "task_id", "key", "name", "number", "id")
    return " ".join(f"{name} {row[name]}" for name in names if row.get(name) is not None)


def _name_lost(old: sqlite3.Connection, db: sqlite3.Connection, done: Salvaged) -> None:
    """Name the messages and results that an index still knows."""
    known = {
        "messages": ("msgid", "key", "sqlite_autoindex_messages_1", "msgid"),
        "results": ("task_id", "expires_at", "results_expiry", "expires_at"),
    }
    for table, (name, more, index, order) in known.items():
        there = {row[0] for row in db.execute(f"SELECT {name} FROM {table}")}
        query = f"SELECT {name}, {more} FROM {table} INDEXED BY {index} WHERE {order} > ? ORDER BY {order}"
        try:
            for found, key in old.execute(query, ("" if order == "msgid" else 0,)):
                if found not in there:
                    done.lost.append(f"{table}: {found}{_where(db, table, key)}")
        except sqlite3.DatabaseError:
            continue


def _where(db: sqlite3.Connection, table: str, key: Any) -> str:
    if table != "messages" or not isinstance(key, int) or not queue_of(key):
        return ""
    row = db.execute("SELECT name FROM queues WHERE id = ?", (queue_of(key),)).fetchone()
    return f" of the queue {row[0] if row else queue_of(key)}"


def _follow(journal: Path, old: sqlite3.Connection, db: sqlite3.Connection, done: Salvaged) -> None:
    """Do what stands in the redo log, as far as it still fits."""
    try:
        content = journal.with_name(REDO).read_bytes()
        row = old.execute(SQL["get_meta"], ("redo",)).fetchone()
    except (OSError, sqlite3.DatabaseError) as exc:
        content, row = b"", None
        done.lost.append(f"{REDO}: {exc}")
    mark, token = read_mark(journal), row[0] if row else bytes(TOKEN_BYTES)
    if mark is not None and mark.redo:
        if mark.token != token:
            done.lost.append(f"the changes between the last one that can be read and {REDO}")
        token = mark.token
    end = 0
    row = db.execute(SQL["get_meta"], ("finished",)).fetchone()
    current = int(row[0]) if row else 0
    for end, writes in records(content, token):  # noqa: B007 - looked at below
        _do(db, writes, current, done)
    if mark is not None and mark.redo > end:
        done.lost.append(f"{REDO}: what was confirmed last, {mark.redo - end} of {mark.redo} bytes")


def _do(db: sqlite3.Connection, writes: Writes, current: int, done: Salvaged) -> None:
    for name, rows in writes:
        sql = SQL[name].format(current=current) if name == "remember_finished" else SQL[name]
        for row in rows:
            try:
                db.execute(sql, row)
            except sqlite3.IntegrityError as exc:
                done.notes.append(f"{REDO}: {name}: {exc}")


def _settle(db: sqlite3.Connection, done: Salvaged) -> None:
    """Make rows fit each other again whose counterparts are lost."""
    for key, attempt in db.execute(
        "SELECT key, attempt FROM in_flight WHERE key NOT IN (SELECT key FROM messages)"
    ).fetchall():
        done.lost.append(f"in_flight: hand-out {attempt} of the message {key}, which is lost")
        db.execute("DELETE FROM in_flight WHERE key = ?", (key,))
    queues = {row[0] for row in db.execute("SELECT id FROM queues")}
    homes = db.execute("SELECT DISTINCT coalesce(home, key) >> 45 FROM messages").fetchall()
    for (queue,) in homes:
        if queue not in queues:
            done.lost.append(f"queues: the name of queue {queue}; its messages are in salvaged-{queue}")
            db.execute("INSERT INTO queues (id, name) VALUES (?, ?)", (queue, f"salvaged-{queue}"))
    for number, chord in db.execute(
        "SELECT number, id FROM chords WHERE body IS NOT NULL AND body NOT IN (SELECT key FROM messages)"
    ).fetchall():
        done.lost.append(f"chords: the body of {chord}")
        db.execute("UPDATE chords SET body = NULL, size = -1 WHERE number = ?", (number,))
    db.execute("DELETE FROM parts WHERE chord NOT IN (SELECT number FROM chords)")
    db.execute(
        """DELETE FROM parts WHERE value IS NOT NULL
        AND chord IN (SELECT number FROM chords WHERE failure NOT NULL)"""
    )
    for number, chord, arrived, values in db.execute(
        """SELECT number, id, arrived, (SELECT count(*) FROM parts WHERE chord = number AND value NOT NULL)
        FROM chords WHERE failure IS NULL"""
    ).fetchall():
        if values != arrived:
            done.notes.append(f"chord {chord}: parts that had ended: {arrived}, values there: {values}")
            db.execute("UPDATE chords SET arrived = ? WHERE number = ?", (values, number))
    _bury_orphans(db, done)
    _count(db)


def _bury_orphans(db: sqlite3.Connection, done: Salvaged) -> None:
    """Put aside the bodies of chords that are lost: nothing would ever let them go."""
    orphans = db.execute(
        """SELECT m.key, m.msgid, q.name FROM messages m JOIN queues q ON q.id = m.home >> 45
        WHERE m.due_ms IS NULL AND m.gate IS NULL
        AND m.key NOT IN (SELECT body FROM chords WHERE body NOT NULL)"""
    ).fetchall()
    for key, msgid, queue in orphans:
        done.lost.append(f"chords: that of the body {msgid}, which is a dead letter now")
        reason = "its chord was lost with a part of the journal"
        db.execute(SQL["bury"], (key, queue, reason, time.time(), 0, 0))
        db.execute(SQL["drop_message"], (key,))


def _count(db: sqlite3.Connection) -> None:
    """Count the messages of each queue, and the numbers that are used."""
    waiting: Counter[int] = Counter()
    delayed: Counter[int] = Counter()
    last = 0
    for key, home, due_ms, flies in db.execute(
        "SELECT key, home, due_ms, key IN (SELECT key FROM in_flight) FROM messages"
    ):
        last = max(last, key & SEQUENCE_MASK)
        if home is None and not flies:
            waiting[queue_of(key)] += 1
        elif due_ms is not None:
            delayed[queue_of(home)] += 1
    for (queue,) in db.execute("SELECT id FROM queues").fetchall():
        db.execute(SQL["set_counts"], (waiting[queue], delayed[queue], queue))
    row = db.execute(SQL["get_meta"], ("sequence",)).fetchone()
    db.execute(SQL["set_meta"], ("sequence", max(last, int(row[0]) if row else 0)))


def _swap(journal: Path, new: Path, done: Salvaged) -> None:
    """Put the new journal in the place of the old one, whose files are kept beside it."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    number = 0
    while list(journal.parent.glob(f"damaged-{stamp}*")):
        number += 1
        stamp = f"{stamp.split('.')[0]}.{number}"
    old = [journal, beside(journal, "wal"), beside(journal, "mark"), journal.with_name(REDO)]
    for file in old:
        if file.exists():
            kept = file.with_name(f"damaged-{stamp}-{file.name}")
            os.link(file, kept)
            done.kept.append(kept)
    # From here on the old journal lacks its log, and is refused if this is cut off.
    for file in [*old[1:], beside(journal, "shm")]:
        file.unlink(missing_ok=True)
    os.replace(new, journal)
    fd = os.open(journal.parent, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
