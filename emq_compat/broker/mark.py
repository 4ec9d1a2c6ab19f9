"""How far the journal was written, noted beside it: ``journal.sqlite3-mark``.

SQLite takes its log (the -wal file) for ended at the first place that it can't read, and a log that is
missing for an empty one: what was behind it would be gone without a word. After each commit the mark says how
long the log is, and the redo log (redo.py) that follows it. It isn't fsync'd, so after a power cut it may say
less than the logs hold, but never more.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

__all__ = ["Index", "Mark", "Marker", "beside", "boot_id", "read_index", "read_mark"]

_SIZE = 256
#: A record of the redo log that follows so closely is noted with a later one, at the latest with SQLite's
#: next commit: each write makes the next fsync on the same disk dearer.
EVERY_S = 0.1
#: SQLite's "WAL-index header" (sqlite.org/walformat.html): version, 8 bytes, ready, …, page size, frames,
#: pages in the database, checksums, salts.
_INDEX = struct.Struct("=III?BHII8s8s")
_INDEX_VERSION = 3007000


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a mark says.

    Attributes:
        session: the id of the broker's run that wrote it.
        before: that of the run before it, while a run begins; else empty.
        closed: that run has ended orderly, and nothing in the log is needed.
        full: each commit was fsync'd.
        boot: which start of the machine it was written in.
        salts: of the log's generation, as they stand in its header.
        frames: pages in the log; 0: none of them is needed.
        token: which commit the redo log follows (redo.py).
        redo: bytes of it that count.
    """

    session: str
    before: str = ""
    closed: bool = False
    full: bool = True
    boot: str = ""
    salts: bytes = bytes(8)
    frames: int = 0
    token: bytes = bytes(8)
    redo: int = 0

    def encode(self) -> bytes:
        """Return the file's content, in one sector of a disk."""
        logs = f" {self.salts.hex()} {self.frames} {self.token.hex()} {self.redo}"
        return _checked(self.head() + logs.encode())

    def head(self) -> bytes:
        """Return the part of its content that stays the same from commit to commit."""
        state = "closed" if self.closed else "open"
        fields = (
            self.session,
            self.before or "-",
            state,
            "full" if self.full else "normal",
            self.boot or "-",
        )
        return f"emq-compat 1 {' '.join(fields)}".encode()

    @classmethod
    def decode(cls, content: bytes) -> Mark | None:
        """Return what a mark says; None: it can't be understood."""
        text, _, checksum = content.rstrip().rpartition(b" ")
        try:
            if int(checksum, 16) != zlib.crc32(text):
                return None
            _, version, *fields = text.decode().split(" ")
            if version != "1":
                return None
            session, before, state, durability, boot, salts, frames, token, redo = fields
            return cls(
                session=session,
                before=before.strip("-"),
                closed=state == "closed",
                full=durability == "full",
                boot=boot.strip("-"),
                salts=bytes.fromhex(salts),
                frames=int(frames),
                token=bytes.fromhex(token),
                redo=int(redo),
            )
        except ValueError:
            return None


def _checked(text: bytes) -> bytes:
    return (text + b" %08x" % zlib.crc32(text)).ljust(_SIZE - 1) + b"\n"


def boot_id() -> str:
    """Return which start of the machine this is; empty where the system doesn't say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def beside(journal: Path, what: str) -> Path:
    """Return one of the files beside a journal: its ``wal``, ``shm`` or ``mark``."""
    return journal.with_name(f"{journal.name}-{what}")


def read_mark(journal: Path) -> Mark | None:
    """Return what the mark beside a journal says; None: there is none, or it can't be understood."""
    try:
        return Mark.decode(beside(journal, "mark").read_bytes())
    except OSError:
        return None


class Marker:
    """Writes the mark of a journal that is in use.

    Args:
        journal: the journal's file.
        mark: what it says at first, on disk when this returns.

    Raises:
        OSError: it can't be written.
    """

    def __init__(self, journal: Path, mark: Mark) -> None:
        self._journal = journal
        self._mark = replace(mark, boot=boot_id())
        self._head = self._log = b""
        self._noted_at = -EVERY_S
        self._index: int | None = None
        self._fd = os.open(beside(journal, "mark"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._write()
            folder = os.open(journal.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except BaseException:
            os.close(self._fd)
            raise

    def say(self, *, closed: bool = False) -> None:
        """Have it say, on disk, that nothing in the log is needed, and whether the run has ended.

        Raises:
            OSError: it can't be written.
        """
        self._mark = replace(self._mark, before="", closed=closed, frames=0, redo=0)
        self._write()

    def note(self, token: bytes) -> None:
        """Note how long the log is, and that the redo log begins anew; called after each commit of SQLite's.

        Where it can't be written the former mark stays, which promises less.
        """
        try:
            # Never closed before SQLite's own: that would free the locks of this process on the file.
            if self._index is None:
                self._index = os.open(beside(self._journal, "shm"), os.O_RDONLY)
            found = read_index(os.pread(self._index, _INDEX.size, 0))
        except OSError:
            return
        if found is not None:
            self._log = b"%s %d" % (found.salts.hex().encode(), found.frames)
            self.note_redo(token, 0)

    def note_redo(self, token: bytes, end: int) -> None:
        """Note how long the redo log is that follows the commit with this token, unless it was just noted."""
        now = time.monotonic()
        if end and now < self._noted_at + EVERY_S:
            return
        self._noted_at = now
        text = b"%s %s %s %d" % (self._head, self._log, token.hex().encode(), end)
        with suppress(OSError):
            os.pwrite(self._fd, _checked(text), 0)

    def _write(self) -> None:
        self._head, self._log = self._mark.head(), f"{bytes(8).hex()} 0".encode()
        os.pwrite(self._fd, self._mark.encode(), 0)
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the files; SQLite's must be closed already."""
        os.close(self._fd)
        if self._index is not None:
            os.close(self._index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """What SQLite knows of the log: its generation, its valid pages, and the pages of the whole database."""

    salts: bytes
    frames: int
    pages: int
    page_bytes: int


def read_index(header: bytes) -> Index | None:
    """Return what the first bytes of a -shm file say; None: they can't be understood."""
    if len(header) < _INDEX.size:
        return None
    version, _, _, ready, _, size, frames, pages, _, salts = _INDEX.unpack_from(header)
    if version != _INDEX_VERSION or not ready:
        return None
    return Index(salts=salts, frames=frames, pages=pages, page_bytes=65536 if size == 1 else size)
