"""Whether a journal's files are whole, looked into before anything is changed in them.

A journal is ``journal.sqlite3`` with its log ``-wal`` (what isn't in the former yet), its index ``-shm``
(made anew at each start) and its ``-mark`` (mark.py), and ``journal.redo`` (redo.py). Each run of a broker
has an id, written in the journal when it begins and ends and in the mark, so that files of different times
are told apart: one that was copied without its log, a backup put beside a log that isn't its own. What is
proven to lack something is refused; what merely looks unusual is checked in full (check.py) once.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from emq_compat.broker.check import check
from emq_compat.broker.folder import REDO
from emq_compat.broker.mark import Index, Mark, beside, boot_id, read_index, read_mark
from emq_compat.broker.redo import whole
from emq_compat.errors import JournalDamaged

__all__ = ["Found", "advice", "begins_well", "foreign_log", "look", "reading"]

#: The id of the run of which nothing is known: an older release's, or the file is a backup.
_NONE = "none"

#: Generations of the log that the mark may be behind: it isn't fsync'd. Another journal's begin anywhere.
_MOST_GENERATIONS = 1 << 16

_HEAD_BYTES = 32
_FRAME_HEAD_BYTES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A journal that may be used.

    Attributes:
        session: the id of the run that used it last.
        notes: what an operator should know of it.
    """

    session: str = _NONE
    notes: tuple[str, ...] = ()


def advice(journal: Path) -> str:
    """Return what to do with a journal that can't be used."""
    command = f"emq-compat broker --data {journal.parent}"
    return (
        f"`{command} --check` shows what is wrong, `{command} --salvage` makes a new journal of what can be "
        f"read and keeps the files; or restore a backup, or start empty: move all journal.* away first"
    )


def look(journal: Path) -> Found:
    """Look into a journal's files, of which no broker is using any; nothing is changed in them.

    Raises:
        JournalDamaged: something is missing or can't be read; the message says what, and what to do.
    """
    log, mark = _size(beside(journal, "wal")), read_mark(journal)
    try:
        if not _size(journal):
            if log or mark is not None:
                raise JournalDamaged(f"{journal} is missing or empty, though a broker has used it")
            return Found()
        head = _head(journal)
        try:
            session, is_open = _session(journal)
            index = _index(journal) if log else None
        except sqlite3.Error as exc:
            raise JournalDamaged(f"{journal} can't be read: {exc}") from exc
        notes = _compared(journal, session, is_open, mark, index, log)
        notes += _redo(journal, mark)
        _refuse_short(journal, head, index)
        if notes:
            with reading(journal) as db:
                found = [problem for problem in check(db).problems if not problem.minor]
            if found:
                more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
                raise JournalDamaged(f"{journal} is damaged: {found[0]}{more}")
    except JournalDamaged as exc:
        raise JournalDamaged(f"{exc}. {advice(journal)}") from exc.__cause__
    return Found(session=session or _NONE, notes=notes)


def _compared(
    journal: Path, session: str | None, is_open: bool, mark: Mark | None, index: Index | None, log: int
) -> tuple[str, ...]:
    """Compare what the files say of each other; returns what is unusual about them."""
    name, frames = journal.name, index.frames if index is not None else 0
    if mark is None:
        if is_open and not frames:
            raise JournalDamaged(
                f"{name} was in use when the broker ended or the file was copied, and its log {name}-wal is "
                "not here: what it holds is not all"
            )
        return (f"{name} has a log and no {name}-mark: it was checked in full",) if log else ()
    strangers = session is not None and session not in (mark.session, mark.before)
    notes: tuple[str, ...] = ()
    if strangers and frames and _session(journal, "mode=ro")[0] == mark.session:
        # The page with the id is in the log, too: the file's may be half of one.
        notes = (f"{name} was being written when the machine stopped: it was checked in full",)
    elif strangers and (is_open or frames or mark.frames):
        raise JournalDamaged(
            f"{name} and the {name}-wal and {name}-mark beside it are not of the same time (a backup or a "
            "copy was put beside the log of another file)"
        )
    if not mark.frames or (index is not None and _newer(index.salts, mark.salts)):
        return notes
    if index is not None and index.salts == mark.salts and frames >= mark.frames:
        return notes
    there = frames if index is not None and index.salts == mark.salts else 0
    lost = (
        f"the log {name}-wal is {'cut off or damaged' if there else 'missing, or an older one'}: "
        f"{there} of {mark.frames} pages can be read"
    )
    if not mark.full and mark.boot != boot_id():
        return (f"{lost}; with --durability normal a power cut may take what was confirmed last",)
    raise JournalDamaged(
        f"{lost}, so that confirmed messages and ends are missing (unless another program, such as SQLite's "
        "shell, has put the log into the journal since: then --salvage finds all)"
    )


def _redo(journal: Path, mark: Mark | None) -> tuple[str, ...]:
    """Refuse a redo log that follows the journal's last commit and lacks what was confirmed."""
    if mark is None or not mark.redo:
        return ()
    try:
        with reading(journal) as db:
            row = db.execute("SELECT value FROM meta WHERE name = 'redo'").fetchone()
    except sqlite3.Error as exc:
        raise JournalDamaged(f"{journal} can't be read: {exc}") from exc
    file = journal.with_name(REDO)
    if not row or row[0] != mark.token or (there := whole(file, mark.token)) >= mark.redo:
        return ()
    how = "damaged, cut off or an older one" if _size(file) else "missing"
    lost = f"{file} is {how}: {there} of {mark.redo} bytes count"
    if not mark.full and mark.boot != boot_id():
        return (f"{lost}; with --durability normal a power cut may take what was confirmed last",)
    raise JournalDamaged(f"{lost}, so that what was confirmed in the last second is missing")


def _newer(salts: bytes, than: bytes) -> bool:
    """Whether a log is of a later generation: the first of its salts counts them."""
    ahead = int.from_bytes(salts[:4], "big") - int.from_bytes(than[:4], "big")
    return 0 < ahead % (1 << 32) < _MOST_GENERATIONS


def _session(journal: Path, how: str = "immutable=1") -> tuple[str | None, bool]:
    """Return the id of the run that used the journal's file last, and whether it had not ended.

    ``how``: the file without its log, or with it. None: it can't be read.
    """
    with _opened(journal, how) as db:
        try:
            row = db.execute("SELECT value FROM meta WHERE name = 'session'").fetchone()
        except sqlite3.DatabaseError:
            return None, False
    session, _, state = str(row[0]).partition(" ") if row else (_NONE, "", "")
    return session, state == "open"


def _index(journal: Path) -> Index | None:
    """Return what SQLite finds in a log; it says so in the -shm file, which it makes for that."""
    with _opened(journal, "mode=ro") as db:
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        try:
            index = read_index(beside(journal, "shm").read_bytes()[:64])
            if index is not None and not index.frames:
                salts = _salts(beside(journal, "wal").read_bytes()[:_HEAD_BYTES])
                return replace(index, salts=salts) if salts else None
            return index
        except OSError:
            return None


def _salts(head: bytes) -> bytes:
    """Return the salts in the first bytes of a log; none: these aren't whole."""
    if len(head) < _HEAD_BYTES:
        return b""
    a = b = 0
    order: Literal["big", "little"] = "big" if head[3] & 1 else "little"
    for at in range(0, 24, 8):
        a = (a + int.from_bytes(head[at : at + 4], order) + b) % (1 << 32)
        b = (b + int.from_bytes(head[at + 4 : at + 8], order) + a) % (1 << 32)
    return head[16:24] if head[24:32] == a.to_bytes(4, "big") + b.to_bytes(4, "big") else b""


def _head(journal: Path) -> bytes:
    """Return the file's first bytes, which say what it is."""
    with open(journal, "rb") as file:
        head = file.read(100)
    if len(head) < 100 or not begins_well(head):
        raise JournalDamaged(f"{journal} can't be read: it is no database, or its beginning is overwritten")
    return head


def begins_well(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a database."""
    return head.startswith(b"SQLite format 3\0")


def foreign_log(journal: Path) -> bool:
    """Whether the log beside a journal is known to be another file's."""
    mark = read_mark(journal)
    if mark is None or not _size(beside(journal, "wal")):
        return False
    try:
        session, _ = _session(journal)
        known = session in (None, mark.session, mark.before)
        return not known and _session(journal, "mode=ro")[0] != mark.session
    except sqlite3.Error:
        return False


def _refuse_short(journal: Path, head: bytes, index: Index | None) -> None:
    """Refuse a file that has been cut off: one that lacks pages which aren't in the log either."""
    size = int.from_bytes(head[16:18], "big")
    size = 65536 if size == 1 else size
    in_log = index is not None and index.frames > 0
    pages = index.pages if index is not None and in_log else int.from_bytes(head[28:32], "big")
    present = _size(journal) // size
    lacking = pages - present
    if lacking > 0 and index is not None and in_log:
        lacking -= sum(present < page <= pages for page in _pages_in(beside(journal, "wal"), index))
    if lacking > 0:
        raise JournalDamaged(f"{journal} is cut off: {lacking} of its {pages} pages are missing")


def _pages_in(log: Path, index: Index) -> set[int]:
    fd = os.open(log, os.O_RDONLY)
    try:
        step = _FRAME_HEAD_BYTES + index.page_bytes
        heads = (os.pread(fd, 4, _HEAD_BYTES + n * step) for n in range(index.frames))
        return {int.from_bytes(head, "big") for head in heads}
    finally:
        os.close(fd)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


@contextmanager
def _opened(journal: Path, how: str) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(f"{journal.absolute().as_uri()}?{how}", uri=True, isolation_level=None)
    try:
        yield db
    finally:
        db.close()


@contextmanager
def reading(journal: Path, *, in_use: bool = False) -> Iterator[sqlite3.Connection]:
    """Open a journal for reading only, in one transaction; a broker may be using it (``in_use``)."""
    # Without a log SQLite needs no locks, and so makes no files.
    how = "mode=ro" if in_use or _size(beside(journal, "wal")) else "immutable=1"
    with _opened(journal, how) as db:
        db.execute("BEGIN")
        yield db
