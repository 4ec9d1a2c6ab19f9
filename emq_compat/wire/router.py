"""The listening side: a ROUTER that speaks commands and knows when a peer's connection is gone."""

from __future__ import annotations

import contextlib
import socket as plain
import time
from collections.abc import Mapping
from typing import TypeAlias

import zmq

from emq_compat.errors import OperationalError, RemoteProtocolError
from emq_compat.message import new_id
from emq_compat.permits import CLIENT, FULL, Permit
from emq_compat.protocol.commands import Command, Heartbeat
from emq_compat.protocol.frames import LIMITS, Limits, decode, encode
from emq_compat.wire.curve import Gate
from emq_compat.wire.descriptors import held_bytes, require_descriptors
from emq_compat.wire.endless import connection
from emq_compat.wire.listening import is_listened_at
from emq_compat.wire.monitor import HANDSHAKE_FAILED, Watched
from emq_compat.wire.multipart import Multipart, Socket
from emq_compat.wire.poll import Poll

__all__ = ["RouterWire"]

#: A peer's identity, what it said, and what the key of its connection opens (None: it was removed).
Received: TypeAlias = "tuple[bytes, Command | RemoteProtocolError, Permit | None]"

_EVENTS = int(zmq.EVENT_DISCONNECTED) | HANDSHAKE_FAILED

#: A suspect is probed so long after its connection was closed; one still reachable at the last has another.
_PROBE_AFTER_S = (0.0, 0.005, 0.05, 0.25)

#: Where Linux's tcp_info has the count of bytes that the other side has acknowledged (tcpi_bytes_acked).
_ACKED = slice(120, 128)

#: Closed connections are looked into once the socket is drained; under unbroken load, after this time.
_UNDRAINED_S = 1.0


class RouterWire(Watched):
    """A bound ROUTER of ZeroMQ's. Nothing blocks.

    How a lost connection becomes ``gone``: ZeroMQ tells which file descriptor was closed, and the first
    message of an identity tells over which it came. Neither proves anything alone: numbers are used again,
    and an identity may have connected anew (ROUTER_HANDOVER). So its identity is only suspected, and probed
    with a HEARTBEAT, which a ROUTER refuses to send where no connection is left. A message that was received
    before the connection was lost always comes before ``gone``; one that comes after it means that the peer
    is back.

    Attributes:
        endpoint: where it listens, with the port that a wildcard became.
        refused: how many handshakes failed (no or wrong keys, no ZeroMQ peer).
        heard, by_peer: see wire/endless.py.
    """

    def __init__(
        self,
        context: zmq.Context[Socket],
        endpoint: str,
        *,
        gate: Gate | None = None,
        role: str = CLIENT,
        limits: Limits = LIMITS,
    ) -> None:
        """Bind; ``gate``: only clients with its keys are let in, and of these such with the role at least.

        Raises:
            OperationalError: the endpoint can't be bound (in use, no such address, no descriptors …).
        """
        self.refused = 0
        self._limits = limits
        self._gate = gate
        self._fds: dict[bytes, int] = {}
        self.by_peer: Mapping[bytes, int] = self._fds
        self.heard: set[bytes] | None = None
        self._peers: dict[int, set[bytes]] = {}
        self._closed: list[int] = []
        self._closed_since = 0.0
        #: Suspect → (when its connection was closed, how often it was probed).
        self._suspects: dict[bytes, tuple[float, int]] = {}
        self._gone: list[bytes] = []
        require_descriptors()
        socket: Socket = context.socket(zmq.ROUTER)
        self._multipart = Multipart(socket, limits)
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
        socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        if gate is not None:
            gate.protect(socket, role)
        super().__init__(socket, _EVENTS)
        try:
            if endpoint.startswith("ipc://") and is_listened_at(endpoint.removeprefix("ipc://")):
                # ZeroMQ would take the other's place, and nobody could reach it any more.
                raise zmq.ZMQError(zmq.EADDRINUSE)
            self.socket.bind(endpoint)
        except zmq.ZMQError as exc:
            self.close()
            raise OperationalError(f"{endpoint} can't be bound: {exc.strerror}") from exc
        self.endpoint = self.socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def join(self, poll: Poll) -> None:
        """Have a poll tell when ``receive`` is to be called; to be done once."""
        poll.add(self)
        for fd in self.fds():
            poll.watch(fd, self)

    def noted(self, fd: int, events: int) -> None:
        """Do nothing: ``receive`` is called, and finds what there is."""

    def flush(self) -> None:
        """Do nothing: ZeroMQ's thread has what was sent."""

    def deadline(self) -> float | None:
        """Return the monotonic time at which ``receive`` must be called though nothing is readable."""
        due = [since + _PROBE_AFTER_S[probed] for since, probed in self._suspects.values()]
        if self._closed:
            due.append(self._closed_since)
        return min(due, default=None)

    def receive(self, limit: int = 256, *, most_bytes: int = 16 << 20) -> list[Received]:
        """Return what has arrived, each message with its sender's identity and permit.

        At most ``limit`` messages, and no more once the last frames, which are the large ones, have
        ``most_bytes`` together.

        The permit is that of the very connection a message came over: whoever takes over another's identity
        doesn't take over its rights. A malformed message comes as its error. Ask ``gone`` after having
        handled them.
        """
        for event, value in self._events():
            if event == zmq.EVENT_DISCONNECTED:
                if not self._closed:
                    self._closed_since = time.monotonic()
                self._closed.append(value)
            else:
                self.refused += 1
        received: list[Received] = []
        multipart, limits, fds, gate = self._multipart, self._limits, self._fds, self._gate
        permit: Permit | None = FULL
        drained = False
        size = 0
        try:
            for _ in range(limit):
                peer = multipart.receive_first()
                if gate is None:
                    frames = multipart.receive() if peer in fds else self._learn(peer)[0]
                else:
                    frames, key = self._learn(peer)
                    permit = gate.permit(key)
                size += len(frames[-1])
                try:
                    received.append((peer, decode(frames, limits), permit))
                except RemoteProtocolError as exc:
                    received.append((peer, exc, permit))
                if size >= most_bytes:
                    break
        except zmq.Again:
            drained = True
        if self.heard is not None:
            self.heard.update(peer for peer, _, _ in received)
        if self._closed or self._suspects:
            self._look_into(drained, time.monotonic())
        return received

    def gone(self) -> list[bytes]:
        """Return the identities whose connections ``receive`` found lost since the last call."""
        if not self._gone:
            return []
        gone, self._gone = self._gone, []
        return gone

    def speaking(self) -> set[bytes]:
        """Return nothing: ZeroMQ shows a message once it has come as a whole."""
        return set()

    def send(self, peer: bytes, command: Command, *, stock: bool = False) -> bool:
        """Send a command to a peer; False: it has no connection any more, and the command is dropped.

        Raises:
            LocalProtocolError: as ``encode`` does.
        """
        return self._multipart.send([peer, *encode(command, stock=stock, limits=self._limits)])

    def send_frames(self, peer: bytes, frames: list[bytes]) -> bool:
        """Send a message that is encoded already; returns as ``send``."""
        return self._multipart.send([peer, *frames])

    def unsent_bytes(self, peer: bytes) -> int:
        """Return how much the system holds for a peer that it has not read; 0 where that isn't known."""
        return held_bytes(self._fds.get(peer, -1))

    def taken_bytes(self, peer: bytes) -> object:
        """Return something that changes as long as a peer with ``unsent_bytes`` reads."""
        fd = self._fds.get(peer, -1)
        try:
            with connection(fd) as sock:
                # Also of a socket that is no TCP one: then only what waits can tell.
                info = sock.getsockopt(plain.IPPROTO_TCP, plain.TCP_INFO, _ACKED.stop)
                return info[_ACKED]
        except OSError:
            return self.unsent_bytes(peer)

    def connections(self) -> int:
        """Return how many peers have said something and are not known to be gone."""
        return len(self._fds)

    def cut(self, peer: bytes) -> None:
        """Close a peer's connection; what is under way to it is dropped, and ``gone`` will tell."""
        with contextlib.suppress(OSError), connection(self._fds.get(peer, -1)) as sock:
            sock.shutdown(plain.SHUT_RDWR)

    def _learn(self, peer: bytes) -> tuple[list[bytes], bytes]:
        frames, fd, key = self._multipart.receive_rest_from()
        if self._fds.get(peer) != fd:
            self._fds[peer] = fd
            self._peers.setdefault(fd, set()).add(peer)
        return frames, key

    def _look_into(self, drained: bool, now: float) -> None:
        if self._closed and (drained or now - self._closed_since > _UNDRAINED_S):
            for fd in self._closed:
                for peer in self._peers.pop(fd, ()):
                    # Its next message, if there is one, tells the new connection.
                    if self._fds.get(peer) == fd:
                        del self._fds[peer]
                        self._suspects[peer] = (now, 0)
            self._closed.clear()
        for peer, (since, probed) in list(self._suspects.items()):
            if now < since + _PROBE_AFTER_S[probed] or not (drained or now - since > _UNDRAINED_S):
                continue
            beat = Heartbeat(msgid=new_id(), timestamp=time.time())
            if not self._multipart.send([peer, *encode(beat, stock=True)]):
                del self._suspects[peer]
                self._gone.append(peer)
            elif probed + 1 < len(_PROBE_AFTER_S):
                self._suspects[peer] = (since, probed + 1)
            else:
                del self._suspects[peer]
