"""The connecting side without ZeroMQ's threads: a DEALER in the caller's own thread.

ZeroMQ sends and receives in a thread of its own: a message to the broker wakes it up, and so does the answer,
for which it wakes this one. Where no CURVE is wanted the protocol is small enough to be spoken here
(``zmtp.py``).
"""

from __future__ import annotations

import errno
import math
import re
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

from emq_compat.errors import OperationalError, RemoteProtocolError
from emq_compat.memory import LEAST_READ_BYTES, next_read
from emq_compat.protocol.commands import Command
from emq_compat.protocol.frames import LIMITS, Limits, decode, encode
from emq_compat.wire.descriptors import held_bytes, too_few
from emq_compat.wire.zmtp import Zmtp, ZmtpError, message, ping

__all__ = ["REFUSED", "DirectWire"]

#: The ``failure`` where nobody listens.
REFUSED = "the connection was refused"

Received: TypeAlias = "Command | RemoteProtocolError"

#: What passes when the network is back: to be tried again, like a broker that is away.
_NO_NETWORK = frozenset(
    {errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.EADDRNOTAVAIL}
)

_TCP = re.compile(r"tcp://(?:\[(?P<ipv6>[0-9a-fA-F:]+)\]|(?P<ipv4>[0-9.]+|localhost)):(?P<port>[0-9]+)")
_IPC = "ipc://"
_IPC_LONGEST = 107

_READ_MOST_BYTES = 1 << 20
#: So much is collected before it is sent though ``flush`` has not been called.
_COLLECTED_BYTES = 1 << 16
_SLACK_BYTES = 16 << 20
#: As with the other wires: what a handshake may take, when a silent broker is asked, and when given up.
_HANDSHAKE_S = 5.0
_PING_EVERY_S = 3.0
_PONG_WITHIN_S = 3.0


class DirectWire:
    """One connection to a broker. Nothing blocks; once it is cut, or failed, it stays so.

    What is sent is collected: ``flush``, which ``receive`` does, too, hands it to the system. What is sent
    before the handshake is done waits for it.

    Attributes:
        connected, failure, cuts: as those of a Wire that is made once.
    """

    stock = False

    def __init__(self, endpoint: str, *, identity: bytes, asks: bool = True, limits: Limits = LIMITS) -> None:
        """Begin to connect to an endpoint of which ``can`` says that it can.

        ``asks``: a broker that is silent while something is expected of it is asked whether it lives.

        Raises:
            OperationalError: the endpoint can't be used, or there are no descriptors for it.
        """
        self.endpoint = endpoint
        self.identity = identity
        self.connected = False
        self.failure = ""
        self.cuts = 0
        self._limits = limits
        self._zmtp = Zmtp(
            identity,
            frame_bytes=limits.payload_bytes + _SLACK_BYTES,
            frames=4 * limits.follow_ups + limits.frames,
        )
        self._messages: deque[list[bytes]] = deque()
        self._collected: list[bytes] = []
        self._collected_bytes = 0
        self._unsent = memoryview(b"")
        #: How much the system was given, and how much of that the other side had when that was looked at.
        self._given_bytes = 0
        self._taken_bytes = 0
        self._connecting = True
        self._over = False
        self._read_bytes = LEAST_READ_BYTES
        self._due = time.monotonic() + _HANDSHAKE_S
        self._pinged = False
        self._asks = asks
        try:
            self._poll = select.epoll()
            try:
                self.socket = _socket(endpoint)
            except OSError:
                self._poll.close()
                raise
        except OSError as exc:
            raise too_few(exc) from exc
        self._polled = select.EPOLLIN | select.EPOLLOUT
        self._poll.register(self.socket, self._polled)
        try:
            self._connect(endpoint)
        except OSError as exc:
            self.close()
            raise OperationalError(f"{endpoint} can't be connected to: {exc.strerror or exc}") from exc

    @staticmethod
    def can(endpoint: str) -> bool:
        """Tell whether this endpoint can be connected to so: its address needs no looking up."""
        if endpoint.startswith(_IPC):
            return len(endpoint.encode()) - len(_IPC) <= _IPC_LONGEST
        return _TCP.fullmatch(endpoint) is not None

    def _connect(self, endpoint: str) -> None:
        tcp = _TCP.fullmatch(endpoint)
        try:
            if tcp is None:
                path = endpoint[len(_IPC) :]
                self.socket.connect("\0" + path[1:] if path.startswith("@") else path)
            else:
                self.socket.connect((tcp["ipv6"] or tcp["ipv4"], int(tcp["port"])))
        except BlockingIOError:
            if tcp is None:  # it was not even begun: too many wait there
                self._lose()
        except (ConnectionRefusedError, FileNotFoundError):
            self._lose()
        except OSError as exc:
            if exc.errno not in _NO_NETWORK:
                raise
            self._lose(exc.strerror or str(exc))

    @property
    def closed(self) -> bool:
        """Whether ``close`` has been called."""
        return self._poll.closed

    def fds(self) -> tuple[int]:
        """Return the descriptor whose readability calls for ``receive``."""
        return (self._poll.fileno(),)

    def ready(self) -> bool:
        """Tell whether ``receive`` would return something that came before."""
        return bool(self._messages)

    def due(self) -> float:
        """Return the monotonic time at which ``receive`` must be called though nothing is readable."""
        return self._due

    def look(self) -> None:
        """Bring ``connected``, ``failure`` and ``cuts`` up to date; ``receive`` does it, too."""
        self._take_in(1)

    def receive(self, limit: int = 256) -> list[Received]:
        """Return what has arrived, at most ``limit`` messages; one that is malformed, as its error."""
        self._take_in(limit)
        received: list[Received] = []
        messages, limits = self._messages, self._limits
        while messages and len(received) < limit:
            try:
                received.append(decode(messages.popleft(), limits))
            except RemoteProtocolError as exc:
                received.append(exc)
        return received

    def send(self, command: Command) -> None:
        """Send a command; raises LocalProtocolError as ``encode`` does."""
        self.send_frames(encode(command, limits=self._limits))

    def send_frames(self, frames: Sequence[bytes]) -> None:
        """Send a message that is encoded already."""
        if self._over:
            return
        data = message(frames)
        self._collected.append(data)
        self._collected_bytes += len(data)
        if self._collected_bytes >= _COLLECTED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand what was sent to the system, as far as it takes it; the rest leaves in ``receive``."""
        zmtp = self._zmtp
        while not self._over:
            if not self._unsent:
                data = zmtp.outgoing
                zmtp.outgoing = b""
                if zmtp.established and self._collected:
                    data += b"".join(self._collected)
                    self._collected.clear()
                    self._collected_bytes = 0
                if not data:
                    break
                self._unsent = memoryview(data)
            try:
                sent = self.socket.send(self._unsent)
                self._unsent = self._unsent[sent:]
                self._given_bytes += sent
                self._connecting = False
            except BlockingIOError:
                break
            except OSError:
                while self._read():  # what came before the connection was lost
                    pass
                self._lose()
        self._poll_for(select.EPOLLIN | select.EPOLLOUT if self._unsent else select.EPOLLIN)

    def close(self, linger_s: float = 0.0) -> None:
        """Close; what has not left yet is dropped after ``linger_s``."""
        if self._poll.closed:
            return
        end = time.monotonic() + linger_s
        while linger_s and not self._over and (self._collected or self._unsent):
            left_s = end - time.monotonic()
            if left_s <= 0:
                break
            self.look()
            if self._collected or self._unsent:
                self._poll.poll(min(left_s, 0.05))
        self._poll.close()
        self.socket.close()

    def _poll_for(self, events: int) -> None:
        if events != self._polled and not self._over:
            self._polled = events
            self._poll.modify(self.socket, events)

    def _take_in(self, limit: int) -> None:
        """Send what is to be sent; take in what is there, until there are so many messages."""
        if self._over:
            return
        self.flush()
        while len(self._messages) < limit and self._read():
            pass
        if self._due <= time.monotonic():
            self._look_after()

    def _read(self) -> bool:
        """Take in what is there; returns whether there may be more."""
        size = self._read_bytes
        try:
            data = self.socket.recv(size)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._lose()
            return False
        self._connecting = False
        try:
            self._zmtp.receive(data, self._messages)
        except ZmtpError as exc:
            self._lose(f"the handshake failed: {exc}")
            return False
        if self._zmtp.outgoing or not self.connected:
            self.connected = self._zmtp.established
            self.flush()
        if self.connected:
            self._note_life()
        self._read_bytes = next_read(size, len(data), most=_READ_MOST_BYTES)
        return len(data) == size and not self._over

    def _note_life(self) -> None:
        self._pinged = False
        self._due = time.monotonic() + _PING_EVERY_S if self._asks else math.inf

    def _takes(self) -> bool:
        """Tell whether the other side has taken some of what is under way since this was asked last.

        How should it answer what stands behind a message that takes minutes over a slow network?
        """
        held = held_bytes(self.socket.fileno())
        before, self._taken_bytes = self._taken_bytes, self._given_bytes - held
        return held > 0 and self._taken_bytes != before

    def _look_after(self) -> None:
        """Ask a silent broker, or give it up."""
        if self._over:
            return
        if self.connected and self._takes():
            self._note_life()
        elif self._pinged or not self.connected:
            self._lose("nothing answers")
        else:
            self._pinged = True
            self._due = time.monotonic() + _PONG_WITHIN_S
            self._zmtp.outgoing += ping()
            self.flush()

    def _lose(self, why: str = "") -> None:
        """Note that this connection is none, and won't be."""
        if self._over:
            return
        self._over = True
        if self.connected:
            self.cuts = 1
        elif why:
            self.failure = why
        elif self._connecting:
            self.failure = REFUSED
        else:
            self.failure = "it closed the connection during the handshake: is it a broker?"
        self.connected = False
        self._due = math.inf
        self._collected.clear()
        self._unsent = memoryview(b"")


def _socket(endpoint: str) -> socket.socket:
    if endpoint.startswith(_IPC):
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    else:
        made = socket.socket(socket.AF_INET6 if "[" in endpoint else socket.AF_INET, socket.SOCK_STREAM)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setblocking(False)
    return made
