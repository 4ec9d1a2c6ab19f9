"""A client's connections: opened with failover, lent to one thread at a time, closed when they are cut.

A channel never reconnects by itself: what its connection has lost would be lost in silence. ZeroMQ's socket
monitor tells when the connection is gone, and the client then opens another channel and says it again.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import re
import struct
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence

import zmq

from emq_compat.address import Address
from emq_compat.errors import EmqError, OperationalError, RemoteProtocolError
from emq_compat.keys import Keys
from emq_compat.message import new_id
from emq_compat.protocol.commands import Command, Hello
from emq_compat.protocol.frames import decode, encode
from emq_compat.wire.curve import client_curve

__all__ = ["Channel", "Channels", "Cut", "Silent"]

#: ZMTP pings: a connection whose far end is frozen, or cut off without a word, is given up after these two.
_PING_EVERY_MS = 3_000
_PONG_WITHIN_MS = 3_000

#: The first and the longest pause between two rounds over the addresses.
_BACKOFF_S = 0.02
_BACKOFF_MAX_S = 0.5
#: How long an unconfirmed message to a stock router may take to leave when the client closes.
_STOCK_LINGER_S = 1.0

# Plain numbers: an enum's | and & cost a microsecond each on every frame.
_READABLE = int(zmq.PollEvent.POLLIN)
_WRITABLE = int(zmq.PollEvent.POLLOUT)
_NOBLOCK = int(zmq.Flag.NOBLOCK)
_MORE = int(zmq.Flag.SNDMORE | zmq.Flag.NOBLOCK)
_EVENTS = int(zmq.SocketOption.EVENTS)

_EVENT = struct.Struct("=HI")
_CONNECTED = zmq.Event.HANDSHAKE_SUCCEEDED
_GONE = zmq.Event.DISCONNECTED | zmq.Event.CLOSED
#: Said before the connection is closed, and more telling.
_REASONS = {
    zmq.Event.HANDSHAKE_FAILED_AUTH: "it refused this client's CURVE key",
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL: "the handshake failed: do both use CURVE, and keys that match?",
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL: "the handshake failed: is it a broker, and do both use CURVE?",
}
_NO_HELLO = (
    "no emq-compat broker answers the HELLO there; is it a stock eventmq router? then write {}?stock=1"
)
_WATCHED = _CONNECTED | _GONE | sum(_REASONS)


class Cut(EmqError):
    """The connection is gone."""


class Silent(EmqError):
    """The deadline has passed."""


class Channel:
    """A DEALER with one connection. Deadlines are monotonic times; None: none.

    Every method but ``close`` may raise Cut; what was sent and not answered may or may not have arrived.
    """

    __slots__ = ("_dealer", "_monitor", "_polled", "_reason", "_send", "address", "broker", "connected")

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: Address, identity: bytes) -> None:
        """Begin to connect; returns at once.

        Raises:
            ConfigurationError: the address's key folder can't be used.
        """
        keys = Keys.for_client(address.keys_dir) if address.keys_dir is not None else None
        self.address = address
        #: What the broker's HELLO said of it; empty for a stock router.
        self.broker: dict[str, object] = {}
        self.connected = False
        self._reason = "the connection was refused"
        dealer = self._dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.IDENTITY, identity)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.IMMEDIATE, 1)
        dealer.setsockopt(zmq.RECONNECT_IVL, -1)
        dealer.setsockopt(zmq.SNDHWM, 0)  # the client bounds what is under way, by count and bytes
        dealer.setsockopt(zmq.RCVHWM, 0)  # a full pipe would make the broker's ROUTER drop answers
        dealer.setsockopt(zmq.HEARTBEAT_IVL, _PING_EVERY_MS)
        dealer.setsockopt(zmq.HEARTBEAT_TIMEOUT, _PONG_WITHIN_MS)
        if address.ipv6:
            dealer.setsockopt(zmq.IPV6, 1)
        if keys is not None:
            client_curve(dealer, keys)
        # The compiled method beneath pyzmq's wrapper: a REQUEST has seven frames, and it halves their price.
        self._send: Callable[[bytes, int], object] = super(zmq.Socket, dealer).send
        self._monitor = dealer.get_monitor_socket(_WATCHED)
        self._polled = [(dealer, _READABLE), (self._monitor, _READABLE)]
        try:
            dealer.connect(address.client_endpoint)
        except zmq.ZMQError as exc:
            self.close()
            raise OperationalError(f"{address} can't be connected to: {exc.strerror}") from exc

    def open(self, deadline: float) -> None:
        """Wait for the connection and the broker's HELLO (a stock router says none).

        Raises:
            Cut: refused, or a handshake failed: the message says why.
            Silent: connected or not, no answer until ``deadline``; see ``connected``.
        """
        while not self.connected:
            self._wait([(self._monitor, _READABLE)], deadline)
            self._read_monitor()
        if self.address.stock:
            return
        self.send(encode(Hello(msgid=new_id(), about={})), deadline)
        while True:
            command = self.receive(deadline)
            if isinstance(command, Hello):
                self.broker = dict(command.about)
                return

    def send(self, frames: Sequence[bytes], deadline: float | None) -> None:
        """Hand one message to ZeroMQ; waits only while the connection takes no more.

        Raises:
            Silent: it took none until ``deadline``.
        """
        send = self._send
        first, last = frames[0], len(frames) - 1
        while True:
            try:
                send(first, _MORE)
                break
            except zmq.Again:
                self._wait([(self._dealer, _WRITABLE), (self._monitor, _READABLE)], deadline)
                self._read_monitor()
        for i in range(1, last):
            send(frames[i], _MORE)
        send(frames[last], _NOBLOCK)

    def receive(self, deadline: float | None) -> Command:
        """Return the next command.

        Raises:
            Silent: none until ``deadline``.
            OperationalError: the peer doesn't speak eMQP/1.0.
        """
        while True:
            command = self.receive_now()
            if command is not None:
                return command
            self._wait(self._polled, deadline)

    def receive_now(self) -> Command | None:
        """Return the next command if it is there already; raises OperationalError as ``receive`` does."""
        if not _readable(self._dealer):
            self._read_monitor()
            return None
        try:
            return decode(self._dealer.recv_multipart(_NOBLOCK))
        except RemoteProtocolError as exc:
            raise OperationalError(f"the broker at {self.address} can't be understood: {exc}") from exc

    def usable(self) -> bool:
        """Tell whether the connection stands, as far as is known; drops what a stock router has said."""
        if _readable(self._monitor):
            return False
        if self.address.stock:
            while _readable(self._dealer):
                self._dealer.recv_multipart(_NOBLOCK)
        return True

    def close(self, linger_s: float = 0.0) -> None:
        """Close; what ZeroMQ has not yet written to the connection is dropped after ``linger_s``."""
        self._dealer.disable_monitor()
        self._monitor.close(0)
        self._dealer.close(int(linger_s * 1000))

    def _wait(self, polled: list[tuple[zmq.Socket[bytes], int]], deadline: float | None) -> None:
        if deadline is None:
            zmq.zmq_poll(polled, -1)
            return
        left = deadline - time.monotonic()
        if left <= 0 or not zmq.zmq_poll(polled, math.ceil(left * 1000)):
            raise Silent

    def _read_monitor(self) -> None:
        """Take in what the monitor has said; raises Cut."""
        while _readable(self._monitor):
            event, _value = _EVENT.unpack(self._monitor.recv_multipart(_NOBLOCK)[0])
            if event == _CONNECTED:
                self.connected = True
                self._reason = "the connection was lost"
            elif event & _GONE:
                raise Cut(self._reason)
            else:
                self._reason = _REASONS.get(event, self._reason)


def _readable(socket: zmq.Socket[bytes]) -> bool:
    return bool(socket.getsockopt(_EVENTS) & _READABLE)  # type: ignore[operator]  # it is a number


class Channels:
    """One process's connections to the first broker that answers of ``addresses``.

    Needs no lock: what threads share are a deque and a set, whose single operations are atomic. It must not
    be used, nor closed, in a process forked from the one that made it.
    """

    def __init__(self, addresses: Sequence[Address], *, name: str, idle_limit: int) -> None:
        """``name`` begins the connections' identities; ``idle_limit`` idle ones are kept."""
        self._addresses = addresses
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 16_384)  # two for each thread that talks at this moment
        self._idle_limit = idle_limit
        self._idle: deque[Channel] = deque()
        self._lent: set[Channel] = set()
        self._answering = 0
        self._closed = False
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:64]
        self._identity = f"{plain}-{os.getpid()}-{random.SystemRandom().getrandbits(48):012x}"
        self._count = itertools.count(1)
        _live.add(self)

    def borrow(self, deadline: float, limit_s: float) -> Channel:
        """Return a connection for this thread alone, until ``give_back`` or ``drop``.

        Raises:
            OperationalError: no broker answered until ``deadline``; ``limit_s`` is for the message.
            ConfigurationError: a key folder can't be used.
        """
        while True:
            try:
                channel = self._idle.pop()
            except IndexError:
                channel = self._open(deadline, limit_s)
            else:
                if not channel.usable():
                    channel.close()
                    continue
            self._lent.add(channel)
            return channel

    def give_back(self, channel: Channel) -> None:
        """Take back a connection on which nothing more is expected."""
        if self._closed or len(self._idle) >= self._idle_limit:
            self.drop(channel)
        else:
            self._lent.discard(channel)
            self._idle.append(channel)

    def drop(self, channel: Channel) -> None:
        """Close a lent connection; nothing leaves by it later (but a stock router's unconfirmed messages)."""
        channel.close(_STOCK_LINGER_S if channel.address.stock else 0)
        self._lent.discard(channel)
        if self._closed and not self._lent:
            self._context.term()

    def distrust(self) -> None:
        """Close the idle connections: a broker was silent, and what is sent to it blindly may count later."""
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:
                return

    def close(self) -> None:
        """Close the idle connections now and the lent ones when they come back."""
        self._closed = True
        linger_s = _STOCK_LINGER_S if self._addresses[0].stock else 0
        while self._idle:
            self._idle.pop().close(linger_s)
        if not self._lent:
            self._context.term()

    def after_cut(self, channel: Channel, cuts: int, deadline: float) -> bool:
        """Drop a connection that was cut, the ``cuts``-th in this call, and pause before the next one.

        The first cut most likely means that the broker was restarted: no pause. False: no time is left.
        """
        self.drop(channel)
        if cuts == 1:
            return True
        left_s = deadline - time.monotonic()
        if left_s > 0:
            time.sleep(min(left_s, _pause_s(cuts - 2)))
        return left_s > 0

    def _open(self, deadline: float, limit_s: float) -> Channel:
        failed: dict[Address, str] = {}
        for rounds in itertools.count():
            channel = self._round(deadline, failed)
            if channel is not None:
                return channel
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                tried = "; ".join(f"{address}: {why}" for address, why in failed.items())
                raise OperationalError(f"no broker within {limit_s:g} s at {tried}")
            time.sleep(min(left_s, _pause_s(rounds)))
        raise AssertionError("unreachable")

    def _round(self, deadline: float, failed: dict[Address, str]) -> Channel | None:
        """Try each address once, the one that last answered first; says in ``failed`` what went wrong."""
        count = len(self._addresses)
        first = self._answering
        for i in range(count):
            which = (first + i) % count
            address = self._addresses[which]
            identity = f"{self._identity}-{next(self._count)}".encode()
            now = time.monotonic()
            try:
                channel = Channel(self._context, address, identity)
            except zmq.ZMQError as exc:
                raise OperationalError(f"no connection to {address} can be made: {exc.strerror}") from exc
            try:
                # A silent address takes its share of the time, a refusing one none.
                channel.open(now + (deadline - now) / (count - i))
            except Silent:
                if channel.connected:
                    failed[address] = _NO_HELLO.format(address)
                else:
                    # The last try's time may have been too short to hear a refusal again.
                    failed.setdefault(address, "nothing answers")
            except (Cut, OperationalError) as exc:
                failed[address] = str(exc)
            except BaseException:
                channel.close()
                raise
            else:
                self._answering = which
                return channel
            channel.close()
        return None


def _pause_s(tries: int) -> float:
    return min(_BACKOFF_S * (1 << min(tries, 16)), _BACKOFF_MAX_S) * random.uniform(0.5, 1)


#: ZeroMQ's objects of the process this one was forked from: its I/O threads don't exist here, so they may
#: neither be used nor closed, not even by the garbage collector.
_foreign: list[Channels] = []
_live: weakref.WeakSet[Channels] = weakref.WeakSet()


def _after_fork() -> None:
    _foreign.extend(_live)
    _live.clear()


os.register_at_fork(after_in_child=_after_fork)
