"""Connections on which a message comes that doesn't end: ZeroMQ keeps its frames, and shows them to nobody.

That is where its sockets listen: with keys, or at an interface's name (``routers.py``). Where ours do, the
protocol itself knows how much of a message has come (``zmtp.py``).

Looking costs some microseconds for each connection, so it is only done while the process is larger than it
was. What has come over a connection is known to the system (Linux's tcp_info); each message that ended sets
the count back. Unix sockets aren't counted: nobody else reaches those.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Protocol

from emq_compat.memory import resident_kb

__all__ = ["Endless", "Heard", "connection"]

logger = logging.getLogger(__name__)

#: Connections are looked at once a second while the process is larger by this than it was …
GROWN_KB: Final = 64 << 10
#: … but after so many seconds that is its size.
SETTLED_S: Final = 600.0
LOOK_S: Final = 1.0

#: Where tcp_info has the count of bytes that were received (tcpi_bytes_received).
_RECEIVED = slice(128, 136)


class Heard(Protocol):
    """A socket's connections.

    Attributes:
        heard: the peers of which messages came since this was emptied; None: that isn't noted.
        by_peer: peer → file descriptor.
    """

    heard: set[bytes] | None
    by_peer: Mapping[bytes, int]


class Endless:
    """Finds and cuts off such connections.

    Args:
        sockets: (local port, the socket's connections, bytes that a message may have without its end).
    """

    def __init__(self, sockets: Iterable[tuple[int, Heard, int]]) -> None:
        self._sockets = {port: (wire, most) for port, wire, most in sockets}
        self._size = resident_kb()
        #: Descriptor → bytes that had come when a message was last known to have ended.
        self._ended: dict[int, int] = {}
        self._since = 0.0
        #: Monotonic time of the next look; it need not be kept to while nothing is ``watched``.
        self.look_at = 0.0
        self.watched = False

    def look(self, now: float) -> int:
        """Cut off the connections whose message is too long; returns how many."""
        self.look_at = now + LOOK_S
        size = resident_kb()
        if not self.watched:
            self._size = min(size, self._size)
            if size > self._size + GROWN_KB:
                self.watched, self._since = True, now
                self._note(set())
            return 0
        cut = sum(map(self._looked_into, self._descriptors()))
        self._note(set())
        if size <= self._size + GROWN_KB or now > self._since + SETTLED_S:
            self.watched, self._size = False, size
            self._ended.clear()
            self._note(None)
        return cut

    def _note(self, heard: set[bytes] | None) -> None:
        for wire, _ in self._sockets.values():
            wire.heard = None if heard is None else set()

    def _descriptors(self) -> list[tuple[int, bool, bool]]:
        """Return the descriptors of the process: each, whether it was ever heard of, and whether now."""
        wires = [wire for wire, _ in self._sockets.values()]
        ever = {fd for wire in wires for fd in wire.by_peer.values()}
        now = {wire.by_peer[peer] for wire in wires for peer in wire.heard or () if peer in wire.by_peer}
        return [(fd, fd in ever, fd in now) for fd in map(int, os.listdir("/proc/self/fd"))]

    def _looked_into(self, descriptor: tuple[int, bool, bool]) -> bool:
        fd, ever, now = descriptor
        with contextlib.suppress(OSError), connection(fd) as sock:
            if sock.family not in (socket.AF_INET, socket.AF_INET6):
                return False
            wire, most = self._sockets.get(sock.getsockname()[1], (None, 0))
            if wire is None:
                return False
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED.stop)
            received = int.from_bytes(info[_RECEIVED], sys.byteorder)
            ended = self._ended.get(fd, received if ever else 0)
            self._ended[fd] = received if now or received < ended else ended
            unended = received - self._ended[fd]
            if unended > most:
                logger.warning(
                    "%s has sent %d MB of a message that doesn't end, and is cut off",
                    sock.getpeername(), unended >> 20,
                )  # fmt: skip
                sock.shutdown(socket.SHUT_RDWR)
                return True
        return False


@contextlib.contextmanager
def connection(fd: int) -> Iterator[socket.socket]:
    """Borrow a connection of ZeroMQ's by its descriptor, which may have become another's.

    Raises:
        OSError: it is closed, or no socket.
    """
    own = os.dup(fd)
    try:
        sock = socket.socket(fileno=own)
    except OSError:
        os.close(own)
        raise
    with sock:
        yield sock
