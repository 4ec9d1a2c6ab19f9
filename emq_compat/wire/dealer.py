"""The connecting side: a DEALER that speaks commands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import zmq

from emq_compat.errors import OperationalError, RemoteProtocolError
from emq_compat.keys import Keys
from emq_compat.protocol.commands import Command
from emq_compat.protocol.frames import LIMITS, Limits, decode, encode
from emq_compat.wire.curve import client_curve
from emq_compat.wire.descriptors import require_descriptors
from emq_compat.wire.direct import REFUSED
from emq_compat.wire.monitor import HANDSHAKE_FAILED, Watched
from emq_compat.wire.multipart import Multipart, Socket

__all__ = ["Wire"]

Received: TypeAlias = "Command | RemoteProtocolError"

_EVENTS = int(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED) | HANDSHAKE_FAILED
_CLOSED = int(zmq.EVENT_CLOSED)

#: ZMTP pings: a connection whose far end is frozen, or cut off without a word, is given up after these two.
_PING_EVERY_MS = 3_000
_PONG_WITHIN_MS = 3_000
_NEVER_MS = (1 << 31) - 1


class Wire(Watched):
    """One connection to a broker or stock router. Nothing blocks; when cut, ZeroMQ connects again by itself.

    What is sent while there is no connection waits for it. Whoever wants a clean start closes the wire and
    makes another, under another identity. A wire that is made ``once`` is for that: it never connects again
    (what is sent after a cut goes nowhere), and finds a frozen peer by itself.

    Attributes:
        connected: the handshake is done, and the connection not lost since.
        failure: why the connection was refused, or the handshake failed; empty when neither. It says so
            within milliseconds of the attempt when only one side uses CURVE, or the keys are refused; ZeroMQ
            then doesn't try again. Nobody listening is a failure only to a wire that is made once.
        cuts: how often an established connection was lost; counts those, too, that were made good between
            two calls of ``receive``.
    """

    def __init__(
        self,
        context: zmq.Context[Socket],
        endpoint: str,
        *,
        identity: bytes,
        keys: Keys | None = None,
        stock: bool = False,
        once: bool = False,
        limits: Limits = LIMITS,
    ) -> None:
        """Begin to connect. ``stock``: send only what a stock router may see.

        Raises:
            OperationalError: the endpoint can't be used, or there are no descriptors for it.
        """
        self.endpoint = endpoint
        self.identity = identity
        self.stock = stock
        self.connected = False
        self.failure = ""
        self.cuts = 0
        self._limits = limits
        self._curve = keys is not None
        self._shaken = False
        require_descriptors()
        socket: Socket = context.socket(zmq.DEALER)
        self._multipart = Multipart(socket, limits)
        socket.setsockopt(zmq.IDENTITY, identity)
        if once:
            # Neither IMMEDIATE nor an interval of -1: with these libzmq ends the pipe at a cut, what has come
            # is lost, and a message that is just being read ends the process ("Assertion failed: !_more").
            socket.setsockopt(zmq.RECONNECT_IVL, _NEVER_MS)
            socket.setsockopt(zmq.HEARTBEAT_IVL, _PING_EVERY_MS)
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _PONG_WITHIN_MS)
        else:
            socket.setsockopt(zmq.RECONNECT_IVL, 100)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
        socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        if keys is not None:
            client_curve(socket, keys)
        super().__init__(socket, _EVENTS | _CLOSED if once else _EVENTS)
        try:
            self.socket.connect(endpoint)
        except zmq.ZMQError as exc:
            self.close()
            raise OperationalError(f"{endpoint} can't be connected to: {exc.strerror}") from exc

    @property
    def closed(self) -> bool:
        """Whether ``close`` has been called."""
        return bool(self.socket.closed)

    def due(self) -> float:
        """Return the monotonic time at which ``receive`` must be called though nothing is readable."""
        return math.inf

    def flush(self) -> None:
        """Do nothing: ZeroMQ's thread has what was sent."""

    def look(self) -> None:
        """Bring ``connected``, ``failure`` and ``cuts`` up to date; ``receive`` does it, too."""
        for event, _value in self._events():
            self._note(event)

    def receive(self, limit: int = 256) -> list[Received]:
        """Return what has arrived, at most ``limit`` messages; one that is malformed, as its error."""
        self.look()
        received: list[Received] = []
        if not self.ready():  # cheaper than an exception of ZeroMQ's
            return received
        multipart, limits = self._multipart, self._limits
        try:
            for _ in range(limit):
                try:
                    received.append(decode(multipart.receive(), limits))
                except RemoteProtocolError as exc:
                    received.append(exc)
        except zmq.Again:
            pass
        return received

    def send(self, command: Command) -> None:
        """Send a command; raises LocalProtocolError as ``encode`` does."""
        self._multipart.send(encode(command, stock=self.stock, limits=self._limits))

    def send_frames(self, frames: Sequence[bytes]) -> None:
        """Send a message that is encoded already."""
        self._multipart.send(frames)

    def _note(self, event: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.connected = self._shaken = True
            self.failure = ""
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self.failure = "it refused this side's CURVE key"
        elif event & HANDSHAKE_FAILED:
            uses = (
                "it uses no CURVE keys, or not the public key that this side knows"
                if self._curve
                else "it uses CURVE keys and this side none"
            )
            self.failure = f"the handshake failed: {uses}, or it is no ZeroMQ peer"
        elif event == _CLOSED:
            if not self.cuts and not self.failure:
                self.failure = REFUSED
        else:
            if not self._shaken and not self.failure:
                why = "is its public key the right one?" if self._curve else "is it a broker?"
                self.failure = f"it closed the connection during the handshake: {why}"
            self.cuts += self._shaken
            self.connected = self._shaken = False
