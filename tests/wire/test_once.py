"""A wire made once: what a client's connection is. It never connects again, and says why it is none."""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq

from emq_compat.errors import OperationalError
from emq_compat.message import Headers
from emq_compat.protocol.commands import Ready, Request
from emq_compat.wire import DirectRouter, DirectWire, Wire
from emq_compat.wire import direct as direct_module
from emq_compat.wire.routers import Router
from tests.processes import wait_until
from tests.wire.conftest import Driver, poll_of, turn

pytestmark = pytest.mark.integration

Context = zmq.Context[Any]
Once = Callable[[Context, str], "Wire | DirectWire"]
Listens = Callable[..., Router]


def by_zeromq(context: Context, endpoint: str) -> Wire:
    return Wire(context, endpoint, identity=b"one", once=True)


def direct(context: Context, endpoint: str) -> DirectWire:
    return DirectWire(endpoint, identity=b"one")


both = pytest.mark.parametrize("once", [by_zeromq, direct])


@both
@pytest.mark.parametrize("scheme", ["tcp", "ipc"])
def test_nobody_there_is_told(
    context: Context, free_port: Callable[[], int], tmp_path: Path, once: Once, scheme: str
) -> None:
    """Where nobody listens it fails at once."""
    wire = once(context, f"tcp://127.0.0.1:{free_port()}" if scheme == "tcp" else f"ipc://{tmp_path}/none")

    Driver(wire).until(lambda: wire.failure)

    assert "the connection was refused" == wire.failure
    assert (False, 0) == (wire.connected, wire.cuts)
    wire.close()


def test_a_network_that_is_away_is_a_failure_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system knows no way there the connection fails, to be made anew later: nothing is raised."""

    class Nowhere(socket.socket):
        def connect(self, address: Any) -> None:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(direct_module, "_socket", lambda endpoint: Nowhere())

    wire = DirectWire("tcp://127.0.0.1:1", identity=b"one")

    assert ("Network is unreachable", False) == (wire.failure, wire.connected)
    assert [] == wire.receive()
    wire.close()


@both
def test_a_cut_is_the_end(context: Context, listens: Listens, once: Once) -> None:
    """After a cut it connects no more, though a broker is back at that address."""
    router = listens()
    wire = once(context, router.endpoint)
    driver = Driver(wire, router)
    driver.until(lambda: wire.connected)
    wire.send(Ready(msgid="first"))
    wire.flush()
    driver.until(lambda: driver.beside[0].received)
    router.close()
    driver = Driver(wire)
    driver.until(lambda: wire.cuts)
    wire.send(Ready(msgid="lost"))
    again = bound_again(listens, router.endpoint)
    others = [Wire(context, router.endpoint, identity=b"other%d" % i) for i in range(3)]
    for other in others:
        other.send(Ready(msgid="r"))

    # Long enough for three that do connect again and by themselves.
    assert {b"other0", b"other1", b"other2"} == {peer for peer, _ in Driver(again).messages(3)}
    assert [] == turn(again)
    wire.look()
    assert (False, 1, "") == (wire.connected, wire.cuts, wire.failure)
    wire.close()


def bound_again(listens: Listens, endpoint: str) -> Router:
    """Bind as soon as the port is free: a closed socket frees it a little later."""
    made: list[Router] = []

    def bind() -> bool:
        with contextlib.suppress(OperationalError):
            made.append(listens(endpoint))
        return bool(made)

    wait_until(bind, what="the port")
    return made[0]


@both
def test_what_came_before_a_cut_is_read(context: Context, listens: Listens, once: Once) -> None:
    """All that the broker said before it went is received, message by message, while the connection is lost.

    (libzmq ends the process here where a connection is made with IMMEDIATE, or without reconnection.)
    """
    for _ in range(10):
        router = listens()
        wire = once(context, router.endpoint)
        driver = Driver(wire, router)
        driver.until(lambda w=wire: w.connected)
        wire.send(Ready(msgid="r"))
        wire.flush()
        driver.until(lambda d=driver: d.beside[0].received)
        for i in range(100):
            router.send(b"one", Ready(msgid=str(i)))
        router.close(linger_s=5)
        received: list[Any] = []
        while not wire.cuts:
            received += wire.receive(1)
        driver.step()

        assert [str(i) for i in range(100)] == [command.msgid for command in received + driver.received]
        wire.close()


@pytest.mark.parametrize("scheme", ["tcp", "ipc"])
def test_a_slow_upload_is_no_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """While the other side takes what is sent the connection stands; once it takes no more it is cut."""
    monkeypatch.setattr(direct_module, "_PING_EVERY_S", 0.1)
    monkeypatch.setattr(direct_module, "_PONG_WITHIN_S", 0.1)
    router = DirectRouter("tcp://127.0.0.1:*" if scheme == "tcp" else f"ipc://{tmp_path}/s")
    wire = DirectWire(router.endpoint, identity=b"one")
    Driver(wire, router).until(lambda: wire.connected)
    message = Request(msgid="m", queue="q", headers=Headers(), payload=bytes(12 << 20))
    wire.send(message)
    began, received = time.monotonic(), []

    def read_slowly() -> bool:
        wire.receive()
        poll_of(router).wait(0.0)
        received.extend(router.receive(most_bytes=1))
        return bool(received)

    wait_until(read_slowly, interval_s=0.02)
    assert time.monotonic() - began > 4 * (0.1 + 0.1)
    assert 0 == wire.cuts
    wire.send(message)
    wait_until(lambda: [wire.receive(), wire.cuts][1])
    wire.close()
    router.close()


def test_what_only_the_system_takes_is_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that stands still is given up, though its system takes each PING."""
    monkeypatch.setattr(direct_module, "_PING_EVERY_S", 0.1)
    monkeypatch.setattr(direct_module, "_PONG_WITHIN_S", 0.1)
    router = DirectRouter("tcp://127.0.0.1:*")
    wire = DirectWire(router.endpoint, identity=b"one")
    Driver(wire, router).until(lambda: wire.connected)
    wire.send(Ready(msgid="r"))
    wait_until(lambda: [wire.receive(), wire.cuts][1])
    wire.close()
    router.close()
