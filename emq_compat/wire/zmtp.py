"""ZMTP 3.1 without I/O and without security (mechanism NULL), as a DEALER speaks it: bytes in, messages out.

https://rfc.zeromq.org/spec/37: each side says a greeting of 64 bytes, then the command READY with its socket
type and identity, then messages of frames, and PING and PONG between them. What the other side can't have
meant is a ZmtpError; its text says what this side makes of it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

__all__ = ["Zmtp", "ZmtpError", "message", "ping"]

_MORE, _LONG, _COMMAND = 1, 2, 4
_SHORT_HEAD = 2
_LONG_HEAD = 9
_LENGTH = struct.Struct(">Q")
_GREETING_BYTES = 64
#: signature, version 3.1, mechanism, no server, filler.
_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
#: Signature and version: what the other side says next has its mechanism in it. On hearing one that isn't
#: its own it hangs up, mostly before that.
_FIRST_BYTES = 12
_SHORT = [[bytes((more, length)) for length in range(256)] for more in (0, _MORE)]


class ZmtpError(Exception):
    """The other side doesn't speak as expected."""


def message(frames: Sequence[bytes]) -> bytes:
    """Return a message's bytes."""
    parts = []
    last = len(frames) - 1
    for n, frame in enumerate(frames):
        length = len(frame)
        more = n < last
        parts.append(_SHORT[more][length] if length < 256 else bytes((more | _LONG,)) + _LENGTH.pack(length))
        parts.append(frame)
    return b"".join(parts)


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
        frame_bytes, frames: the most that one frame may be, and that a message may have.

    Attributes:
        established: the handshake is done: messages may be sent.
        outgoing: what is to be sent for the protocol's sake; the caller takes it from here.
    """

    __slots__ = ("_chunks", "_frame_bytes", "_frames", "_greeted", "_have", "_most", "_need", "_ready",
                 "established", "outgoing")  # fmt: skip

    def __init__(self, identity: bytes, *, frame_bytes: int, frames: int) -> None:
        self.established = False
        self.outgoing = _GREETING[:_FIRST_BYTES]
        properties = _property(b"Socket-Type", b"DEALER") + _property(b"Identity", identity)
        self._ready = _command(b"READY", properties)
        self._frame_bytes = frame_bytes
        self._most = frames
        self._greeted = False
        #: What has come of a frame (or of the greeting), and how much it takes to go on.
        self._chunks: list[bytes] = []
        self._have = 0
        self._need = _GREETING_BYTES
        self._frames: list[bytes] = []

    def receive(self, data: bytes) -> list[list[bytes]]:
        """Take what came; returns the messages that are complete now.

        Raises:
            ZmtpError: this is no ZMTP, none without security, or something is too large.
        """
        if self._have:
            self._chunks.append(data)
            self._have += len(data)
            if self._have < self._need and self._greeted:
                return []
            data = b"".join(self._chunks)
        at = 0
        if not self._greeted:
            at = self._greeting(data)
        messages: list[list[bytes]] = []
        if self._greeted:
            at = self._parse(data, at, messages)
        self._chunks = [data[at:]] if at < len(data) else []
        self._have = len(data) - at
        return messages

    def _greeting(self, data: bytes) -> int:
        if data[:1] != b"\xff" or (len(data) > 10 and (not data[9] & 1 or data[10] < 3)):
            raise ZmtpError("it is no ZeroMQ peer")
        if len(data) < _GREETING_BYTES:
            return 0
        if data[12:32].rstrip(b"\0") != b"NULL":
            raise ZmtpError("it uses CURVE keys and this side none")
        self._greeted = True
        self._need = 0
        self.outgoing += _GREETING[_FIRST_BYTES:] + self._ready
        return _GREETING_BYTES

    def _parse(self, data: bytes, at: int, messages: list[list[bytes]]) -> int:
        """Append the messages that are complete; returns where what isn't begins."""
        size, frames = len(data), self._frames
        while size - at >= _SHORT_HEAD:
            flags = data[at]
            if flags & _LONG:
                begin = at + _LONG_HEAD
                if begin > size:
                    self._need = _LONG_HEAD
                    return at
                [length] = _LENGTH.unpack_from(data, at + 1)
            else:
                begin = at + _SHORT_HEAD
                length = data[at + 1]
            if flags > _MORE | _LONG | _COMMAND or length > self._frame_bytes:
                raise ZmtpError("it sent what is no frame, or a larger one than is allowed")
            end = begin + length
            if end > size:
                self._need = end - at
                return at
            if flags & _COMMAND:
                self._heard(data[begin:end])
            else:
                if not self.established or len(frames) >= self._most:
                    raise ZmtpError("it sent a message before its handshake, or one of too many frames")
                frames.append(data[begin:end])
                if not flags & _MORE:
                    messages.append(frames)
                    frames = self._frames = []
            at = end
        self._need = _SHORT_HEAD
        return at

    def _heard(self, command: bytes) -> None:
        name = command[1 : 1 + command[0]] if command else b""
        if name == b"PING":
            self.outgoing += _command(b"PONG", command[7:])
        elif name == b"READY":
            self.established = True
        elif name == b"ERROR":
            raise ZmtpError("it refused the handshake")


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + struct.pack(">I", len(value)) + value
