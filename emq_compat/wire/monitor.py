"""A socket and its monitor: what arrives, and what became of the connections."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from typing import Final

import zmq

from emq_compat.wire.multipart import Socket

__all__ = ["HANDSHAKE_FAILED", "Watched"]

_EVENT = struct.Struct("=HI")
# Plain numbers: an enum's | and & cost a microsecond each.
_EVENTS = int(zmq.EVENTS)
_READABLE = int(zmq.POLLIN)
_numbers = itertools.count()

#: The handshake events that mean that a peer won't be talked to.
HANDSHAKE_FAILED: Final = int(
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


class Watched:
    """A socket with the monitor of its connections."""

    def __init__(self, socket: Socket, events: int) -> None:
        address = f"inproc://emq-monitor-{next(_numbers)}"
        socket.monitor(address, events)
        self.socket = socket
        self._monitor: Socket = socket.context.socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.LINGER, 0)
        # An event that finds the pipe full would stop ZeroMQ's I/O thread.
        self._monitor.setsockopt(zmq.RCVHWM, 0)
        self._monitor.connect(address)

    def sockets(self) -> tuple[Socket, Socket]:
        """Return the sockets to be registered, for reading, with a zmq.Poller."""
        return self.socket, self._monitor

    def fds(self) -> tuple[int, int]:
        """Return file descriptors whose readability calls for ``receive``.

        They are edge-triggered: before sleeping on them, ask ``ready``, also after a ``send``.
        """
        return _option(self.socket, zmq.FD), _option(self._monitor, zmq.FD)

    def ready(self) -> bool:
        """Tell whether ``receive`` would return something at once."""
        return bool(_option(self.socket, _EVENTS) & _READABLE)

    def close(self, linger_s: float = 0.0) -> None:
        """Close the socket; what has not left yet is dropped after ``linger_s``."""
        if not self.socket.closed:
            self.socket.monitor(None, 0)
            self.socket.close(int(linger_s * 1000))
        self._monitor.close(0)

    def _events(self) -> Iterator[tuple[int, int]]:
        """Yield (event, value) since the last call; for DISCONNECTED the value is the file descriptor."""
        while _option(self._monitor, _EVENTS) & _READABLE:
            yield _EVENT.unpack(self._monitor.recv_multipart(zmq.NOBLOCK)[0])


def _option(socket: Socket, option: int) -> int:
    value = socket.getsockopt(option)
    assert isinstance(value, int)
    return value
