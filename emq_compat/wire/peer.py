"""One connection of a listening side: what comes over it, and what is to be sent over it."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final

from emq_compat.wire.zmtp import APART_BYTES, Buffer, Into, Zmtp, message, pieces

__all__ = ["READ_BYTES", "Kept", "Peer"]

#: Read at once; of a large frame more.
READ_BYTES: Final = 1 << 16
_LARGE_READ_BYTES: Final = 1 << 18

#: Given to the system at once.
_SEND_BYTES: Final = 1 << 18
_SEND_PIECES: Final = 512

#: PONGs aren't kept for who doesn't read.
_PONG_BYTES: Final = 1 << 16


class Kept:
    """What all peers of a listening side have together.

    Attributes:
        unsent_bytes: what is kept for them that the system hasn't taken.
        room: into this is read what comes, and copied from here while the processor's cache has it.
    """

    __slots__ = ("room", "unsent_bytes")

    def __init__(self) -> None:
        self.unsent_bytes = 0
        self.room = memoryview(bytearray(_LARGE_READ_BYTES))


class Peer:
    """A connection, its protocol, and a queue of what the system hasn't taken yet. Nothing blocks.

    Attributes:
        identity: as the router knows it; empty before the handshake is done.
        heard: a message has come.
        due: monotonic time at which the handshake must be done.
        events: what the poll was told to look for.
        unsent_bytes: what is kept here for the other side.
        taken_bytes: what the system has taken for it, since the beginning.
        held: it is not to be read on for now.
        broken: nothing can be sent any more; what came before it can still be read.
        over: it is closed.
    """

    __slots__ = ("_kept", "_out", "broken", "due", "events", "fd", "heard", "held", "identity", "over",
                 "sock", "taken_bytes", "unsent_bytes", "zmtp")  # fmt: skip

    def __init__(self, sock: socket.socket, zmtp: Zmtp, due: float, kept: Kept) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.zmtp = zmtp
        self.due = due
        self.identity = b""
        self.heard = False
        self.held = False
        self.events = 0
        self.unsent_bytes = 0
        self.taken_bytes = 0
        self.broken = False
        self.over = False
        self._out: deque[Buffer] = deque()
        self._kept = kept

    def fileno(self) -> int:
        """Return its descriptor."""
        return self.fd

    @property
    def unsent_pieces(self) -> int:
        """How many pieces are kept here for the other side."""
        return len(self._out)

    def read(self, into: Into) -> tuple[int, bool]:
        """Read once; returns how many bytes came, and whether there may be more. 0: the connection is lost.

        Messages that are complete now go into ``into``, also before it raises.

        Raises:
            BlockingIOError: nothing is there.
            ZmtpError: see Zmtp.
        """
        zmtp, room = self.zmtp, self._kept.room
        large = zmtp.wanted >= READ_BYTES
        size = min(zmtp.wanted, _LARGE_READ_BYTES) if large else READ_BYTES
        try:
            count = self.sock.recv_into(room, size)
        except BlockingIOError:
            raise
        except OSError:
            return 0, False
        if large and count:
            zmtp.fill(room[:count], into)
        elif count:
            zmtp.receive(room[:count].tobytes(), into)
        return count, count == size

    def put(self, frames: Sequence[bytes]) -> None:
        """Have a message sent at the next ``flush``."""
        if max(map(len, frames)) < APART_BYTES:
            self.put_bytes(message(frames))
        else:
            for piece in pieces(frames):
                self.put_bytes(piece)

    def put_bytes(self, data: bytes) -> None:
        """Have some bytes sent at the next ``flush``."""
        self._out.append(data)
        self._keep(len(data))

    def answer(self) -> bool:
        """Have sent what the protocol wants; returns whether there is anything."""
        outgoing = self.zmtp.outgoing
        if not outgoing:
            return False
        self.zmtp.outgoing = b""
        if self.unsent_bytes > _PONG_BYTES:
            return False
        self.put_bytes(outgoing)
        return True

    def flush(self) -> None:
        """Hand what is to be sent to the system, as far as it takes it."""
        out = self._out
        try:
            while out:
                if len(out) == 1:
                    sent = self.sock.send(out[0])
                elif self.unsent_bytes <= APART_BYTES:
                    sent = self.sock.send(b"".join(out))
                else:
                    sent = self.sock.sendmsg(self._first())
                self._sent(sent)
        except BlockingIOError:
            pass
        except OSError:
            self.drop()

    def drop(self) -> None:
        """Forget what is to be sent: nothing can be."""
        self.broken = True
        self._out.clear()
        self._keep(-self.unsent_bytes)

    def _first(self) -> list[Buffer]:
        """Return what is sent at once: small pieces are joined."""
        chosen: list[Buffer] = []
        small: list[Buffer] = []
        size = 0
        for piece in islice(self._out, 4 * _SEND_PIECES):
            if len(piece) >= APART_BYTES:
                if small:
                    chosen.append(b"".join(small))
                    small = []
                chosen.append(piece)
            else:
                small.append(piece)
            size += len(piece)
            if size >= _SEND_BYTES or len(chosen) >= _SEND_PIECES:
                break
        if small:
            chosen.append(b"".join(small))
        return chosen

    def _keep(self, more: int) -> None:
        self.unsent_bytes += more
        self._kept.unsent_bytes += more

    def _sent(self, count: int) -> None:
        out = self._out
        self._keep(-count)
        self.taken_bytes += count
        while count:
            length = len(out[0])
            if count < length:
                out[0] = memoryview(out[0])[count:]
                return
            out.popleft()
            count -= length
