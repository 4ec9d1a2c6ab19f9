"""Bodies that were compressed, decompressed no further than a limit: a few kilobytes may stand for gigabytes.

kombu knows which compressions there are (a project may have registered its own), and reads a message's body
as soon as the message is made. ``bound`` has it do so within the limit, in this process.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from emq_compat.errors import MessageError

__all__ = ["MOST_BYTES", "bound"]

#: A body may become so long: twice what the largest message holds.
MOST_BYTES = 128 << 20
#: What an LZMA stream may ask for beside its output.
_LZMA_BYTES = 256 << 20
_CHUNK_BYTES = 1 << 20


class _Stream(Protocol):
    eof: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def bound() -> None:
    """Have kombu decompress within the limit, whoever asks it to; a second time, it changes nothing.

    Raises nothing; what kombu reads then raises MessageError for a body that is longer, or ends too soon.
    """
    from kombu import compression  # noqa: PLC0415 - heavy

    for content_type in compression._decoders.keys() & _BOUNDED.keys():
        compression._decoders[content_type] = _BOUNDED[content_type]


def _too_long(kind: str) -> MessageError:
    return MessageError(f"a {kind} body is longer than {MOST_BYTES} bytes once it is decompressed")


def _stream(kind: str, make: Callable[[], Any], body: bytes) -> bytes:
    """Decompress streams that follow each other, as the standard library's functions do."""
    parts: list[bytes] = []
    left = MOST_BYTES
    while True:
        stream: _Stream = make()
        while not stream.eof:
            part = stream.decompress(body, min(left + 1, _CHUNK_BYTES))
            left -= len(part)
            if left < 0:
                raise _too_long(kind)
            parts.append(part)
            body = b""
            if not part and not stream.eof:
                raise MessageError(f"a {kind} body ends too soon")
        body = stream.unused_data
        if not body:
            return b"".join(parts)


def _zlib(body: bytes) -> bytes:
    stream = zlib.decompressobj()
    plain = stream.decompress(body, MOST_BYTES + 1)
    if len(plain) > MOST_BYTES:
        raise _too_long("gzip")
    if not stream.eof:
        raise MessageError("a gzip body ends too soon")
    return plain


def _bz2(body: bytes) -> bytes:
    import bz2  # noqa: PLC0415 - not in every Python

    return _stream("bzip2", bz2.BZ2Decompressor, body)


def _lzma(body: bytes) -> bytes:
    import lzma  # noqa: PLC0415 - not in every Python

    return _stream("lzma", lambda: lzma.LZMADecompressor(memlimit=_LZMA_BYTES), body)


def _zstd(body: bytes) -> bytes:
    try:
        make = importlib.import_module("compression.zstd").ZstdDecompressor
    except ImportError:
        try:
            make = importlib.import_module("backports.zstd").ZstdDecompressor
        except ImportError:
            return _zstandard(body)
    return _stream("zstd", make, body)


def _zstandard(body: bytes) -> bytes:
    """The package that kombu used before 5.6."""
    with importlib.import_module("zstandard").ZstdDecompressor().stream_reader(body) as reader:
        plain: bytes = reader.read(MOST_BYTES + 1)
    if len(plain) > MOST_BYTES:
        raise _too_long("zstd")
    return plain


def _brotli(body: bytes) -> bytes:
    stream = importlib.import_module("brotli").Decompressor()
    parts: list[bytes] = []
    left = MOST_BYTES
    try:
        while not stream.is_finished():
            part = stream.process(body, output_buffer_limit=_CHUNK_BYTES)
            left -= len(part)
            if left < 0:
                raise _too_long("brotli")
            if not part and stream.can_accept_more_data():
                raise MessageError("a brotli body ends too soon")
            parts.append(part)
            body = b""
    except TypeError as exc:
        raise MessageError("a brotli body is only read by Brotli 1.2 or later, which has a limit") from exc
    return b"".join(parts)


#: kombu's names.
_BOUNDED: dict[str, Callable[[bytes], bytes]] = {
    "application/x-gzip": _zlib,
    "application/x-bz2": _bz2,
    "application/x-lzma": _lzma,
    "application/zstd": _zstd,
    "application/x-brotli": _brotli,
}
