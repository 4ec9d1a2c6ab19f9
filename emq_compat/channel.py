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
import select
import time
import weakref
from collections import deque
from collections.abc import Sequence

import zmq

from emq_compat.address import Address
from emq_compat.errors import EmqError, OperationalError, RemoteProtocolError
from emq_compat.keys import Keys
from emq_compat.message import new_id
from emq_compat.protocol.commands import Command, Hello
from emq_compat.protocol.frames import encode
from emq_compat.wire import DirectWire, Wire
from emq_compat.wire.direct import REFUSED

__all__ = ["Channel", "Channels", "Cut", "Refused", "Silent"]

#: The first and the longest pause between two rounds over the addresses.
_BACKOFF_S = 0.02
_BACKOFF_MAX_S = 0.5
#: How long an unconfirmed message to a stock router may take to leave when the client closes.
_STOCK_LINGER_S = 1.0

#: What poll(2) takes, some 24 days.
_LONGEST_S = (1 << 31) / 1000 - 1
#: Messages dropped from a connection before it is lent again.
_LEFT_OVER = 10_000


_SILENCE = "nothing answers"
_NO_HELLO = (
    "no emq-compat broker answers the HELLO there; is it a stock eventmq router? then write {}?stock=1"
)


class Cut(EmqError):
    """The connection is gone."""


class Silent(EmqError):
    """The deadline has passed."""


class Refused(OperationalError):
    """The broker serves no clients at this address, and says so."""


class Channel:
    """A connection with deadlines: monotonic times; None: none.

    Every method but ``close`` may raise Cut; what was sent and not answered may or may not have arrived.
    """

    __slots__ = ("_poll", "_wire", "address", "broker")

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: Address, identity: bytes) -> None:
        """Begin to connect; returns at once.

        Raises:
            ConfigurationError: the address's key folder can't be used.
            OperationalError: the address can't be used.
        """
        keys = Keys.for_client(address.keys_dir) if address.keys_dir is not None else None
        self.address = address
        #: What the broker's HELLO said of it; empty for a stock router.
        self.broker: dict[str, object] = {}
        endpoint = address.client_endpoint
        self._wire: Wire | DirectWire
        if keys is None and not address.stock and DirectWire.can(endpoint):
            self._wire = DirectWire(endpoint, identity=identity)
        else:
            self._wire = Wire(
                context, endpoint, identity=identity, keys=keys, stock=address.stock, once=True
            )
        self._poll = select.poll()
        for fd in self._wire.fds():
            self._poll.register(fd, select.POLLIN)

    @property
    def closed(self) -> bool:
        """Whether ``close`` has been called."""
        return self._wire.closed

    @property
    def connected(self) -> bool:
        """Whether the connection stands, as far as is known."""
        return self._wire.connected

    def open(self, deadline: float) -> None:
        """Wait for the connection and the broker's HELLO (a stock router says none).

        Raises:
            Cut: refused, or a handshake failed: the message says why.
            Silent: connected or not, no answer until ``deadline``; see ``connected``.
            Refused: the broker's answer is that this address is not for clients.
        """
        while True:
            self.receive_now()
            if self.connected:
                break
            self._wait(deadline)
        if self.address.stock:
            return
        self.send(encode(Hello(msgid=new_id(), about={})))
        while True:
            command = self.receive(deadline)
            if isinstance(command, Hello):
                if refused := command.about.get("refused"):
                    raise Refused(str(refused))
                self.broker = dict(command.about)
                return

    def send(self, frames: Sequence[bytes], *, more: bool = False) -> None:
        """Send one message; never waits: how much is under way is for the caller to bound.

        ``more``: another one, or a call that receives, follows at once; they may leave together.
        """
        if self.address.stock:
            # Nothing will be received that would tell of a cut.
            self._wire.look()
            self._check()
        self._wire.send_frames(frames)
        if not more:
            self._wire.flush()

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
            self._wait(deadline)

    def receive_now(self) -> Command | None:
        """Return the next command if it is there already; raises OperationalError as ``receive`` does."""
        received = self._wire.receive(1)
        if not received:
            self._check()
            return None
        [command] = received
        if isinstance(command, RemoteProtocolError):
            raise OperationalError(
                f"the broker at {self.address} can't be understood: {command}"
            ) from command
        return command

    def sleep(self, deadline: float, wake_fd: int | None = None) -> bool:
        """Sleep until something may have come, right after ``receive_now`` has found nothing.

        Returns whether ``wake_fd`` can be read. Raises Silent at ``deadline``.
        """
        if wake_fd is None:
            self._wait(deadline)
            return False
        poll = select.poll()
        for fd in (*self._wire.fds(), wake_fd):
            poll.register(fd, select.POLLIN)
        return any(fd == wake_fd for fd, _ in self._polled(poll, deadline))

    def usable(self) -> bool:
        """Tell whether the connection stands; what has come while nobody waited for it is dropped."""
        self._wire.receive(_LEFT_OVER)
        return self.connected and not self._wire.cuts

    def close(self, linger_s: float = 0.0) -> None:
        """Close; what ZeroMQ has not yet written to the connection is dropped after ``linger_s``."""
        self._wire.close(linger_s)

    def _wait(self, deadline: float | None) -> None:
        """Sleep until something may have come: right after ``receive_now`` has found nothing."""
        self._polled(self._poll, math.inf if deadline is None else deadline)

    def _polled(self, poll: select.poll, deadline: float) -> list[tuple[int, int]]:
        """Return what is ready: perhaps nothing, where the wire is to be looked after; else raise Silent."""
        now = time.monotonic()
        due = self._wire.due()
        if now >= deadline:
            raise Silent
        left_s = min(due, deadline) - now
        ready = poll.poll(max(0, math.ceil(left_s * 1000)) if left_s < _LONGEST_S else None)
        if not ready and deadline <= due:
            raise Silent
        return ready

    def _check(self) -> None:
        """Raise Cut if there is no connection any more, or there won't be one."""
        wire = self._wire
        if wire.failure or wire.cuts:
            raise Cut(wire.failure or "the connection was lost")


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
        #: Every connection that isn't closed: the idle ones, the lent ones, and those being opened.
        self._standing: set[Channel] = set()
        self._answering = 0
        self._closed = False
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:64]
        self._identity = f"{plain}-{os.getpid()}-{random.SystemRandom().getrandbits(48):012x}"
        self._count = itertools.count(1)
        # An app that is thrown away has nobody who calls close(). The finalizer holds on to the context, so
        # that the collector can't come to it before its sockets are closed: pyzmq would wait for ever.
        self._finalizer = weakref.finalize(self, _shut, self._context, self._standing)
        self._finalizer.atexit = False
        _live.add(self)

    def borrow(self, deadline: float, limit_s: float) -> Channel:
        """Return a connection for this thread alone, until ``give_back`` or ``drop``.

        Raises:
            OperationalError: no broker answered until ``deadline``; ``limit_s`` is for the message.
            ConfigurationError: a key folder can't be used.
        """
        while (channel := self._taken()) is not None:
            if channel.usable():
                return channel
            self._shut(channel)
        return self._open(deadline, limit_s)

    def _taken(self) -> Channel | None:
        """Take an idle connection; None: there is none."""
        try:
            return self._idle.pop()
        except IndexError:  # ended here, so that the error of a broker that is away isn't told with this one
            return None

    def give_back(self, channel: Channel) -> None:
        """Take back a connection on which nothing more is expected."""
        if self._closed or len(self._idle) >= self._idle_limit:
            self.drop(channel)
        else:
            self._idle.append(channel)

    def drop(self, channel: Channel) -> None:
        """Close a lent connection; nothing leaves by it later (but a stock router's unconfirmed messages)."""
        self._shut(channel, _STOCK_LINGER_S if channel.address.stock else 0)
        if self._closed:
            self._end()

    def distrust(self) -> None:
        """Close the idle connections: a broker was silent, and what is sent to it blindly may count later."""
        while self._idle:
            try:
                self._shut(self._idle.pop())
            except IndexError:
                return

    def close(self) -> None:
        """Close the idle connections now and the lent ones when they come back."""
        self._closed = True
        linger_s = _STOCK_LINGER_S if self._addresses[0].stock else 0
        while self._idle:
            self._shut(self._idle.pop(), linger_s)
        self._end()

    def _shut(self, channel: Channel, linger_s: float = 0.0) -> None:
        channel.close(linger_s)
        self._standing.discard(channel)

    def _end(self) -> None:
        """End ZeroMQ's part if nobody uses a connection any more."""
        if not self._standing:
            self._finalizer.detach()
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
        failed: dict[Address, str | Refused] = {}
        for rounds in itertools.count():
            channel = self._round(deadline, failed)
            if channel is not None:
                return channel
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                tried = "; ".join(
                    f"{address}: {(why is _SILENCE and address.unresolved()) or why}"
                    for address, why in failed.items()
                )
                error = OperationalError(f"no broker within {limit_s:.3g} s at {tried}")
                error.refused_here = all(a.is_loopback and why == REFUSED for a, why in failed.items())
                raise error
            time.sleep(min(left_s, _pause_s(rounds)))
        raise AssertionError("unreachable")

    def _round(self, deadline: float, failed: dict[Address, str | Refused]) -> Channel | None:
        """Try each address once, the one that last answered first; says in ``failed`` what went wrong."""
        count = len(self._addresses)
        first = self._answering
        for i in range(count):
            which = (first + i) % count
            address = self._addresses[which]
            identity = f"{self._identity}-{next(self._count)}".encode()
            now = time.monotonic()
            address.prepare()
            try:
                channel = Channel(self._context, address, identity)
            except zmq.ZMQError as exc:
                raise OperationalError(f"no connection to {address} can be made: {exc.strerror}") from exc
            self._standing.add(channel)
            try:
                # A silent address takes its share of the time, a refusing one none.
                channel.open(now + (deadline - now) / (count - i))
            except Silent:
                # The last try's time may have been too short to hear a refusal again.
                if not channel.connected:
                    failed.setdefault(address, _SILENCE)
                elif not isinstance(failed.get(address), Refused):
                    failed[address] = _NO_HELLO.format(address)
            except Refused as exc:
                failed[address] = exc
            except (Cut, OperationalError) as exc:
                failed[address] = str(exc)
            except BaseException:
                self._shut(channel)
                raise
            else:
                self._answering = which
                return channel
            self._shut(channel)
        return None


def _shut(context: zmq.Context[zmq.Socket[bytes]], standing: set[Channel]) -> None:
    for channel in standing:
        channel.close()
    context.term()


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
