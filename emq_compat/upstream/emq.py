"""The upstream of eMQP/1.0: a DEALER to the workers' endpoint of our broker, or of a stock router.

What it does and what it hears; session.py tells its states.
"""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Sequence
from dataclasses import replace

import zmq

from emq_compat.errors import LocalProtocolError, RemoteProtocolError
from emq_compat.keys import Keys
from emq_compat.message import FAILURE, REQUEUED, RETURNED, Delivery, Failure, Outcome, Reply, ReplyHeaders
from emq_compat.protocol import commands
from emq_compat.upstream.base import Asked, Connected, Delivered, Key, Told, UpstreamEvent
from emq_compat.upstream.session import NOBODY, Session, State
from emq_compat.wire.direct import REFUSED
from emq_compat.words import amount

__all__ = ["EmqUpstream"]

logger = logging.getLogger(__name__)

#: Messages taken from the socket in one step, so that children and signals get their turn.
BATCH = 256


class EmqUpstream(Session):
    """One connection to one broker, over any of its addresses; the arguments are Session's."""

    def start(self) -> None:
        if self._state is not State.CLOSED:
            raise RuntimeError("the upstream has been started already")
        for address in self.addresses:
            if address.keys_dir is not None:
                Keys.for_client(address.keys_dir)  # a missing key is said at the start, not at a failover
        self._context = zmq.Context()
        self._connect(time.monotonic())

    def fds(self) -> Sequence[int]:
        return self._wire.fds() if self._wire is not None else ()

    def deadline(self) -> float | None:
        wire = self._wire
        if wire is not None:
            wire.flush()
        # A send may have swallowed the edge that told of input.
        if self._more or self._events or (wire is not None and wire.ready()):
            return 0.0
        if self._state is State.LIVE:
            return min(self._due, self._next_beat)
        return None if self._state is State.CLOSED else self._due

    def step(self, now: float) -> list[UpstreamEvent]:
        events, self._events = self._events, []
        if self._state is State.CLOSED:
            return events
        if now - self._last_step > self.dead_after_s / 2:
            # This process was paused: what the broker sent meanwhile may still be on its way up.
            self._last_received = max(self._last_received, now - self.dead_after_s / 2)
            self._due = max(self._due, now + self.dead_after_s / 2)
        self._last_step = now
        if self._state is State.WAITING:
            if now >= self._due:
                self._connect(now)
            return events
        self._receive(now, events)
        if self._wire is None:
            pass  # lost in this very step
        elif self._state is State.LIVE:
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
        if self._state is not State.LIVE or count < 1 or self._leaving:
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
        if self._state is State.LIVE:
            self._send_frames(frames)
            if not self.ours:
                return  # a stock router acknowledges no REPLY
        self._replies[msgid] = (attempt, frames)

    def update(self, key: Key, state: str, body: bytes) -> None:
        if self._state is State.LIVE and self.ours:
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
        self._given_back, self._inform_covers = frozenset(self._replies), False
        # While the connection is down, what the next INFORM doesn't list is handed out again.
        if self._state is State.LIVE and self.ours:
            self._send(commands.Nack(msgid=self._number(), returned=tuple(returned)))

    def began(self, keys: Sequence[Key]) -> None:
        held = self._held
        for key in keys:
            if key in held:
                held[key] = True

    def answer(self, asked: str, body: bytes) -> None:
        # Not LIVE: what was asked changed what this worker tells of itself (its queues), which it does again.
        if self._state in (State.LIVE, State.CONNECTING, State.INFORMED) and self.ours:
            self._send(commands.Answer(msgid=self._number(), body=body, asked=asked))

    def unacknowledged(self) -> int:
        return len(self._replies)

    def listen(self, queues: Sequence[tuple[int, str]]) -> bool:
        self.queues = tuple(queues)
        if self.ours:
            self._tell_anew("its queues change")
        elif self._state in (State.LIVE, State.INFORMED):
            # A stock router adds an INFORM's queues to the name's: only a new name replaces them.
            self._say_goodbye()
            self._lose(time.monotonic(), self._events, "its queues change")
        return True

    def resize(self, slots: int) -> None:
        if slots != self.slots:
            self.slots = slots
            self._tell_anew("how much it runs at once changes")

    def limit(self, task: str, interval_s: float | None) -> None:
        if interval_s is None:
            self.intervals.pop(task, None)
        else:
            self.intervals[task] = interval_s
        self._tell_anew(f"the limit of {task} changes")

    def announce(self, topic: str, payload: bytes) -> bool:
        if self._state is not State.LIVE or not self.ours:
            return False
        self._send(commands.PublishTopic(msgid=self._number(), topic=topic, payload=payload))
        return True

    def hear_ends(self, hears: bool) -> None:
        if self.tasks is None:
            return
        flags = {task: told.replace("e", "") + ("e" if hears else "") for task, told in self.tasks.items()}
        if flags != self.tasks:
            self.tasks = flags
            self._tell_anew("what it wants to be told changes")

    def leave(self) -> None:
        if self._leaving:
            return
        self._leaving = True
        if self._state is not State.LIVE:
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
        while (self._replies or self._must_be_heard()) and self._state is not State.CLOSED:
            now = time.monotonic()
            if now >= end:
                unheard = "" if self._given_back is None else ", nor what was given back"
                logger.error(
                    "not acknowledged within %g s: %s%s; the broker takes their tasks for lost",
                    timeout_s,
                    amount(len(self._replies), "reply", "replies"),
                    unheard,
                )
                break
            if self._must_be_heard() and self._state is State.LIVE and not self._inform_pending:
                self._send_inform()
            if poller is None or polled != self.fds():
                polled, poller = self.fds(), select.poll()
                for fd in polled:
                    poller.register(fd, select.POLLIN)
            due = self.deadline()
            until = end if due is None else min(due, end)
            poller.poll(max(0.0, (until - now) * 1000))
            self.step(time.monotonic())
        live = self._state is State.LIVE
        if live and self.ours:
            self._say_goodbye()
        self._state = State.CLOSED
        self._close_wire(1.0 if live else 0.0)
        if self._producer is not None:
            self._producer.close(2.0)
            self._producer = None
        if self._context is not None:
            self._context.term()
            self._context = None

    def _must_be_heard(self) -> bool:
        """Return whether the broker may take for held by this worker what it has not, or not any more."""
        if not self.ours:
            return False
        # One that is away, and was told nothing that it may have missed, isn't waited for.
        connected = self._wire is not None and self._wire.connected
        return self._given_back is not None or (self._inform_pending and connected)

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
        self._has_stood = self._has_stood or wire.connected or wire.cuts > 0
        # What came before a cut has been read: its last ACKs count.
        if wire.failure:
            self._lose(now, events, NOBODY if wire.failure == REFUSED else wire.failure)
        elif wire.cuts and not self._more:
            self._lose(now, events, "the connection was cut")
        elif self._state is State.INFORMED and state is State.CONNECTING:
            # A stock router is live only with its next HEARTBEAT.
            self._due = now + max(self.timings.answer_s, self.timings.stock_dead_after_s)
        elif wire.connected and not was_connected and self._state is State.CONNECTING:
            self._due = now + self.timings.answer_s

    def _on_request(self, request: commands.Request, events: list[UpstreamEvent]) -> None:
        key = (request.msgid, request.headers.attempt)
        if self._state is not State.LIVE or (self._inform_pending and self.ours):
            # Crossed our INFORM, which didn't list it: the broker hands it out again.
            if self._given_back is None:
                self._given_back = frozenset(self._replies)
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
            if replies.pop(msgid, None) is not None:
                if self._given_back is not None and msgid not in self._given_back:
                    self._given_back = None
            elif msgid == self._inform:
                self._inform_pending = False
                if self._inform_covers:
                    self._given_back = None
                if self._state is State.CONNECTING:
                    self._state = State.INFORMED

    def _on_other(self, now: float, command: commands.Command, events: list[UpstreamEvent]) -> None:
        match command:
            case commands.Heartbeat():
                if self._state is State.INFORMED:
                    self._go_live(now, events, ours=False)
                elif self.ours and now >= self._answers_beats_at:
                    self._next_beat = now
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
            if self._state is State.LIVE and not self._inform_pending:
                self.ours = True
                logger.info(
                    "the broker at %s doesn't know this worker any more", self._address.worker_endpoint
                )
                self._inform_again(now, "the broker asks who this is")
            return
        if refused := hello.about.get("refused"):
            self._lose(now, events, f"it refuses this worker: {refused}")
            return
        if isinstance(name := hello.about.get("namesake"), str):
            logger.warning("another worker is named %s, too: give each its own name (-n)", name)
        dead_after = hello.about.get("dead_after_s")
        if isinstance(dead_after, (int, float)) and 0 < dead_after < 1e6:
            self.dead_after_s = float(dead_after)
        if self._state is State.INFORMED:
            self._go_live(now, events, ours=True)
        elif self._state is State.LIVE and not self.ours:
            self.ours = True
            self._next_beat = now

    def _go_live(self, now: float, events: list[UpstreamEvent], *, ours: bool) -> None:
        self.ours = ours
        self._state = State.LIVE
        self._failures = 0
        self._complain_at = 0.0
        if not ours:
            self.dead_after_s = self.timings.stock_dead_after_s
        self._beaten(now)
        kind = "the broker" if ours else "a stock router"
        # Whoever reads the log takes "connected" for the end of a cut: where there was none, it isn't said.
        level = logging.DEBUG if self._introduced else logging.INFO
        if self._in_trouble:
            level = logging.WARNING  # whoever was shown the trouble is shown its end
        again = "again " if self._in_trouble and self._has_lived else ""
        logger.log(level, "connected %sto %s at %s", again, kind, self._address.worker_endpoint)
        self._in_trouble = False
        self._introduced = self._has_lived = True
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
        if error.command != "REQUEST" or not error.msgid or self._state is not State.LIVE:
            return
        # Attempt 0: the broker counts it for the latest one.
        self.reply((error.msgid, 0), _unsendable(error))
        self.ready(1)


def _unsendable(error: Exception) -> Reply:
    failure = Failure(
        type=type(error).__qualname__, module=type(error).__module__, args=(str(error),), message=str(error)
    )
    return replace(Outcome(state=FAILURE, failure=failure).encode(), unattended=True)
