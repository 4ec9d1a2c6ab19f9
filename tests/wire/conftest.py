"""Sockets for the tests of the wire."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from emq_compat.permits import Permit
from emq_compat.wire import DirectWire, RouterWire, Wire

TIMEOUT_S = 5.0


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


@pytest.fixture
def wire(context: zmq.Context[Any]) -> Iterator[RouterWire]:
    """A broker's socket."""
    made = RouterWire(context, "tcp://127.0.0.1:*")
    yield made
    made.close()


class Driver:
    """Calls `receive` of a wire when something is due, until a condition holds."""

    def __init__(self, wire: Wire | DirectWire | RouterWire) -> None:
        self.wire = wire
        self.received: list[Any] = []
        self.gone: list[bytes] = []
        #: Of each message that a router received.
        self.permits: list[Permit | None] = []

    def until(self, condition: Callable[[], object], timeout_s: float = TIMEOUT_S) -> None:
        """Drive until `condition` is true; fails after `timeout_s`."""
        poller = zmq.Poller()
        for source in self.wire.fds() if isinstance(self.wire, DirectWire) else self.wire.sockets():
            poller.register(source, zmq.POLLIN)
        end = time.monotonic() + timeout_s
        while not condition():
            now = time.monotonic()
            assert now < end, f"not within {timeout_s} s; received {self.received}, gone {self.gone}"
            due = end
            if isinstance(self.wire, DirectWire):
                self.wire.flush()
                due = min(due, self.wire.due())
            if isinstance(self.wire, RouterWire):
                due = min(due, self.wire.deadline() or end)
            poller.poll(max(0, (due - now) * 1000) + 1)
            self.step()

    def step(self) -> None:
        """Receive once."""
        if not isinstance(self.wire, RouterWire):
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
