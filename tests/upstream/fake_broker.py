"""A broker of few words for the tests of the eMQP upstream: a ROUTER that says what the test tells it to."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import zmq

from emq_compat.address import Address
from emq_compat.message import SUCCESS, Headers, Reply
from emq_compat.protocol import commands
from emq_compat.protocol.frames import decode, encode
from emq_compat.upstream.base import UpstreamEvent
from emq_compat.upstream.emq import EmqUpstream
from emq_compat.upstream.session import Timings

C = TypeVar("C")
E = TypeVar("E")

#: For upstreams whose broker is here and answers at once.
QUICK = Timings(
    connect_s=0.1,
    answer_s=0.3,
    stock_interval_s=0.05,
    stock_dead_after_s=0.2,
    backoff_min_s=0.01,
    backoff_max_s=0.05,
    complaint_s=60.0,
)
#: What a job came to, where it doesn't matter.
OK = Reply(state=SUCCESS, body=b'{"value":1,"state":"SUCCESS"}')


class FakeBroker:
    """One ROUTER on 127.0.0.1. ``drive`` runs the upstream until broker or test has what it waits for."""

    def __init__(self, port: int | None = None) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        if port is None:
            self.port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        else:
            self.port = port
            self.socket.bind(f"tcp://127.0.0.1:{port}")
        self.identity = b""
        self.heard: list[commands.Command] = []

    @property
    def address(self) -> Address:
        endpoint = f"tcp://127.0.0.1:{self.port}"
        return Address(
            url=endpoint,
            host="127.0.0.1",
            client_endpoint=endpoint,
            worker_endpoint=endpoint,
            admin_endpoint=endpoint,
            is_loopback=True,
        )

    def close(self) -> None:
        self.socket.close()
        self.context.term()

    def say(self, command: commands.Command, *, stock: bool = False) -> None:
        self.socket.send_multipart([self.identity, *encode(command, stock=stock)])

    def say_raw(self, *frames: bytes) -> None:
        self.socket.send_multipart([self.identity, *frames])

    def listen(self) -> None:
        """Take in all that has arrived."""
        while self.socket.poll(0):
            self.identity, *frames = self.socket.recv_multipart()
            self.heard.append(decode(frames))

    def drive(
        self, upstream: EmqUpstream, until: Callable[[], object], timeout_s: float = 5.0
    ) -> list[UpstreamEvent]:
        """Run the upstream as a job manager's loop would, until the condition holds; returns its events."""
        events: list[UpstreamEvent] = []
        end = time.monotonic() + timeout_s
        while True:
            self.listen()
            poller = zmq.Poller()
            poller.register(self.socket, zmq.POLLIN)
            for fd in upstream.fds():
                poller.register(fd, zmq.POLLIN)
            due = upstream.deadline()
            now = time.monotonic()
            if due is None or due > now:
                poller.poll(max(0.0, (min(due or end, now + 0.02, end) - now) * 1000))
            events += upstream.step(time.monotonic())
            self.listen()
            if until():
                return events
            assert time.monotonic() < end, f"not in time; heard {self.heard[-5:]}, events {events[-5:]}"

    def last(self, kind: type[C]) -> C:
        """The latest command of a kind that was heard."""
        return next(command for command in reversed(self.heard) if isinstance(command, kind))

    def count(self, kind: type) -> int:
        return sum(isinstance(command, kind) for command in self.heard)

    def wait_for(self, upstream: EmqUpstream, kind: type[C], count: int = 1) -> C:
        """Drive until ``count`` commands of a kind have been heard; returns the latest."""
        self.drive(upstream, lambda: self.count(kind) >= count)
        return self.last(kind)

    def welcome(self, upstream: EmqUpstream, *, dead_after_s: float = 10.0) -> list[UpstreamEvent]:
        """Go through the opening of our broker's session, from the INFORM on."""
        self.drive(upstream, lambda: self.count(commands.Inform))
        inform = self.last(commands.Inform)
        self.heard.remove(inform)
        self.say(commands.Ack(msgid="a", acked=(inform.msgid,)))
        self.say(commands.Hello(msgid="h", about={"broker": "test", "dead_after_s": dead_after_s}))
        self.say(commands.Heartbeat(msgid="b", timestamp=time.time()))
        got: list[UpstreamEvent] = []
        got += self.drive(upstream, lambda: upstream.connected)
        return got

    def welcome_as_stock(self, upstream: EmqUpstream) -> list[UpstreamEvent]:
        """Go through the opening of a stock router's session."""
        self.drive(upstream, lambda: self.count(commands.Inform))
        inform = self.last(commands.Inform)
        self.heard.remove(inform)
        self.say(commands.Ack(msgid="a", acked=(inform.msgid,)), stock=True)
        self.say(commands.Heartbeat(msgid="b", timestamp=time.time()), stock=True)
        return self.drive(upstream, lambda: upstream.connected)

    def deliver(
        self, msgid: str, *, attempt: int = 1, task: str = "t", payload: bytes = b'["run", {}]'
    ) -> None:
        headers = Headers(attempt=attempt, task=task)
        self.say(commands.Request(msgid=msgid, queue="celery", headers=headers, payload=payload))


def only(events: list[UpstreamEvent], kind: type[E]) -> list[E]:
    """The events of one kind."""
    return [event for event in events if isinstance(event, kind)]
