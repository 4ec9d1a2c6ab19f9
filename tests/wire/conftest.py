"""Sockets for the tests of the wire."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from emq_compat.permits import Permit
from emq_compat.wire import DirectRouter, DirectWire, RouterWire, Wire
from emq_compat.wire.poll import Poll
from emq_compat.wire.routers import Router
from tests.faults.zmtp import Raw

TIMEOUT_S = 5.0

#: The connections of the test that runs: raw_peers.py.
raws_open: list[Raw] = []

_polls: weakref.WeakKeyDictionary[Router, Poll] = weakref.WeakKeyDictionary()


def poll_of(router: Router) -> Poll:
    """The poll that a router has joined; made at the first call."""
    if router not in _polls:
        _polls[router] = Poll()
        router.join(_polls[router])
    return _polls[router]


def turn(router: Router, timeout_s: float = 0.0, limit: int = 256) -> list[Any]:
    """Do what a loop does: send, wait for a while, and receive."""
    router.flush()
    poll_of(router).wait(timeout_s)
    return list(router.receive(limit))


class KeepingContext(zmq.Context):  # type: ignore[type-arg]
    """A context that keeps its sockets from being collected before it closes them."""

    def socket(self, *args: Any, **options: Any) -> Any:
        made = super().socket(*args, **options)
        self.__dict__.setdefault("made", []).append(made)
        return made


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    """A ZeroMQ context; every socket of it is closed at the end."""
    made = KeepingContext()
    yield made
    made.destroy(linger=0)


@pytest.fixture(params=["ZeroMQ", "direct"])
def listens(request: pytest.FixtureRequest, context: zmq.Context[Any]) -> Iterator[Any]:
    """Makes routers of both kinds: one whose sockets are ZeroMQ's, and ours."""
    made: list[Router] = []

    def listen(endpoint: str = "tcp://127.0.0.1:*", **options: Any) -> Router:
        if request.param == "direct":
            made.append(DirectRouter(endpoint, **options))
        else:
            made.append(RouterWire(context, endpoint, **options))
        return made[-1]

    yield listen
    for router in made:
        router.close()


@pytest.fixture
def router() -> Iterator[Any]:
    """A broker's socket, ours."""
    made = DirectRouter("tcp://127.0.0.1:*", message_bytes=1 << 20)
    poll_of(made)
    yield made
    made.close()


@pytest.fixture
def raws() -> Iterator[None]:
    """Closes a test's connections of raw_peers.py at its end."""
    yield
    while raws_open:
        raws_open.pop().close()


@pytest.fixture
def wire(context: zmq.Context[Any]) -> Iterator[RouterWire]:
    """A broker's socket, ZeroMQ's."""
    made = RouterWire(context, "tcp://127.0.0.1:*")
    yield made
    made.close()


class Driver:
    """Calls `receive` of a wire when something is due, until a condition holds."""

    def __init__(self, wire: Wire | DirectWire | Router, *beside: Router) -> None:
        self.wire = wire
        #: Those that have no thread of their own and must say something meanwhile.
        self.beside = [Driver(router) for router in beside]
        self.received: list[Any] = []
        self.gone: list[bytes] = []
        #: Of each message that a router received.
        self.permits: list[Permit | None] = []

    def until(self, condition: Callable[[], object], timeout_s: float = TIMEOUT_S) -> None:
        """Drive until `condition` is true; fails after `timeout_s`."""
        end = time.monotonic() + timeout_s
        poller = zmq.Poller()
        if isinstance(self.wire, Wire | DirectWire):
            for source in self.wire.fds() if isinstance(self.wire, DirectWire) else self.wire.sockets():
                poller.register(source, zmq.POLLIN)
        while not condition():
            now = time.monotonic()
            assert now < end, f"not within {timeout_s} s; received {self.received}, gone {self.gone}"
            due = end
            for other in self.beside:
                due = min(due, now + 0.01)
                other.turn()
            if isinstance(self.wire, RouterWire | DirectRouter):
                due = min(due, self.wire.deadline() or end)
                self.wire.flush()
                poll_of(self.wire).wait(max(0.0, due - now))
            else:
                if isinstance(self.wire, DirectWire):
                    self.wire.flush()
                    due = min(due, self.wire.due())
                poller.poll(max(0, (due - now) * 1000) + 1)
            self.step()

    def turn(self) -> None:
        """Do what a loop does, of a router."""
        assert isinstance(self.wire, RouterWire | DirectRouter)
        self.wire.flush()
        poll_of(self.wire).wait(0.0)
        self.step()
        self.wire.flush()

    def step(self) -> None:
        """Receive once."""
        if isinstance(self.wire, Wire | DirectWire):
            self.received += self.wire.receive()
            return
        for sender, said, permit in self.wire.receive():
            self.received.append((sender, said))
            self.permits.append(permit)
        self.gone += self.wire.gone()

    def messages(self, count: int) -> list[Any]:
        """Drive until `count` messages have come, and return them."""
        self.until(lambda: len(self.received) >= count)
        taken, self.received = self.received[:count], self.received[count:]
        return taken
