"""The ZeroMQ side of the eMQP upstream: one socket at a time, and what becomes of its connection."""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Sequence
from typing import cast

import zmq
from zmq.utils.monitor import recv_monitor_message

from emq_compat.address import Address
from emq_compat.keys import Keys

__all__ = ["Fate", "Link", "identity_of"]


class Fate(enum.Enum):
    """What a connection went through."""

    ESTABLISHED = enum.auto()
    NOBODY = enum.auto()
    CUT = enum.auto()
    KEYS = enum.auto()


_FATES: dict[int, Fate] = {
    zmq.EVENT_CONNECTED: Fate.ESTABLISHED,
    zmq.EVENT_CONNECT_RETRIED: Fate.NOBODY,
    zmq.EVENT_DISCONNECTED: Fate.CUT,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: Fate.KEYS,
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: Fate.KEYS,
}
_WATCHED = sum(_FATES)


class Link:
    """A DEALER that is opened and closed, with the monitor that tells what its connection goes through.

    Sending never blocks: what can't leave yet waits in memory and is thrown away with the socket.
    """

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        #: Of the open socket and its monitor; they tell edges, not levels: ask ``has_input`` before waiting.
        self.fds: tuple[int, ...] = ()

    @property
    def open(self) -> bool:
        """True between ``connect`` and ``close``."""
        return self._socket is not None

    def connect(self, address: Address, identity: str) -> None:
        """Open a socket to the workers' endpoint.

        Raises:
            ConfigurationError: the address's keys can't be read.
        """
        keys = Keys.for_client(address.keys_dir) if address.keys_dir is not None else None
        opened = self._context.socket(zmq.DEALER)
        opened.setsockopt(zmq.IDENTITY, identity.encode("ascii"))
        opened.setsockopt(zmq.LINGER, 0)
        opened.setsockopt(zmq.SNDHWM, 0)
        opened.setsockopt(zmq.RCVHWM, 0)
        opened.setsockopt(zmq.RECONNECT_IVL, 100)
        opened.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        opened.setsockopt(zmq.IPV6, int(address.ipv6))
        if keys is not None:
            opened.setsockopt(zmq.CURVE_SERVERKEY, keys.broker_public)
            opened.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
            opened.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        self._monitor = opened.get_monitor_socket(_WATCHED)
        self._socket = opened
        self.fds = (_option(opened, zmq.FD), _option(self._monitor, zmq.FD))
        opened.connect(address.worker_endpoint)

    def close(self, linger_s: float = 0.0) -> None:
        """Close the socket; what was sent may still leave for ``linger_s``, if ``end`` waits for it."""
        if self._socket is not None:
            self._socket.disable_monitor()
            self._socket.close(linger=int(linger_s * 1000))
        if self._monitor is not None:
            self._monitor.close(linger=0)
        self._socket = self._monitor = None
        self.fds = ()

    def end(self) -> None:
        """End the context; waits until what lingers has left or its time is over."""
        self.close()
        self._context.term()

    def send(self, frames: Sequence[bytes]) -> None:
        """Queue one message."""
        assert self._socket is not None
        self._socket.send_multipart(frames, zmq.NOBLOCK)

    def receive(self) -> list[bytes] | None:
        """Return one message's frames, or None."""
        assert self._socket is not None
        try:
            return self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None

    def has_input(self) -> bool:
        """True when a message can be received now."""
        return self._socket is not None and bool(_option(self._socket, zmq.EVENTS) & zmq.POLLIN)

    def fate(self) -> Fate | None:
        """Return the next thing that the connection went through, or None."""
        while self._monitor is not None and _option(self._monitor, zmq.EVENTS) & zmq.POLLIN:
            message = cast("dict[str, int]", recv_monitor_message(self._monitor, zmq.NOBLOCK))
            fate = _FATES.get(message["event"])
            if fate is not None:
                return fate
        return None

    def publish(self, address: Address, identity: str, messages: Sequence[Sequence[bytes]]) -> None:
        """Send messages to the clients' endpoint, as a producer does, without waiting for anything."""
        producer = self._context.socket(zmq.DEALER)
        producer.setsockopt(zmq.IDENTITY, identity.encode("ascii"))
        producer.setsockopt(zmq.LINGER, 2000)
        producer.connect(address.client_endpoint)
        for frames in messages:
            producer.send_multipart(frames)
        producer.close()


def _option(sock: zmq.Socket[bytes], option: int) -> int:
    value = sock.getsockopt(option)
    assert isinstance(value, int)
    return value


def identity_of(name: str) -> str:
    """Return a ZeroMQ identity: the name in ASCII, a dot, and what tells this process from earlier ones."""
    shown = re.sub(r"[^!-~]", "_", name)[:180] or "worker"
    return f"{shown}.{os.getpid():x}-{os.urandom(4).hex()}"
