"""Whole messages of a ZeroMQ socket, without blocking and without pyzmq's price for them.

Most of ``recv_multipart`` goes into asking, after each frame, whether another follows: pyzmq takes 2 µs for
what libzmq answers in nanoseconds, so it is asked by ctypes here (benchmarks/codec.py has the figures).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import zmq

from emq_compat.ids import plain_name
from emq_compat.protocol.limits import LIMITS, Limits

__all__ = ["Multipart", "Socket", "identity"]

Socket: TypeAlias = "zmq.Socket[bytes]"

_NOBLOCK: Final = int(zmq.NOBLOCK)
_MORE: Final = int(zmq.SNDMORE | zmq.NOBLOCK)

#: A frame somewhat too large is still received, so that its sender can be told; beyond, it is cut off.
_SLACK_BYTES: Final = 16 << 20

#: High-water marks of one peer's pipe, in messages (ZeroMQ's SNDHWM and RCVHWM).
_UNREAD_MESSAGES: Final = 200_000
_UNTAKEN_MESSAGES: Final = 512


def identity(name: str) -> bytes:
    """Return a socket identity that no other socket has: ``name``, and an incarnation drawn by chance.

    Unique printable ASCII: an automatic identity of ZeroMQ's crashes a stock router.
    """
    return f"{plain_name(name)}.{os.urandom(6).hex()}".encode()


def _find_getsockopt() -> Callable[..., int] | None:
    """Return libzmq's own zmq_getsockopt, or None where it can't be had (then pyzmq is asked)."""
    try:
        from zmq.backend.cython import _zmq  # noqa: PLC0415 - absent with pyzmq's other backend (PyPy)

        return ctypes.PyDLL(_zmq.__file__).zmq_getsockopt
    except (ImportError, OSError, AttributeError):
        return None


_GETSOCKOPT = _find_getsockopt()


def _more_reader(socket: Socket) -> Callable[[], int]:
    """Return a function that tells whether the frame received last is followed by another."""
    if _GETSOCKOPT is None:
        get, option = socket.getsockopt, int(zmq.RCVMORE)
        return lambda: int(get(option))
    getsockopt = _GETSOCKOPT
    value, size = ctypes.c_int(), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    # Made once: converting the arguments is what costs at a ctypes call.
    handle, wanted = ctypes.c_void_p(socket.underlying), ctypes.c_int(zmq.RCVMORE)
    at, of_size = ctypes.byref(value), ctypes.byref(size)

    def more() -> int:
        getsockopt(handle, wanted, at, of_size)
        return value.value

    return more


class Multipart:
    """Sends and receives whole messages on a socket, which stays the caller's. Nothing here blocks.

    ``limits`` bounds what is received: ZeroMQ cuts off a peer whose frame is far too large.
    """

    __slots__ = ("_more", "_most", "_recv", "_send", "socket")

    def __init__(self, socket: Socket, limits: Limits = LIMITS) -> None:
        self.socket = socket
        socket.setsockopt(zmq.LINGER, 0)
        # A ROUTER drops what a peer with a full pipe is sent: only one that has long ceased to read has so
        # much before it (work is bounded by credit). A DEALER would block.
        socket.setsockopt(zmq.SNDHWM, _UNREAD_MESSAGES if socket.type == zmq.ROUTER else 0)
        # What comes faster than it is read waits at its sender, not here.
        socket.setsockopt(zmq.RCVHWM, _UNTAKEN_MESSAGES)
        socket.setsockopt(zmq.MAXMSGSIZE, limits.payload_bytes + _SLACK_BYTES)
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 10)
        socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 5)
        socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)
        # The backend's methods: those of zmq.Socket add 0.3 µs a frame for options that are not used here.
        backend: Any = super(zmq.Socket, socket)
        self._recv: Callable[..., Any] = backend.recv
        self._send: Callable[..., Any] = backend.send
        self._more = _more_reader(socket)
        self._most = 4 * limits.follow_ups + limits.frames

    def receive(self) -> list[bytes]:
        """Return the frames of the next message; of one with far too many, only the first so many.

        Raises:
            zmq.Again: none is waiting.
        """
        recv, more = self._recv, self._more
        frames = [recv(_NOBLOCK)]
        while more():
            frames.append(recv(_NOBLOCK))
            if len(frames) > self._most:
                self._discard()
                break
        return frames

    def receive_first(self) -> bytes:
        """Return the first frame of the next message: at a ROUTER the identity, which others always follow.

        ``receive`` then returns the rest.

        Raises:
            zmq.Again: none is waiting.
        """
        return self._recv(_NOBLOCK)  # type: ignore[no-any-return]

    def receive_rest_from(self) -> tuple[list[bytes], int, bytes]:
        """Return the frames behind the first one, and what they came over.

        That is the file descriptor (-1: unknown), and with CURVE the key (empty: none). libzmq 4.3.4 doesn't
        tell them of the first frame.
        """
        frame = self._recv(_NOBLOCK, False)
        try:
            fd = int(frame.get(zmq.SRCFD))
        except (zmq.ZMQError, ValueError, TypeError):
            fd = -1  # inproc
        try:
            key = str(frame.get("User-Id")).encode()
        except zmq.ZMQError:
            key = b""
        frames = [frame.bytes]
        if frame.more:
            frames += self.receive()
        return frames, fd, key

    def send(self, frames: Sequence[bytes]) -> bool:
        """Send a message; False: a ROUTER that was told so (ROUTER_MANDATORY) has no such peer any more.

        A DEALER keeps what it sends until it is connected.
        """
        send = self._send
        try:
            for frame in frames[:-1]:
                send(frame, _MORE)
            send(frames[-1], _NOBLOCK)
        except zmq.ZMQError as exc:
            if exc.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                return False
            raise
        return True

    def _discard(self) -> None:
        while self._more():
            self._recv(_NOBLOCK)
