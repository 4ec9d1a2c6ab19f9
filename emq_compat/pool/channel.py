"""What travels between a prefork parent and a child, and how.

Two channels a child. *Work* goes down a socket that keeps message borders (SEQPACKET): one message an
assignment. Both the child and the parent can receive from the child's end, and the kernel gives each message
to exactly one of them: a child that has received a message has begun it, and what the parent receives has not
begun and never will. *Replies* come up a stream of length-prefixed frames.

Messages above INLINE_MAX_BYTES travel in an anonymous file whose descriptor is passed; head and payload
aren't joined there, since each copy of a large one counts. Fields are packed, not pickled: nothing that a
peer on the network wrote is ever turned into an object here.
"""

from __future__ import annotations

import array
import math
import os
import socket
import struct
import tempfile
from dataclasses import dataclass
from typing import TypeAlias

from emq_compat.memory import LARGE_BYTES, LEAST_READ_BYTES, hold_freed, next_read
from emq_compat.message import Delivery, Headers, Publish, Reply

__all__ = [
    "ESCAPED",
    "FINISHED",
    "READY",
    "UPDATED",
    "Escape",
    "Frame",
    "FrameReader",
    "decode_escape",
    "decode_finished",
    "decode_update",
    "decode_work",
    "encode_escape",
    "encode_finished",
    "encode_ready",
    "encode_update",
    "encode_work",
    "receive_with_fds",
    "receive_work",
    "reply_pair",
    "send_work",
    "withdraw_work",
    "work_pair",
]

INLINE_MAX_BYTES = 1 << 16
READ_MOST_BYTES = 1 << 16

# Kinds of the reply stream's frames.
READY, FINISHED, UPDATED, ESCAPED = range(4)

_INLINE, _IN_FILE = range(2)
_WORK = struct.Struct(
    "<BIdIII"
)  # kind, sequence number, soft limit (nan: none), lengths of msgid, queue, headers
_WORK_START = struct.Struct("<BI")
_FILE_START = struct.Struct("<BII")  # kind, sequence number, length of the head
_FRAME = struct.Struct("<IBI")  # length of what follows, kind, sequence number
_FINISHED = struct.Struct(
    "<ddBBIII"
)  # runtime, seconds to keep (nan: not said), flags, length of state, follow-ups, lengths of body and told
_FOLLOW_UP = struct.Struct("<IIII")  # lengths of msgid, queue, headers, payload
_NO_RESULT, _RETIRES, _UNATTENDED = 1, 2, 4
_FD = struct.Struct("i")
_FD_SPACE = socket.CMSG_SPACE(_FD.size)
# What a program executes shall not inherit a descriptor that was passed.
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

#: One frame of the reply stream: kind, sequence number, the bytes that hold it, where its content starts and
#: ends.
Frame: TypeAlias = "tuple[int, int, bytes | bytearray, int, int]"


def work_pair() -> tuple[socket.socket, socket.socket]:
    """Return the (parent's, child's) end of a work channel; the parent's end doesn't block."""
    kind = getattr(socket, "SOCK_SEQPACKET", socket.SOCK_DGRAM)
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    except OSError:  # no SEQPACKET there
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)
    theirs.settimeout(None)  # whatever socket.setdefaulttimeout() says
    return ours, theirs


def reply_pair() -> tuple[socket.socket, socket.socket]:
    """Return the (parent's, child's) end of a reply stream; the parent's end doesn't block."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setblocking(False)
    theirs.settimeout(None)
    return ours, theirs


def encode_work(sequence: int, delivery: Delivery, soft_limit_s: float | None) -> bytes:
    """Return the head of the message that hands ``delivery`` to a child: everything but its payload."""
    msgid, queue, headers = (
        delivery.msgid.encode(),
        delivery.queue.encode(),
        delivery.headers.encode().encode(),
    )
    soft = math.nan if soft_limit_s is None else soft_limit_s
    start = _WORK.pack(_INLINE, sequence, soft, len(msgid), len(queue), len(headers))
    return b"".join((start, msgid, queue, headers))


def decode_work(head: bytes, payload: bytes | None) -> tuple[int, float | None, Delivery]:
    """Return (sequence number, soft limit in seconds, delivery); ``payload=None``: it follows the head."""
    _, sequence, soft, n_msgid, n_queue, n_headers = _WORK.unpack_from(head)
    a = _WORK.size + n_msgid
    b = a + n_queue
    c = b + n_headers
    delivery = Delivery(
        msgid=head[_WORK.size : a].decode(),
        queue=head[a:b].decode(),
        headers=Headers.decode(head[b:c].decode()),
        payload=head[c:] if payload is None else payload,
    )
    return sequence, None if soft != soft else soft, delivery


def send_work(ours: socket.socket, head: bytes, payload: bytes) -> bool:
    """Send a message, its head from ``encode_work``, without blocking; False: the channel is full.

    Raises:
        OSError: the channel is gone, or no anonymous file can be made.
    """
    try:
        if len(head) + len(payload) <= INLINE_MAX_BYTES:
            ours.send(head + payload)
            return True
        _, sequence = _WORK_START.unpack_from(head)
        if len(payload) > LARGE_BYTES:
            hold_freed()
        fd = _anonymous_file(head, payload)
        try:
            socket.send_fds(ours, [_FILE_START.pack(_IN_FILE, sequence, len(head))], [fd])
        finally:
            os.close(fd)
    except BlockingIOError:
        return False
    return True


def receive_with_fds(sock: socket.socket, size: int, max_fds: int) -> tuple[bytes, list[int]]:
    """Receive a message of at most ``size`` bytes and the descriptors passed with it; b"" at the end."""
    try:
        data, ancillary, _, _ = sock.recvmsg(size, socket.CMSG_SPACE(max_fds * _FD.size), _CLOEXEC)
    except ConnectionResetError:
        return b"", []
    return data, _passed_fds(ancillary)


def receive_work(theirs: socket.socket) -> tuple[bytes, bytes | None] | None:
    """Wait for one message; returns what ``decode_work`` takes. None: the parent has closed the channel."""
    data, ancillary, _, _ = theirs.recvmsg(INLINE_MAX_BYTES, _FD_SPACE, _CLOEXEC)
    if not data:
        return None
    if data[0] == _INLINE:
        return data, None
    fd = _passed_fds(ancillary)[0]
    try:
        _, _, length = _FILE_START.unpack(data)
        return _read(fd, 0, length), _read(fd, length, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def withdraw_work(theirs: socket.socket) -> list[int]:
    """Receive, in the child's stead, all that it has not received yet; return their sequence numbers.

    O_NONBLOCK would hold for the child's end too, since it's one open file: hence MSG_DONTWAIT.
    """
    sequences: list[int] = []
    while True:
        try:
            data, ancillary, _, _ = theirs.recvmsg(_WORK_START.size, _FD_SPACE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return sequences
        if not data:
            return sequences
        for fd in _passed_fds(ancillary):
            os.close(fd)
        sequences.append(_WORK_START.unpack_from(data)[1])


def _anonymous_file(*parts: bytes) -> int:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("emq-work")
    else:
        fd, path = tempfile.mkstemp(prefix="emq-work-")
        os.unlink(path)
    try:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(fd, view) :]
    except OSError:
        os.close(fd)
        raise
    return fd


def _read(fd: int, start: int, end: int) -> bytes:
    """Return these bytes of a file."""
    content = os.pread(fd, end - start, start)
    while len(content) < end - start:  # no call reads more than 2 GB
        content += os.pread(fd, end - start - len(content), start + len(content))
    return content


def _passed_fds(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def encode_ready(pid: int) -> bytes:
    """Return the frame with which a child says that it takes work."""
    return _FRAME.pack(0, READY, pid)


def encode_update(sequence: int, state: str, body: bytes) -> bytes:
    """Return the frame that tells a state that isn't final."""
    text = state.encode()
    return b"".join(
        (_FRAME.pack(1 + len(text) + len(body), UPDATED, sequence), bytes((len(text),)), text, body)
    )


def decode_update(data: bytes | bytearray, start: int, end: int) -> tuple[str, bytes]:
    """Return (state, body) of an UPDATED frame."""
    border = start + 1 + data[start]
    return data[start + 1 : border].decode(), bytes(data[border:end])


@dataclass(frozen=True, slots=True, kw_only=True)
class Escape:
    """An exception left the work: its ``repr``, and whether it was the soft limit; ``retires``: the child
    leaves.
    """

    detail: str
    soft_limit: bool = False
    retires: bool = False


def encode_escape(sequence: int, escape: Escape) -> bytes:
    """Return the frame that tells of an exception that left the work."""
    text = escape.detail.encode(errors="replace")
    return _FRAME.pack(2 + len(text), ESCAPED, sequence) + bytes((escape.soft_limit, escape.retires)) + text


def decode_escape(data: bytes | bytearray, start: int, end: int) -> Escape:
    """Read an ESCAPED frame."""
    return Escape(
        detail=data[start + 2 : end].decode(), soft_limit=bool(data[start]), retires=bool(data[start + 1])
    )


def encode_finished(sequence: int, reply: Reply, runtime_s: float, *, retires: bool) -> bytes:
    """Return the frame with a reply; ``retires``: the child takes no more work and wants to be replaced."""
    state, body = reply.state.encode(), reply.body
    flags = (_NO_RESULT if reply.no_result else 0) | (_RETIRES if retires else 0)
    if reply.unattended:
        flags |= _UNATTENDED
    told = reply.told.encode()
    keep_s = math.nan if reply.keep_s is None else reply.keep_s
    fields = _FINISHED.pack(runtime_s, keep_s, flags, len(state), len(reply.follow_ups), len(body), len(told))
    if not reply.follow_ups:
        length = _FINISHED.size + len(state) + len(body) + len(told)
        return b"".join((_FRAME.pack(length, FINISHED, sequence), fields, state, body, told))
    parts = [b"", fields, state, body, told]
    for publish in reply.follow_ups:
        texts = (
            publish.msgid.encode(),
            publish.queue.encode(),
            publish.headers.encode().encode(),
            publish.payload,
        )
        parts.append(_FOLLOW_UP.pack(*map(len, texts)))
        parts.extend(texts)
    parts[0] = _FRAME.pack(sum(map(len, parts)), FINISHED, sequence)
    return b"".join(parts)


def decode_finished(data: bytes | bytearray, start: int) -> tuple[Reply, float, bool]:
    """Return (reply, runtime in seconds, whether the child retires) of a FINISHED frame."""
    runtime_s, keep_s, flags, n_state, n_follow_ups, n_body, n_told = _FINISHED.unpack_from(data, start)
    a = start + _FINISHED.size
    b = a + n_state
    c = b + n_body
    d = c + n_told
    reply = Reply(
        state=data[a:b].decode(),
        body=bytes(memoryview(data)[b:c]),
        follow_ups=_decode_follow_ups(data, d, n_follow_ups) if n_follow_ups else (),
        no_result=flags & _NO_RESULT != 0,
        unattended=flags & _UNATTENDED != 0,
        told=data[c:d].decode() if n_told else "",
        keep_s=None if math.isnan(keep_s) else keep_s,
    )
    return reply, runtime_s, flags & _RETIRES != 0


def _decode_follow_ups(data: bytes | bytearray, at: int, count: int) -> tuple[Publish, ...]:
    follow_ups = []
    for _ in range(count):
        lengths = _FOLLOW_UP.unpack_from(data, at)
        at += _FOLLOW_UP.size
        texts = []
        for length in lengths:
            texts.append(bytes(data[at : at + length]))
            at += length
        msgid, queue, headers, payload = texts
        publish = Publish(
            msgid=msgid.decode(),
            queue=queue.decode(),
            headers=Headers.decode(headers.decode()),
            payload=payload,
        )
        follow_ups.append(publish)
    return tuple(follow_ups)


class FrameReader:
    """Reads a reply stream piece by piece; a frame of n bytes costs time proportional to n."""

    __slots__ = ("_filled", "_large", "_read_bytes", "_rest", "drained", "eof")

    def __init__(self) -> None:
        self.eof = False
        #: The last ``read`` found nothing. Set it to False and read until it, or ``eof``, is True.
        self.drained = False
        self._rest = b""  # the start of a frame, too short to tell its length
        self._read_bytes = LEAST_READ_BYTES
        self._large: bytearray | None = None  # an incomplete frame whose length is known
        self._filled = 0

    @property
    def inside_large(self) -> bool:
        """Whether a frame that takes several reads is under way."""
        return self._large is not None

    def read(self, stream: socket.socket) -> list[Frame]:
        """Receive once from a non-blocking stream and return the frames that are complete now."""
        try:
            if self._large is not None:
                return self._read_large(stream, self._large)
            data = stream.recv(self._read_bytes)
        except BlockingIOError:
            self.drained = True
            return []
        except OSError:  # reset: the other end is gone
            data = b""
        if not data:
            self.eof = True
            return []
        self._read_bytes = next_read(self._read_bytes, len(data), most=READ_MOST_BYTES)
        if self._rest:
            data = self._rest + data
            self._rest = b""
        frames: list[Frame] = []
        at, size = 0, len(data)
        while size - at >= _FRAME.size:
            length, kind, sequence = _FRAME.unpack_from(data, at)
            start = at + _FRAME.size
            end = start + length
            if end > size:
                self._large = bytearray(_FRAME.size + length)
                if length > LARGE_BYTES:
                    hold_freed()
                self._filled = size - at
                self._large[: self._filled] = data[at:]
                return frames
            frames.append((kind, sequence, data, start, end))
            at = end
        self._rest = data[at:]
        return frames

    def _read_large(self, stream: socket.socket, frame: bytearray) -> list[Frame]:
        with memoryview(frame) as view, view[self._filled :] as rest:
            received = stream.recv_into(rest)
        if received == 0:
            self.eof = True
            return []
        self._filled += received
        if self._filled < len(frame):
            return []
        _, kind, sequence = _FRAME.unpack_from(frame)
        self._large = None
        return [(kind, sequence, frame, _FRAME.size, len(frame))]
