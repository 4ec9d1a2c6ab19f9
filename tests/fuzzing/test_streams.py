"""The broker's sockets under connections that say anything, from the first byte of the handshake on."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest

from tests.broker_process import Broker
from tests.fuzzing.streams import Streams, pieces
from tests.fuzzing.test_broker import GROWTH_MIB, check, rss_mib
from tests.hand_worker import HandWorker
from tests.processes import wait_until

pytestmark = pytest.mark.faults

SHORT, LONG = 400, 30_000
#: So many connections stand at a time: each is left where its words end, until others have come.
STANDING = 200
SOCKETS = ("frontend", "backend", "admin")


def say_anything(port: int, count: int, seed: int) -> int:
    """Connect so often, say something else each time; returns how many were closed by the other side."""
    rng, standing, closed = random.Random(seed), list[socket.socket](), 0
    for raw in Streams(seed).streams(count):
        sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in pieces(raw, rng):
                sock.sendall(piece)
        except OSError:  # it was cut off, as it may be
            closed += 1
            sock.close()
            continue
        if rng.random() < 0.3:
            if rng.random() < 0.5:  # with a reset
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
            continue
        if rng.random() < 0.5:
            sock.setblocking(False)
            with suppress(OSError):
                sock.recv(1 << 16)
        standing.append(sock)
        if len(standing) > STANDING:
            standing.pop(rng.randrange(STANDING)).close()
    for sock in standing:
        sock.close()
    return closed


def fuzz_the_streams(broker: Broker, worker: Callable[..., HandWorker], name: str, count: int) -> None:
    """Say anything to a socket, twice; between and afterwards the broker works and is as small as before."""
    proc = broker.start("--durability", "normal")
    process = psutil.Process(proc.pid)
    check(broker, worker)
    descriptors = process.num_fds()
    say_anything(broker.ports[name], count // 2, seed=5)
    check(broker, worker)
    before = rss_mib(proc.pid)
    say_anything(broker.ports[name], count // 2, seed=6)
    began = time.monotonic()
    check(broker, worker)
    assert time.monotonic() - began < 10
    # A handshake has 5 s; the test's own client and workers have some connections more, or less, than before.
    wait_until(lambda: process.num_fds() <= descriptors + 5, 20, what="descriptors given back")
    wait_until(lambda: rss_mib(proc.pid) - before < GROWTH_MIB, 10, what="memory given back")
    assert proc.alive()
    assert "Traceback" not in proc.output()


def test_anything_at_a_socket(broker: Broker, hand_worker: Callable[..., HandWorker]) -> None:
    """Hundreds of connections with broken words neither kill nor fill the broker, nor cost it descriptors."""
    fuzz_the_streams(broker, hand_worker, "frontend", SHORT)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SOCKETS)
def test_much_of_anything_at_a_socket(
    broker: Broker, hand_worker: Callable[..., HandWorker], name: str
) -> None:
    """The same with 30,000 connections, at each socket."""
    fuzz_the_streams(broker, hand_worker, name, LONG)
