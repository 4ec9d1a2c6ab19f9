"""The dashboard's server on a real socket: browsers that don't read, that are too many, and its end."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from emq_compat.client import Client
from emq_compat.monitor.dashboard import serve
from emq_compat.monitor.dashboard.access import Access
from emq_compat.monitor.dashboard.web import Shown
from tests.monitor.dashboard.fake import FakeBroker
from tests.monitor.overview.test_history import overview, queue
from tests.processes import wait_until

pytestmark = pytest.mark.integration


class Busy(FakeBroker):
    """Has much to tell, and something else with each look."""

    def ask(self, verb: str, /, timeout_s: float | None = None, **arguments: Any) -> Any:
        if verb == "overview":
            looks = self.count(verb)
            queues = [queue(f"{'n' * 200}{n}", waiting=looks) for n in range(200)]
            self.answers[verb] = overview(100.0 + looks, queues=queues, schedules=[], periodic=[])
        return super().ask(verb, timeout_s, **arguments)


class Site:
    """A server that looks every 10 ms, and connections to it."""

    def __init__(self, broker: Busy, port: int) -> None:
        self.broker = broker
        self.port = port

    @contextmanager
    def asked(self, path: str, room: int = 1 << 16) -> Iterator[socket.socket]:
        """A connection over which a path was asked for; it takes so many bytes before they are read."""
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
            connection.settimeout(20)
            connection.connect(("127.0.0.1", self.port))
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            yield connection

    def looks(self) -> int:
        return self.broker.count("overview")


@pytest.fixture
def site() -> Iterator[Site]:
    broker = Busy()
    shown, access = Shown(url="emq://here"), Access("127.0.0.1", "")
    server = serve.server(cast("Client", broker), access, shown, every_s=0.01)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Site(broker, listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def status(connection: socket.socket) -> bytes:
    return connection.makefile("rb").readline().split()[1]


def test_one_that_does_not_read_holds_nobody_up(site: Site) -> None:
    """Others are told of each look, and the server ends though it is there."""
    with site.asked("/api/updates", room=4096) as slow, site.asked("/api/updates") as quick:
        told = quick.makefile("rb")
        looks = site.looks()
        while site.looks() < looks + 30:
            assert told.readline()
        assert b"200" == status(slow)


def test_too_many_connections_are_refused(site: Site) -> None:
    """Beyond a number of them a request is told to come later, and those that are there go on."""
    limit = serve._AT_ONCE
    connections = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(limit)]
    try:
        wait_until(lambda: refused(site), 20, what="a refusal")
    finally:
        for connection in connections:
            connection.close()
    wait_until(lambda: not refused(site), 20, what="an answer")


def refused(site: Site) -> bool:
    with site.asked("/api/session") as connection:
        return status(connection) == b"503"


def test_pages_are_let_go_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """Who stops the server while pages are open waits for none, and its log has no errors."""
    broker = Busy()
    access = Access("127.0.0.1", "")
    server = serve.server(cast("Client", broker), access, Shown(url="emq://here"), every_s=0.01)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        with Site(broker, listener.getsockname()[1]).asked("/api/updates") as page:
            told = page.makefile("rb")
            assert told.readline()
            server.should_exit = True
            while told.readline():
                pass
        thread.join(20)
    assert not thread.is_alive()
    assert [] == [record.message for record in caplog.records if record.levelno >= logging.ERROR]
