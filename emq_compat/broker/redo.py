"""What is durable and not in the database yet: one small file, written from its start again and again.

A database that is to keep one message writes every page which that touches, and a file that grows has its own
place on the disk noted with each fsync. So a turn of the broker becomes durable as one record in a file that
is as large as small messages will ever make it, and the database has many turns at once. Large values
(aside.py) make it larger, until it is ``cut``. A record counts if it names the state
of the database that it follows (a token, new with each commit there) and is whole; the first one that doesn't
ends the log.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from emq_compat.errors import JournalDamaged

__all__ = ["RECORD_BYTES", "TOKEN_BYTES", "RedoLog", "Writes", "records", "whole"]

#: The names of a turn's buffered writes with their rows, in the order in which they are executed.
Writes: TypeAlias = "list[tuple[str, list[tuple[Any, ...]]]]"

TOKEN_BYTES = 8
#: A turn that writes more, large values aside, goes into the database at once. A full turn of small messages
#: does not: for a hundred queues it would touch a hundred pages there, which the next one touches again.
RECORD_BYTES = 1 << 18
_FILE_BYTES = 4 << 20
#: So long it may be with large values.
_MOST_BYTES = 256 << 20
#: Pieces that the system takes in one call (IOV_MAX).
_MOST_PIECES = 1024
_CHECKED = struct.Struct(f"<BI{TOKEN_BYTES}s")  # synced, length of the body, token
_SUM = struct.Struct("<I")
_HEAD_BYTES = _SUM.size + _CHECKED.size


class RedoLog:
    """The file of one journal.

    Args:
        file: made if it isn't there, and as large as it will ever be.
        synced: each record is on the disk when ``append`` returns, else in the system's hands.

    Raises:
        OSError: the file can't be made, or there is no room for it.
    """

    def __init__(self, file: Path, *, synced: bool) -> None:
        self.file = file
        self._synced = synced
        self._token = b""
        self._at = 0
        self._limit = _FILE_BYTES
        _make(file)
        self._fd = os.open(file, os.O_RDWR | os.O_CLOEXEC | (os.O_DSYNC if synced else 0))

    @property
    def token(self) -> bytes:
        """The state of the database that it follows."""
        return self._token

    @property
    def end(self) -> int:
        """How many bytes of it count."""
        return self._at

    @property
    def empty(self) -> bool:
        """Whether nothing was appended since ``begin``."""
        return self._at == 0

    def begin(self, token: bytes) -> None:
        """Start over: what is appended from now on follows the state of the database that has this token."""
        self._token = token
        self._at = 0
        self._limit = _FILE_BYTES

    def append(self, writes: Writes, large_bytes: int = 0) -> bool:
        """Make writes durable; False: they are too many, or there is no room until ``begin``.

        ``large_bytes``: what the large values among them have.

        Raises:
            OSError: the file can't be written; the record doesn't count.
        """
        if large_bytes:
            return self._append_large(writes, large_bytes)
        body = pickle.dumps(writes, 4)
        if len(body) > RECORD_BYTES or self._at + _HEAD_BYTES + len(body) > self._limit:
            return False
        checked = _CHECKED.pack(self._synced, len(body), self._token)
        record = b"".join((_SUM.pack(zlib.crc32(body, zlib.crc32(checked))), checked, body))
        if os.pwrite(self._fd, record, self._at) != len(record):
            raise OSError(f"{self.file} was written in part")
        self._at += len(record)
        return True

    def _append_large(self, writes: Writes, large_bytes: int) -> bool:
        """Append a record of which no large value is copied."""
        pieces = _Pieces()
        pickle.Pickler(pieces, 4).dump(writes)
        length = sum(map(len, pieces))
        size = _HEAD_BYTES + length
        if length - large_bytes > RECORD_BYTES or self._at + size > _MOST_BYTES:
            return False
        checked = _CHECKED.pack(self._synced, length, self._token)
        total = zlib.crc32(checked)
        for piece in pieces:
            total = zlib.crc32(piece, total)
        record = [_SUM.pack(total) + checked, *pieces]
        if len(record) > _MOST_PIECES:
            record = [b"".join(record)]
        if os.pwritev(self._fd, record, self._at) != size:
            raise OSError(f"{self.file} was written in part")
        self._at += size
        self._limit = _MOST_BYTES
        return True

    def cut(self) -> None:
        """Give back the room that large values have taken, where nothing in the file counts."""
        if self.empty and os.fstat(self._fd).st_size > _FILE_BYTES:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, _FILE_BYTES)

    def read(self, token: bytes) -> Iterator[Writes]:
        """Yield what was appended since ``begin(token)``; what is appended next stands behind it.

        Raises:
            JournalDamaged: a record in the middle is damaged.
            OSError: the file can't be read.
        """
        self.begin(token)
        # Not by its name: a process without a free descriptor must be able to start over, too.
        content = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
        for self._at, writes in records(content, token):
            yield writes
        self._check_end(content)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _check_end(self, content: bytes) -> None:
        """Tell a record that was just being written from one that was damaged later.

        One that is synced is written when all before it are on the disk.
        """
        if self._at + _HEAD_BYTES > len(content):
            return
        _, length, token = _CHECKED.unpack_from(content, self._at + _SUM.size)
        behind = self._at + _HEAD_BYTES + length
        if token == self._token and _body(content, behind, token) is not None and content[behind + _SUM.size]:
            raise JournalDamaged(
                f"{self.file} is damaged at byte {self._at}: restore a backup, or move this file away "
                "to go on without the last second before the end"
            )


def records(content: bytes, token: bytes) -> Iterator[tuple[int, Writes]]:
    """Yield the records in a log that follow the state with this token, each with where it ends."""
    at = 0
    while (body := _body(content, at, token)) is not None:
        at += _HEAD_BYTES + len(body)
        yield at, _Plain(io.BytesIO(body)).load()


def whole(file: Path, token: bytes) -> int:
    """Return how many bytes of a log count that follows the state with this token."""
    try:
        content = file.read_bytes()
    except OSError:
        return 0
    return max((end for end, _ in records(content, token)), default=0)


def _body(content: bytes, at: int, token: bytes) -> bytes | None:
    """Return the body of the record that begins here; None: there is none that counts."""
    if at + _HEAD_BYTES > len(content):
        return None
    _, length, told = _CHECKED.unpack_from(content, at + _SUM.size)
    body = content[at + _HEAD_BYTES : at + _HEAD_BYTES + length]
    checked = content[at + _SUM.size : at + _HEAD_BYTES]
    matches = (zlib.crc32(body, zlib.crc32(checked)),) == _SUM.unpack_from(content, at)
    return body if matches and told == token else None


class _Pieces(list[bytes]):
    """A file for a pickler, which gives it large values as they are."""

    def write(self, piece: bytes) -> int:
        self.append(piece)
        return len(piece)


class _Plain(pickle.Unpickler):
    """Reads numbers, texts, bytes, lists and tuples, and nothing else."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"{module_name}.{global_name} doesn't belong here")


def _make(file: Path) -> None:
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        missing = _FILE_BYTES - os.fstat(fd).st_size
        if missing > 0:
            os.lseek(fd, 0, os.SEEK_END)
            while missing > 0:
                missing -= os.write(fd, bytes(missing))
            os.fsync(fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
        raise
    finally:
        os.close(fd)
