"""The broker's sockets under a flood of nonsense: it lives, stays small, and goes on working."""

from __future__ import annotations

import random
from collections.abc import Callable

import psutil
import pytest
import zmq

from tests.broker_process import Broker
from tests.fuzzing.messages import Fuzz
from tests.hand_worker import HandWorker, message
from tests.processes import wait_until

pytestmark = pytest.mark.faults

SHORT, LONG = 3_000, 200_000
#: Growth that a flood may leave behind: caches and SQLite's page cache fill up once.
GROWTH_MIB = 40
SOCKETS = ("frontend", "backend", "admin", "publish-in")


@pytest.fixture
def broker(broker: Broker, free_port: Callable[[], int]) -> Broker:
    """One with the sockets of publications, too."""
    broker.ports["publish-in"], broker.ports["publish-out"] = free_port(), free_port()
    return broker


def flood(endpoint: str, count: int, seed: int) -> None:
    """Send so many messages to a socket from changing identities, reading some of what is answered.

    No identity comes twice: libzmq loses memory when a connection takes another's over that still has
    messages before it.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    rng = random.Random(seed)
    fuzz = Fuzz(seed)
    left = count
    try:
        while left:
            some = min(left, rng.randint(100, 2000))
            left -= some
            socket = context.socket(zmq.DEALER)
            socket.setsockopt(zmq.IDENTITY, b"fuzz-%d-%d" % (seed, left))
            socket.setsockopt(zmq.LINGER, 30_000)
            socket.setsockopt(zmq.SNDTIMEO, 30_000)
            socket.connect(endpoint)
            reads = rng.random() < 0.8
            for frames in fuzz.messages(some):
                socket.send_multipart(frames)
                while reads and socket.poll(0):
                    socket.recv_multipart()
            socket.close()
    finally:
        context.term()


def check(broker: Broker, worker: Callable[..., HandWorker]) -> None:
    """The broker takes a message, gives it out, and keeps its result."""
    one = message("after")
    broker.client.publish(one)
    hand = worker("after")
    hand.ready(1)
    [request] = hand.take(1)
    assert one.msgid == request.msgid
    hand.succeed(request)
    assert broker.client.results([one.headers.task_id])[one.headers.task_id] is not None
    hand.leave()


def rss_mib(pid: int) -> float:
    """MiB resident."""
    return float(psutil.Process(pid).memory_info().rss / 2**20)


def settled(broker: Broker, interval_s: float) -> None:
    """Wait until the broker has read all that was sent (and, in 1 s of quiet, given memory back)."""
    seen: list[int] = []

    def quiet() -> bool:
        stats = broker.client.ask("stats", timeout_s=60)
        seen.append(stats["malformed"] + stats["published"])
        return len(seen) > 3 and len(set(seen[-3:])) == 1

    wait_until(quiet, 120, what="the end of the flood", interval_s=interval_s)


def fuzz_the_broker(broker: Broker, worker: Callable[..., HandWorker], socket: str, count: int) -> None:
    """Flood one socket twice, look at its memory between, and see that the broker still works."""
    publish_out = broker.ports.pop("publish-out")
    proc = broker.start("--durability", "normal", "--publish-out", f"tcp://127.0.0.1:{publish_out}")
    endpoint = broker.endpoint(socket)
    flood(endpoint, count // 2, seed=1)
    check(broker, worker)
    settled(broker, 1.2 if count == LONG else 0.1)
    before = rss_mib(proc.pid)
    flood(endpoint, count // 2, seed=2)
    check(broker, worker)
    settled(broker, 1.2 if count == LONG else 0.1)
    assert rss_mib(proc.pid) - before < GROWTH_MIB
    assert broker.client.ask("stats")["malformed"] > count // 20
    assert proc.alive()
    assert "Traceback" not in proc.output()


@pytest.mark.parametrize("socket", SOCKETS)
def test_nonsense_at_a_socket(broker: Broker, hand_worker: Callable[..., HandWorker], socket: str) -> None:
    """Thousands of random and mutated messages neither kill nor fill nor stop the broker."""
    fuzz_the_broker(broker, hand_worker, socket, SHORT)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("socket", SOCKETS)
def test_much_nonsense_at_a_socket(
    broker: Broker, hand_worker: Callable[..., HandWorker], socket: str
) -> None:
    """The same with 200,000 messages."""
    fuzz_the_broker(broker, hand_worker, socket, LONG)
