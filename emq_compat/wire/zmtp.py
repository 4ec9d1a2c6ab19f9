"""ZMTP 3.1 without I/O and without security (mechanism NULL), as a DEALER or a ROUTER speaks it.

Bytes in, messages out. https://rfc.zeromq.org/spec/37: each side says a greeting of 64 bytes, then the
command READY with its socket type and identity, then messages of frames, and PING and PONG between them. What
the other side can't have meant is a ZmtpError; its text says what this side makes of it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from io import BytesIO
from typing import Final, Protocol, TypeAlias

__all__ = ["APART_BYTES", "Buffer", "Into", "Zmtp", "ZmtpError", "message", "pieces", "ping"]

Buffer: TypeAlias = "bytes | memoryview"

#: A frame of so many bytes is neither joined with others nor cut out of them: that would be one more copy.
APART_BYTES: Final = 1 << 15

_MORE, _LONG, _COMMAND = 1, 2, 4
_SHORT_HEAD = 2
_LONG_HEAD = 9
_LENGTH = struct.Struct(">Q")
_SIZE = struct.Struct(">I")
_GREETING_BYTES = 64
#: signature, version 3.1, mechanism, no server, filler.
_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
#: Signature and version: what the other side says next has its mechanism in it. On hearing one that isn't
#: its own it hangs up, mostly before that.
_FIRST_BYTES = 12
_SHORT = [[bytes((more, length)) for length in range(256)] for more in (0, _MORE)]
_IDENTITY_BYTES = 255
_COMMAND_BYTES = 1 << 16
#: What the standard allows for a PING's context, which is said again.
_CONTEXT_BYTES = 16
#: PINGs at once are answered by so many bytes: who sends more doesn't do so to hear whether this side lives.
_PONGS_BYTES = 4096
#: Socket types that a ROUTER talks to.
_TALK_TO_ROUTERS = frozenset([b"DEALER", b"REQ", b"ROUTER"])
_UNBOUNDED = 1 << 62


class ZmtpError(Exception):
    """The other side doesn't speak as expected."""


class Into(Protocol):
    """Where messages are put."""

    def append(self, message: list[bytes], /) -> object:
        """Take one."""


def message(frames: Sequence[bytes]) -> bytes:
    """Return a message's bytes."""
    return b"".join(_parts(frames))


def _parts(frames: Sequence[bytes]) -> list[bytes]:
    parts = []
    last = len(frames) - 1
    for n, frame in enumerate(frames):
        length = len(frame)
        more = n < last
        parts.append(_SHORT[more][length] if length < 256 else bytes((more | _LONG,)) + _LENGTH.pack(length))
        parts.append(frame)
    return parts


def pieces(frames: Sequence[bytes]) -> list[bytes]:
    """Return a message's bytes in pieces: large frames are their own."""
    parts = _parts(frames)
    made: list[bytes] = []
    first = 0
    for n, part in enumerate(parts):
        if len(part) >= APART_BYTES:
            made += (b"".join(parts[first:n]), part)
            first = n + 1
    if first < len(parts):
        made.append(b"".join(parts[first:]))
    return made


def _command(name: bytes, body: bytes) -> bytes:
    content = bytes((len(name),)) + name + body
    return bytes((_COMMAND, len(content))) + content


def ping() -> bytes:
    """Return a command that the other side answers."""
    return _command(b"PING", b"\0\0")


class Zmtp:
    """What one connection's other side says.

    Args:
        identity: under which a ROUTER knows this side.
        router: this side listens, as a ROUTER, and says its whole greeting at once.
        frame_bytes: the most that one frame may be.
        frames: the most that a message may have; of one with more, so many and one are kept.
        message_bytes: the most that all frames of a message may be together.

    Attributes:
        established: the handshake is done: messages may be sent.
        identity: what the other side calls itself, or nothing.
        outgoing: what is to be sent for the protocol's sake; the caller takes it from here.
        wanted: so many bytes of a large frame are still to come; ``fill`` takes them without another copy.
    """

    __slots__ = ("_chunks", "_frame_bytes", "_frames", "_greeted", "_have", "_large", "_large_more",
                 "_message_bytes", "_most", "_need", "_ready", "_router", "_size", "established", "identity",
                 "outgoing", "wanted")  # fmt: skip

    def __init__(
        self,
        identity: bytes = b"",
        *,
        router: bool = False,
        frame_bytes: int,
        frames: int,
        message_bytes: int = _UNBOUNDED,
    ) -> None:
        self.established = False
        self.identity = b""
        self.outgoing = _GREETING if router else _GREETING[:_FIRST_BYTES]
        socket_type = b"ROUTER" if router else b"DEALER"
        self._ready = _command(
            b"READY", _property(b"Socket-Type", socket_type) + _property(b"Identity", identity)
        )
        self._router = router
        self._frame_bytes = frame_bytes
        self._message_bytes = message_bytes
        self._most = frames
        self._greeted = False
        #: What has come of a frame (or of the greeting), and how much it takes to go on.
        self._chunks: list[bytes] = []
        self._have = 0
        self._need = _GREETING_BYTES
        #: The frames of a message that has not ended, and how much has come of it.
        self._frames: list[bytes] = []
        self._size = 0
        self._large: BytesIO | None = None
        self._large_more = False
        self.wanted = 0

    @property
    def unfinished(self) -> int:
        """How many bytes have come of a message that has not ended, but for a small frame at its end."""
        return self._size - self.wanted

    def receive(self, data: bytes, into: Into) -> None:
        """Take what came; puts the messages that are complete now into ``into``, also before it raises.

        Raises:
            ZmtpError: this is no ZMTP, none without security, or something is too large.
        """
        if self.wanted:
            first = self.wanted
            self.fill(memoryview(data)[:first], into)
            if len(data) <= first:
                return
            data = data[first:]
        if self._have:
            self._chunks.append(data)
            self._have += len(data)
            if self._have < self._need and self._greeted:
                return
            data = b"".join(self._chunks)
        at = 0
        if not self._greeted:
            at = self._greeting(data)
        if self._greeted:
            at = self._parse(data, at, into)
        self._chunks = [data[at:]] if at < len(data) else []
        self._have = len(data) - at

    def fill(self, data: memoryview, into: Into) -> None:
        """Take some of a large frame, no more than is ``wanted``; as ``receive`` does."""
        large = self._large
        assert large is not None
        large.write(data)
        self.wanted -= len(data)
        if not self.wanted:
            self._large = None
            if len(self._frames) <= self._most:
                self._frames.append(large.getvalue())
            if not self._large_more:
                into.append(self._frames)
                self._frames = []
                self._size = 0

    def _greeting(self, data: bytes) -> int:
        if data[:1] != b"\xff" or (len(data) > 10 and (not data[9] & 1 or data[10] < 3)):
            raise ZmtpError("it is no ZeroMQ peer")
        if len(data) < _GREETING_BYTES:
            return 0
        if data[12:32].rstrip(b"\0") != b"NULL":
            raise ZmtpError("it uses CURVE keys and this side none")
        self._greeted = True
        self._need = 0
        self.outgoing += self._ready if self._router else _GREETING[_FIRST_BYTES:] + self._ready
        return _GREETING_BYTES

    def _parse(self, data: bytes, at: int, into: Into) -> int:
        """Take what is complete, and the beginning of a large frame; returns where the rest begins."""
        size, frames, most = len(data), self._frames, self._most
        while size - at >= _SHORT_HEAD:
            flags = data[at]
            if flags > _MORE | _LONG | _COMMAND:
                raise ZmtpError("it sent what is no frame")
            if flags & _LONG:
                begin = at + _LONG_HEAD
                if begin > size:
                    self._need = _LONG_HEAD
                    return at
                [length] = _LENGTH.unpack_from(data, at + 1)
            else:
                begin = at + _SHORT_HEAD
                length = data[at + 1]
            if length > self._frame_bytes:
                raise ZmtpError("it sent a larger frame than is allowed")
            end = begin + length
            if flags & _COMMAND:
                if length > _COMMAND_BYTES:
                    raise ZmtpError("it sent a command that is too large")
                if end > size:
                    self._need = end - at
                    return at
                self._heard(data[begin:end])
                at = end
                continue
            if not self.established:
                raise ZmtpError("it sent a message before its handshake")
            # The head counts, too: frames without a byte must not go on for ever.
            if (flags & _MORE or self._size) and self._size + end - at > self._message_bytes:
                raise ZmtpError("it sent a message that is larger than is allowed, or doesn't end")
            if end > size:
                if length < APART_BYTES:
                    self._need = end - at
                    return at
                self._large, self._large_more = BytesIO(), bool(flags & _MORE)
                self._large.write(memoryview(data)[begin:])
                self.wanted = end - size
                self._size += end - at
                self._need = _SHORT_HEAD
                return size
            if len(frames) <= most:  # whoever reads the message finds that it has too many
                frames.append(data[begin:end])
            if flags & _MORE:
                self._size += end - at
            else:
                into.append(frames)
                frames = self._frames = []
                self._size = 0
            at = end
        self._need = _SHORT_HEAD
        return at

    def forget(self) -> None:
        """Give up what has come of a message: no more will."""
        self._chunks, self._frames, self._large = [], [], None

    def _introduced(self, properties: dict[bytes, bytes]) -> None:
        self.identity = properties.get(b"identity", b"")
        if properties.get(b"socket-type") not in _TALK_TO_ROUTERS:
            raise ZmtpError("it is a socket of a kind that can't talk to a broker")
        if len(self.identity) > _IDENTITY_BYTES:
            raise ZmtpError(f"its identity is longer than {_IDENTITY_BYTES} bytes")
        if self.identity.startswith(b"\0"):
            raise ZmtpError("its identity begins with a zero byte, as those do that a ROUTER gives")

    def _heard(self, command: bytes) -> None:
        name = command[1 : 1 + command[0]] if command else b""
        if name == b"PING":
            if len(self.outgoing) < _PONGS_BYTES:
                self.outgoing += _command(b"PONG", command[7 : 7 + _CONTEXT_BYTES])
        elif name == b"READY":
            if self._router and not self.established:
                self._introduced(_properties(command[6:]))
            self.established = True
        elif name == b"ERROR":
            raise ZmtpError("it refused the handshake")


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + _SIZE.pack(len(value)) + value


def _properties(body: bytes) -> dict[bytes, bytes]:
    """Return the properties in a READY; their names don't differ by case."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(body):
        value_at = at + 1 + body[at] + _SIZE.size
        if value_at > len(body):
            raise ZmtpError("its READY is cut short")
        [length] = _SIZE.unpack_from(body, value_at - _SIZE.size)
        if value_at + length > len(body):
            raise ZmtpError("its READY is cut short")
        found[body[at + 1 : value_at - _SIZE.size].lower()] = body[value_at : value_at + length]
        at = value_at + length
    return found
