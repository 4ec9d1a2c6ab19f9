"""The upstream of eMQP/1.0: a DEALER to the workers' endpoint of our broker, or of a stock router.

The session of docs/protocol.md, seen from the worker:

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
import select
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import zmq

from emq_compat.address import Address
from emq_compat.errors import ConfigurationError, LocalProtocolError, RemoteProtocolError
from emq_compat.keys import Keys
from emq_compat.message import FAILURE, REQUEUED, RETURNED, Delivery, Failure, Outcome, Reply, ReplyHeaders
from emq_compat.protocol import commands
from emq_compat.protocol.frames import encode
from emq_compat.upstream.base import (
    Asked,
    Connected,
    Delivered,
    Disconnected,
    Key,
    Told,
    Upstream,
    UpstreamEvent,
)
from emq_compat.wire import Wire, identity
from emq_compat.wire.multipart import Socket

__all__ = ["EmqUpstream", "Timings"]

logger = logging.getLogger(__name__)

#: Messages taken from the socket in one step, so that children and signals get their turn.
BATCH = 256


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


class _State(enum.Enum):
    WAITING = enum.auto()
    CONNECTING = enum.auto()
    INFORMED = enum.auto()
    LIVE = enum.auto()
    CLOSED = enum.auto()


class EmqUpstream(Upstream):
    """One connection to one broker, over any of its addresses.

    Args:
        name: the worker's name; the identity is made of it.
        addresses: tried in turn.
        queues: (weight, name) of each queue listened on; empty: the broker's default queue.
        slots: how many jobs run at once; for people.
        tasks: registered task name → flags (docs/protocol.md); None: any allowed path.
        intervals: task name → seconds between two of its messages, of the tasks that are limited.
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
        timings: Timings = Timings(),
        on_heartbeat: Callable[[str, Sequence[str]], None] | None = None,
        on_heartbeat_sent: Callable[[], None] | None = None,
    ) -> None:
        if not addresses:
            raise ConfigurationError("an upstream needs at least one address")
        self.name = name
        self.addresses = tuple(addresses)
        self.queues = tuple(queues)
        self.slots = slots
        self.tasks = tasks
        self.intervals = dict(intervals or {})
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
        self._connection_number = 0
        self._state = _State.CLOSED
        self._address = self.addresses[0]
        self._next_address = 0
        self._context: zmq.Context[Socket] | None = None
        self._wire: Wire | None = None
        self._producer: Wire | None = None
        self._due = 0.0
        self._last_received = 0.0
        self._next_beat = 0.0
        self._last_step = 0.0
        self._failures = 0
        self._established = False
        self._leaving = False
        self._more = False
        self._numbers = itertools.count(1)
        self._inform = ""
        self._inform_pending = False
        self._events: list[UpstreamEvent] = []
        self._complain_at = 0.0
        self._complained_malformed_at = 0.0
        #: What was delivered and not answered: whether it has begun.
        self._held: dict[Key, bool] = {}
        #: Request's msgid → (attempt, REPLY's frames) until the broker acknowledges it.
        self._replies: dict[str, tuple[int, list[bytes]]] = {}
        #: A stock router takes nothing back: what it delivered, so that it can be published again.
        self._stock_requests: dict[Key, commands.Request] = {}

    @property
    def takes_back(self) -> bool:
        """Only our broker knows NACK."""
        return self.ours

    @property
    def connected(self) -> bool:
        """True while deliveries may come: between Connected and Disconnected."""
        return self._state is _State.LIVE

    def held(self) -> Mapping[Key, bool]:
        """Return what was delivered and is not answered yet: key → whether it has begun."""
        return self._held

    # The contract.

    def start(self) -> None:
        if self._state is not _State.CLOSED:
            raise RuntimeError("the upstream has been started already")
        for address in self.addresses:
            if address.keys_dir is not None:
                Keys.for_client(address.keys_dir)  # a missing key is said at the start, not at a failover
        self._context = zmq.Context()
        self._connect(time.monotonic())

    def fds(self) -> Sequence[int]:
        return self._wire.fds() if self._wire is not None else ()

    def deadline(self) -> float | None:
        # A send may have swallowed the edge that told of input.
        if self._more or self._events or (self._wire is not None and self._wire.ready()):
            return 0.0
        if self._state is _State.LIVE:
            return min(self._due, self._next_beat)
        return None if self._state is _State.CLOSED else self._due

    def step(self, now: float) -> list[UpstreamEvent]:
        events, self._events = self._events, []
        if self._state is _State.CLOSED:
            return events
        if now - self._last_step > self.dead_after_s / 2:
            # This process was paused: what the broker sent meanwhile may still be on its way up.
            self._last_received = max(self._last_received, now - self.dead_after_s / 2)
            self._due = max(self._due, now + self.dead_after_s / 2)
        self._last_step = now
        if self._state is _State.WAITING:
            if now >= self._due:
                self._connect(now)
            return events
        self._receive(now, events)
        if self._wire is None:
            pass  # lost in this very step
        elif self._state is _State.LIVE:
            if now >= self._next_beat:
                self._beat(now)
            self._due = self._last_received + self.dead_after_s
            if now >= self._due and not self._more:
                self._lose(now, events, f"it has been silent for {self.dead_after_s:g} s")
        elif now >= self._due:
            self._unanswered(now, events)
        events.extend(self._events)
        self._events.clear()
        return events

    def ready(self, count: int) -> None:
        if self._state is not _State.LIVE or count < 1 or self._leaving:
            return
        if self.ours:
            self._send(commands.Ready(msgid=self._number(), count=count))
            return
        for _ in range(count):
            self._send(commands.Ready(msgid=self._number()))

    def reply(self, key: Key, reply: Reply) -> None:
        msgid, attempt = key
        if reply.state in (REQUEUED, RETURNED) and key in self._stock_requests:
            self.nack((key,))
            return
        self._held.pop(key, None)
        self._stock_requests.pop(key, None)
        try:
            frames = self._reply_frames(msgid, attempt, reply)
        except LocalProtocolError as exc:
            logger.error("the reply to %s can't be sent: %s", msgid, exc)
            frames = self._reply_frames(msgid, attempt, _unsendable(exc))
        if self._state is _State.LIVE:
            self._send_frames(frames)
            if not self.ours:
                return  # a stock router acknowledges no REPLY
        self._replies[msgid] = (attempt, frames)

    def update(self, key: Key, state: str, body: bytes) -> None:
        if self._state is _State.LIVE and self.ours:
            headers = ReplyHeaders(attempt=key[1], state=state)
            self._send(
                commands.Update(msgid=self._number(), body=body, request_msgid=key[0], headers=headers)
            )

    def nack(self, keys: Sequence[Key]) -> None:
        returned = [key for key in keys if self._held.pop(key, None) is not None]
        if not returned:
            return
        again = [self._stock_requests.pop(key) for key in returned if key in self._stock_requests]
        if again:
            self._publish_again(again)
        # While the connection is down, what the next INFORM doesn't list is handed out again.
        if self._state is _State.LIVE and self.ours:
            self._send(commands.Nack(msgid=self._number(), returned=tuple(returned)))

    def began(self, keys: Sequence[Key]) -> None:
        held = self._held
        for key in keys:
            if key in held:
                held[key] = True

    def answer(self, asked: str, body: bytes) -> None:
        # Not LIVE: what was asked changed what this worker tells of itself (its queues), which it does again.
        if self._state in (_State.LIVE, _State.CONNECTING, _State.INFORMED) and self.ours:
            self._send(commands.Answer(msgid=self._number(), body=body, asked=asked))

    def unacknowledged(self) -> int:
        return len(self._replies)

    def listen(self, queues: Sequence[tuple[int, str]]) -> bool:
        self.queues = tuple(queues)
        if self._state in (_State.LIVE, _State.INFORMED):
            if self.ours:
                self._inform_again(time.monotonic(), "its queues change")
            else:
                # A stock router adds an INFORM's queues to the name's: only a new name replaces them.
                self._say_goodbye()
                self._lose(time.monotonic(), self._events, "its queues change")
        return True

    def limit(self, task: str, interval_s: float | None) -> None:
        if interval_s is None:
            self.intervals.pop(task, None)
        else:
            self.intervals[task] = interval_s
        if self._state in (_State.LIVE, _State.INFORMED) and self.ours and not self._leaving:
            self._inform_again(time.monotonic(), f"the limit of {task} changes")

    def leave(self) -> None:
        if self._leaving:
            return
        self._leaving = True
        if self._state is not _State.LIVE:
            return
        if self.ours:
            self._send_inform()  # replaces the credit by none
        else:
            self._say_goodbye()

    def stop(self, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        self._leaving = True
        poller: select.poll | None = None
        polled: Sequence[int] = ()
        while self._replies and self._state is not _State.CLOSED:
            now = time.monotonic()
            if now >= end:
                logger.error(
                    "%d replies were not acknowledged within %g s: the broker will take their tasks for lost",
                    len(self._replies),
                    timeout_s,
                )
                break
            if poller is None or polled != self.fds():
                polled, poller = self.fds(), select.poll()
                for fd in polled:
                    poller.register(fd, select.POLLIN)
            due = self.deadline()
            until = end if due is None else min(due, end)
            poller.poll(max(0.0, (until - now) * 1000))
            self.step(time.monotonic())
        live = self._state is _State.LIVE
        if live and self.ours:
            self._say_goodbye()
        self._state = _State.CLOSED
        self._close_wire(1.0 if live else 0.0)
        if self._producer is not None:
            self._producer.close(2.0)
            self._producer = None
        if self._context is not None:
            self._context.term()
            self._context = None

    # The connection.

    def _connect(self, now: float) -> None:
        assert self._context is not None
        self._address = address = self.addresses[self._next_address]
        self._next_address = (self._next_address + 1) % len(self.addresses)
        self._connection_number += 1
        name = self._identity
        if address.stock or (self._connection_number > 1 and not self.ours):
            name = identity(self.name)
        keys = Keys.for_client(address.keys_dir) if address.keys_dir is not None else None
        self._wire = Wire(
            self._context, address.worker_endpoint, identity=name, keys=keys, stock=address.stock
        )
        self._state = _State.CONNECTING
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
        was_live = self._state is _State.LIVE
        self._close_wire()
        self._state = _State.WAITING
        self._inform_pending = False
        if was_live:
            self._failures = 0
            logger.warning("lost the broker at %s: %s; trying again", self._address.worker_endpoint, why)
            events.append(Disconnected(reason=why))
        else:
            self._failures += 1
            self._complain(now, why)
        delay = min(self.timings.backoff_max_s, self.timings.backoff_min_s * 2 ** min(self._failures, 16))
        self._due = now + delay * random.uniform(0.5, 1.0)

    def _unanswered(self, now: float, events: list[UpstreamEvent]) -> None:
        assert self._wire is not None
        if self._wire.connected:
            self._lose(now, events, f"it didn't answer within {self.timings.answer_s:g} s")
        elif len(self.addresses) > 1:
            self._lose(now, events, "nobody answers there")
        else:
            # ZeroMQ goes on trying by itself, and the INFORM waits in its queue.
            self._due = now + self.timings.answer_s
            self._complain(now, "nobody answers there")

    def _complain(self, now: float, why: str) -> None:
        where = self._address.worker_endpoint
        if now < self._complain_at:
            logger.debug("no broker at %s: %s", where, why)
            return
        self._complain_at = now + self.timings.complaint_s
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
        self._inform_pending = True
        capabilities = commands.Capabilities(
            slots=self.slots,
            held=(
                *((msgid, attempt, begun) for (msgid, attempt), begun in self._held.items()),
                *((msgid, attempt, True) for msgid, (attempt, _) in self._replies.items()),
            ),
            tasks=self.tasks,
            intervals=self.intervals,
            pid=os.getpid(),
            hostname=socket.gethostname(),
        )
        inform = commands.Inform(msgid=self._inform, queues=self.queues, capabilities=capabilities)
        self._send_frames(encode(inform, stock=self._address.stock))

    def _inform_again(self, now: float, why: str) -> None:
        if self._state is _State.LIVE:
            self._events.append(Disconnected(reason=why))
        self._state = _State.CONNECTING
        self._due = now + self.timings.answer_s
        self._send_inform()

    def _beat(self, now: float) -> None:
        interval = self.dead_after_s / 4 if self.ours else self.timings.stock_interval_s
        self._next_beat = now + interval
        if self._leaving and not self.ours:
            return  # it has been said goodbye to: anything more from this name is a stranger's message
        not_begun = tuple(msgid for (msgid, _), begun in self._held.items() if not begun) if self.ours else ()
        self._send(commands.Heartbeat(msgid=self._number(), timestamp=time.time(), not_begun=not_begun))
        if self.on_heartbeat_sent is not None:
            self.on_heartbeat_sent()

    def _say_goodbye(self) -> None:
        self._send(commands.Kbye(msgid=self._number()))

    def _reply_frames(self, msgid: str, attempt: int, reply: Reply) -> list[bytes]:
        headers = ReplyHeaders(
            attempt=attempt, state=reply.state, no_result=reply.no_result, unattended=reply.unattended
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

    # What is heard.

    def _receive(self, now: float, events: list[UpstreamEvent]) -> None:
        wire = self._wire
        assert wire is not None
        was_connected, state = wire.connected, self._state
        received = wire.receive(BATCH)
        if received:
            self._last_received = now
        for command in received:
            if type(command) is commands.Request:
                self._on_request(command, events)
            elif type(command) is commands.Ack:
                self._on_ack(command)
            elif isinstance(command, RemoteProtocolError):
                self._refuse(now, command)
            else:
                self._on_other(now, command, events)
                if self._wire is not wire:
                    return
        self._more = len(received) >= BATCH
        # What came before a cut has been read: its last ACKs count.
        if wire.failure:
            self._lose(now, events, wire.failure)
        elif wire.cuts and not self._more:
            self._lose(now, events, "the connection was cut")
        elif self._state is _State.INFORMED and state is _State.CONNECTING:
            # A stock router is live only with its next HEARTBEAT.
            self._due = now + max(self.timings.answer_s, self.timings.stock_dead_after_s)
        elif wire.connected and not was_connected and self._state is _State.CONNECTING:
            self._due = now + self.timings.answer_s

    def _on_request(self, request: commands.Request, events: list[UpstreamEvent]) -> None:
        key = (request.msgid, request.headers.attempt)
        if self._state is not _State.LIVE or (self._inform_pending and self.ours):
            # Crossed our INFORM, which didn't list it: the broker hands it out again.
            logger.debug("dropped the delivery %s: it crossed an INFORM", request.msgid)
            return
        if key in self._held:
            self.duplicates += 1
            logger.debug("dropped the delivery %s: it is here already", request.msgid)
            self.ready(1)
            return
        kept = self._replies.get(request.msgid)
        if kept is not None and kept[0] == key[1]:
            self.duplicates += 1
            self._send_frames(kept[1])
            self.ready(1)
            return
        self._held[key] = False
        if not self.ours:
            self._stock_requests[key] = request
        events.append(
            Delivered(
                delivery=Delivery(
                    msgid=request.msgid, queue=request.queue, headers=request.headers, payload=request.payload
                )
            )
        )

    def _on_ack(self, ack: commands.Ack) -> None:
        replies = self._replies
        for msgid in ack.acked:
            if replies.pop(msgid, None) is None and msgid == self._inform:
                self._inform_pending = False
                if self._state is _State.CONNECTING:
                    self._state = _State.INFORMED

    def _on_other(self, now: float, command: commands.Command, events: list[UpstreamEvent]) -> None:
        match command:
            case commands.Heartbeat():
                if self._state is _State.INFORMED:
                    self._go_live(now, events, ours=False)
                if self.on_heartbeat is not None:
                    self.on_heartbeat(command.msgid, (str(command.timestamp),))
            case commands.Hello():
                self._on_hello(now, command, events)
            case commands.Ask():
                events.append(Asked(asked=command.msgid, verb=command.verb, arguments=command.arguments))
            case commands.Disconnect():
                events.append(Told())
            case commands.Kbye():
                self._lose(now, events, "it said goodbye")
            case _:
                self.malformed += 1
                logger.warning("the broker sent %s, which is nothing for a worker", type(command).__name__)

    def _on_hello(self, now: float, hello: commands.Hello, events: list[UpstreamEvent]) -> None:
        if hello.about.get("inform"):
            if self._state is _State.LIVE and not self._inform_pending:
                self.ours = True
                logger.info(
                    "the broker at %s doesn't know this worker any more", self._address.worker_endpoint
                )
                self._inform_again(now, "the broker asks who this is")
            return
        dead_after = hello.about.get("dead_after_s")
        if isinstance(dead_after, (int, float)) and 0 < dead_after < 1e6:
            self.dead_after_s = float(dead_after)
        if self._state is _State.INFORMED:
            self._go_live(now, events, ours=True)
        elif self._state is _State.LIVE and not self.ours:
            self.ours = True
            self._next_beat = now

    def _go_live(self, now: float, events: list[UpstreamEvent], *, ours: bool) -> None:
        self.ours = ours
        self._state = _State.LIVE
        self._failures = 0
        self._complain_at = 0.0
        if not ours:
            self.dead_after_s = self.timings.stock_dead_after_s
        self._next_beat = now + (self.dead_after_s / 4 if ours else self.timings.stock_interval_s)
        kind = "the broker" if ours else "a stock router"
        logger.info("connected to %s at %s", kind, self._address.worker_endpoint)
        for _, frames in self._replies.values():
            self._send_frames(frames)
        if not ours:
            self._replies.clear()
        if self._leaving:
            return
        events.append(Connected(address=self._address.worker_endpoint))

    def _refuse(self, now: float, error: RemoteProtocolError) -> None:
        """Put a message that can't be understood aside; a job is answered, so that nobody waits for it."""
        self.malformed += 1
        if now >= self._complained_malformed_at:
            self._complained_malformed_at = now + 1.0
            logger.warning("the broker sent a malformed message (%d so far): %s", self.malformed, error)
        if error.command != "REQUEST" or not error.msgid or self._state is not _State.LIVE:
            return
        # Attempt 0: the broker counts it for the latest one.
        self.reply((error.msgid, 0), _unsendable(error))
        self.ready(1)


def _unsendable(error: Exception) -> Reply:
    failure = Failure(
        type=type(error).__qualname__, module=type(error).__module__, args=(str(error),), message=str(error)
    )
    return replace(Outcome(state=FAILURE, failure=failure).encode(), unattended=True)
