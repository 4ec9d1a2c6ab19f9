"""The session of an eMQP/1.0 upstream: its connection, and what is said over it.

docs/protocol.md, seen from the worker:

    WAITING    no socket; the next address is tried at a time (back-off with jitter)
    CONNECTING a socket and an INFORM on its way; → INFORMED by the ACK
    INFORMED   acknowledged; HELLO shows our broker, a HEARTBEAT without one a stock router; → LIVE by either
    LIVE       deliveries, replies, heartbeats; → CONNECTING when the broker asks for INFORM
    CLOSED     stopped

From every state but CLOSED a cut, a goodbye or a silence of ``dead_after`` leads to WAITING. The identity
(name and incarnation) lives as long as the process, so that our broker recognises a worker that comes back;
a stock router gets a new one for each connection: it would ignore a name that it still holds for a dead one.
"""

from __future__ import annotations

import enum
import itertools
import logging
import os
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import zmq

from emq_compat.address import Address
from emq_compat.errors import ConfigurationError, LocalProtocolError
from emq_compat.keys import Keys
from emq_compat.message import Reply, ReplyHeaders
from emq_compat.protocol import commands
from emq_compat.protocol.frames import encode
from emq_compat.terms import Shares
from emq_compat.upstream.base import Disconnected, Key, Upstream, UpstreamEvent
from emq_compat.wire import DirectWire, Wire, identity
from emq_compat.wire.multipart import Socket

#: A HEARTBEAT of its own waits so much longer than its interval for the broker's, to go with that.
BEAT_SLACK = 1.25

__all__ = ["NOBODY", "Session", "State", "Timings"]

#: Why there is no connection where nobody listens.
NOBODY = "nobody answers there"

logger = logging.getLogger("emq_compat.upstream.emq")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """How patient the upstream is, in seconds.

    Attributes:
        connect_s: until the next address is tried, where nobody listens.
        answer_s: from an established connection to the ACK.
        stock_interval_s, stock_dead_after_s: heartbeats with a stock router (eventmq's HEARTBEAT_INTERVAL,
            and HEARTBEAT_TIMEOUT times HEARTBEAT_LIVENESS); the first one may take as long, too. Our broker
            tells its own.
        backoff_min_s, backoff_max_s: between two attempts; doubled each time, with jitter.
        complaint_s: between two log lines about the same standing trouble.
    """

    connect_s: float = 1.0
    answer_s: float = 5.0
    stock_interval_s: float = 3.0
    stock_dead_after_s: float = 15.0
    backoff_min_s: float = 0.1
    backoff_max_s: float = 3.0
    complaint_s: float = 60.0


class State(enum.Enum):
    WAITING = enum.auto()
    CONNECTING = enum.auto()
    INFORMED = enum.auto()
    LIVE = enum.auto()
    CLOSED = enum.auto()


class Session(Upstream):
    """One connection to one broker, over any of its addresses.

    Args:
        name: the worker's name; the identity is made of it.
        addresses: tried in turn.
        queues: (weight, name) of each queue listened on; empty: the broker's default queue.
        slots: how many jobs run at once; for people.
        tasks: registered task name → flags (docs/protocol.md); None: any allowed path.
        intervals: task name → seconds between two of its messages, of the tasks that are limited.
        shares: task name → what its messages share over all workers; None: this worker doesn't say.
        control: the namespace of Celery's remote control whose commands are run; empty: none.
        on_heartbeat: called with (msgid, frames as text) at each HEARTBEAT of the broker.
        on_heartbeat_sent: called after each HEARTBEAT to the broker.
    """

    def __init__(
        self,
        *,
        name: str,
        addresses: Sequence[Address],
        queues: Sequence[tuple[int, str]] = (),
        slots: int = 1,
        tasks: Mapping[str, str] | None = None,
        intervals: Mapping[str, float] | None = None,
        shares: Mapping[str, Shares] | None = None,
        control: str = "",
        timings: Timings = Timings(),
        on_heartbeat: Callable[[str, Sequence[str]], None] | None = None,
        on_heartbeat_sent: Callable[[], None] | None = None,
    ) -> None:
        if not addresses:
            raise ConfigurationError("an upstream needs at least one address")
        self.name = name
        self._control = control
        self.addresses = tuple(addresses)
        self.queues = tuple(queues)
        self.slots = slots
        self.tasks = tasks
        self.intervals = dict(intervals or {})
        self.shares = shares
        self.timings = timings
        self.on_heartbeat = on_heartbeat
        self.on_heartbeat_sent = on_heartbeat_sent
        #: Messages of the broker that could not be understood.
        self.malformed = 0
        #: Deliveries that came again while they were held.
        self.duplicates = 0
        #: The broker is ours (it said HELLO); meaningful while connected.
        self.ours = False
        self.dead_after_s = timings.stock_dead_after_s

        self._identity = identity(name)
        #: A connection has stood under this identity.
        self._has_stood = False
        self._state = State.CLOSED
        self._address = self.addresses[0]
        self._next_address = 0
        self._context: zmq.Context[Socket] | None = None
        self._wire: Wire | DirectWire | None = None
        self._producer: Wire | None = None
        self._due = 0.0
        self._last_received = 0.0
        self._next_beat = 0.0
        #: Monotonic time from which on a HEARTBEAT of the broker's is answered by one.
        self._answers_beats_at = 0.0
        self._last_step = 0.0
        self._failures = 0
        self._leaving = False
        self._more = False
        self._numbers = itertools.count(1)
        self._inform = ""
        self._inform_pending = False
        #: This connection was live before: it says anew who it is.
        self._introduced = False
        self._events: list[UpstreamEvent] = []
        self._complain_at = 0.0
        #: The log tells of trouble, and not yet of its end.
        self._in_trouble = False
        #: There was a connection that was live.
        self._has_lived = False
        self._complained_malformed_at = 0.0
        #: What was delivered and not answered: whether it has begun.
        self._held: dict[Key, bool] = {}
        #: Request's msgid → (attempt, REPLY's frames) until the broker acknowledges it.
        self._replies: dict[str, tuple[int, list[bytes]]] = {}
        #: Something was given back, and our broker may not have heard of it; None: it has. These are the
        #: msgids of the REPLYs said before: the ACK of any other tells it, or of an INFORM said since.
        self._given_back: frozenset[str] | None = None
        #: The INFORM on its way was said after all that was given back.
        self._inform_covers = False
        #: A stock router takes nothing back: what it delivered, so that it can be published again.
        self._stock_requests: dict[Key, commands.Request] = {}

    @property
    def takes_back(self) -> bool:
        """Only our broker knows NACK."""
        return self.ours

    @property
    def announces(self) -> bool:
        """Only our broker takes PUBLISH from workers."""
        return self.ours

    @property
    def connected(self) -> bool:
        """True while deliveries may come: between Connected and Disconnected."""
        return self._state is State.LIVE

    def held(self) -> Mapping[Key, bool]:
        """Return what was delivered and is not answered yet: key → whether it has begun."""
        return self._held

    # The connection.

    def _connect(self, now: float) -> None:
        assert self._context is not None
        self._address = address = self.addresses[self._next_address]
        self._next_address = (self._next_address + 1) % len(self.addresses)
        address.prepare()
        if self._has_stood and (address.stock or not self.ours):
            self._identity = identity(self.name)
        endpoint, name = address.worker_endpoint, self._identity
        keys = Keys.for_client(address.keys_dir) if address.keys_dir is not None else None
        if keys is None and not address.stock and DirectWire.can(endpoint):
            self._wire = DirectWire(endpoint, identity=name, asks=False)
        else:
            self._wire = Wire(self._context, endpoint, identity=name, keys=keys, stock=address.stock)
        self._state = State.CONNECTING
        self._last_received = self._last_step = now
        self._due = now + self.timings.connect_s
        self._more = False
        self._send_inform()

    def _close_wire(self, linger_s: float = 0.0) -> None:
        if self._wire is not None:
            self._wire.close(linger_s)
        self._wire = None
        self._more = False

    def _lose(self, now: float, events: list[UpstreamEvent], why: str) -> None:
        """Give this connection up; the next is tried after the back-off."""
        was_live = self._state is State.LIVE
        # As often as ZeroMQ tries by itself, where it does.
        most = 2 if isinstance(self._wire, DirectWire) else 16
        self._close_wire()
        self._state = State.WAITING
        self._inform_pending = self._introduced = False
        if was_live:
            self._failures = 0
            self._in_trouble = True
            logger.warning("lost the broker at %s: %s; trying again", self._address.worker_endpoint, why)
            events.append(Disconnected(reason=why))
        else:
            self._failures += 1
            self._complain(now, why)
        doubled = min(self._failures, most)
        delay = min(self.timings.backoff_max_s, self.timings.backoff_min_s * 2**doubled)
        self._due = now + delay * random.uniform(0.5, 1.0)

    def _unanswered(self, now: float, events: list[UpstreamEvent]) -> None:
        assert self._wire is not None
        if self._wire.connected:
            self._lose(now, events, f"it didn't answer within {self.timings.answer_s:g} s")
        elif len(self.addresses) > 1:
            self._lose(now, events, NOBODY)
        else:
            # ZeroMQ goes on trying by itself, and the INFORM waits in its queue.
            self._due = now + self.timings.answer_s
            self._complain(now, NOBODY)

    def _complain(self, now: float, why: str) -> None:
        where, endpoint = self._address.url, self._address.worker_endpoint
        if where != endpoint:
            where = f"{where} (for workers {endpoint})"
        if now < self._complain_at:
            logger.debug("no broker at %s: %s", where, why)
            return
        self._complain_at = now + self.timings.complaint_s
        self._in_trouble = True
        if why is NOBODY:
            why = self._address.unresolved() or why
        logger.error("no broker at %s: %s; trying again until one is there", where, why)

    # What is said.

    def _number(self) -> str:
        return f"{next(self._numbers):x}"

    def _send_frames(self, frames: list[bytes]) -> None:
        assert self._wire is not None
        self._wire.send_frames(frames)

    def _send(self, command: commands.Command) -> None:
        try:
            frames = encode(command, stock=not self.ours)
        except LocalProtocolError as exc:
            logger.error("%s can't be said: %s", type(command).__name__, exc)
            return
        self._send_frames(frames)

    def _send_inform(self) -> None:
        self._inform = self._number()
        self._inform_pending = self._inform_covers = True
        capabilities = commands.Capabilities(
            slots=self.slots,
            held=(
                *((msgid, attempt, begun) for (msgid, attempt), begun in self._held.items()),
                *((msgid, attempt, True) for msgid, (attempt, _) in self._replies.items()),
            ),
            tasks=self.tasks,
            intervals=self.intervals,
            shares=self.shares,
            control=self._control,
            pid=os.getpid(),
            hostname=socket.gethostname(),
        )
        inform = commands.Inform(msgid=self._inform, queues=self.queues, capabilities=capabilities)
        self._send_frames(encode(inform, stock=self._address.stock))

    def _tell_anew(self, why: str) -> None:
        """Say INFORM again to our broker, also where the last one is on its way: that one is out of date."""
        if self.ours and not self._leaving and self._state in (State.LIVE, State.INFORMED, State.CONNECTING):
            self._inform_again(time.monotonic(), why)

    def _inform_again(self, now: float, why: str) -> None:
        if self._state is State.LIVE:
            self._events.append(Disconnected(reason=why, cut=False))
        self._state = State.CONNECTING
        self._due = now + self.timings.answer_s
        self._send_inform()

    def _beaten(self, now: float) -> None:
        """Note that the next HEARTBEAT is due after an interval from now on.

        With our broker's next one, which wakes this process up anyway, if that comes at about the time.
        """
        interval = self.dead_after_s / 4 if self.ours else self.timings.stock_interval_s
        self._answers_beats_at = now + interval / 2
        self._next_beat = now + (interval * BEAT_SLACK if self.ours else interval)

    def _beat(self, now: float) -> None:
        self._beaten(now)
        if self._leaving and not self.ours:
            return  # it has been said goodbye to: anything more from this name is a stranger's message
        held = self._held.items() if self.ours else ()
        not_begun = frozenset(msgid for (msgid, _), begun in held if not begun)
        self._send(commands.Heartbeat(msgid=self._number(), timestamp=time.time(), not_begun=not_begun))
        if self.on_heartbeat_sent is not None:
            self.on_heartbeat_sent()

    def _say_goodbye(self) -> None:
        self._send(commands.Kbye(msgid=self._number()))

    def _reply_frames(self, msgid: str, attempt: int, reply: Reply) -> list[bytes]:
        headers = ReplyHeaders(
            attempt=attempt,
            state=reply.state,
            no_result=reply.no_result,
            unattended=reply.unattended,
            keep_s=reply.keep_s,
        )
        command = commands.Reply(
            msgid=self._number(),
            body=reply.body,
            request_msgid=msgid,
            headers=headers,
            follow_ups=reply.follow_ups,
        )
        if attempt or self.ours:
            return encode(command)
        # Attempt 0: it came from a stock router, which gets the two frames it knows.
        return encode(commands.Reply(msgid=command.msgid, body=reply.body, request_msgid=msgid), stock=True)

    def _publish_again(self, requests: Sequence[commands.Request]) -> None:
        """Publish what a stock router delivered and nobody began: it has no other way back."""
        assert self._context is not None
        if self._producer is None:
            self._producer = Wire(
                self._context, self._address.client_endpoint, identity=identity(self.name), stock=True
            )
        for request in requests:
            self._producer.send(request)
