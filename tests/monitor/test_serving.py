"""The HTTP server's thread, with routes of the tests' own."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest

from emq_compat.errors import ConfigurationError
from emq_compat.monitor import serving
from emq_compat.monitor.address import HttpAddress
from emq_compat.monitor.serving import HttpThread, Response
from tests.processes import wait_until

pytestmark = [pytest.mark.unit]


async def _hello() -> Response:
    return Response(body=b"hello\n")


async def _broken() -> Response:
    raise ValueError("broken")


async def _large() -> Response:
    return Response(body=b"x" * (32 << 20))


@pytest.fixture
def server() -> Iterator[HttpThread]:
    made = HttpThread(HttpAddress("127.0.0.1", 0), {"/hello": _hello, "/broken": _broken, "/large": _large})
    made.start()
    yield made
    made.stop()


def _ask(server: HttpThread, path: str, method: str = "GET") -> tuple[int, bytes]:
    connection = HTTPConnection(*server.address, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("8080", ("127.0.0.1", 8080)),
        (":8080", ("127.0.0.1", 8080)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:80", ("::1", 80)),
        ("http://localhost:80/", ("localhost", 80)),
    ],
)
def test_addresses(written: str, expected: tuple[str, int]) -> None:
    """An address is a port of this machine alone, or a host and a port."""
    assert expected == HttpAddress.parse(written)


@pytest.mark.parametrize("written", ["", "host", "host:", "host:port", "1:2:3", "host:70000", "[::1]"])
def test_what_is_no_address_is_refused(written: str) -> None:
    """What is no address is told, with what to write."""
    with pytest.raises(ConfigurationError, match="write PORT"):
        HttpAddress.parse(written)


def test_a_port_in_use_is_told(server: HttpThread) -> None:
    """An address that can't be listened at is an error that names it."""
    with pytest.raises(ConfigurationError, match=f"127.0.0.1:{server.address.port}: the address is in use"):
        HttpThread(server.address, {})


def test_answers(server: HttpThread) -> None:
    """GET and HEAD are answered; other paths, other methods and a failing route tell what is wrong."""
    assert (200, b"hello\n") == _ask(server, "/hello?x=1")
    with socket.create_connection(server.address, timeout=10) as client:
        client.sendall(b"HEAD /hello HTTP/1.1\r\n\r\n")
        head = client.makefile("rb").read()
    assert (b"HTTP/1.1 200 OK", True) == (head[:15], b"Content-Length: 6\r\n" in head)
    assert head.endswith(b"\r\n\r\n")
    assert (405, b"GET and HEAD only\n") == _ask(server, "/hello", "POST")
    assert (404, b"there are /hello, /broken, /large\n") == _ask(server, "/else")
    assert (500, b"see the log\n") == _ask(server, "/broken")


@pytest.mark.parametrize(
    "sent", [b"\r\n\r\n", b"rubbish\r\n\r\n", b"\xff" * 100_000, b"GET /hello HTTP/1.1\r\n"]
)
def test_rubbish_hurts_nobody(server: HttpThread, sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no request, or never ends, is refused or cut off, and others are answered meanwhile."""
    monkeypatch.setattr(serving, "REQUEST_S", 0.5)
    with socket.create_connection(server.address, timeout=10) as client:
        client.sendall(sent)
        assert (200, b"hello\n") == _ask(server, "/hello")
        try:
            told = client.recv(1000)
        except ConnectionResetError:
            told = b""
        assert told == b"" or told.startswith(b"HTTP/1.1 400 ")


def test_who_does_not_read_is_cut_off(server: HttpThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that doesn't read its answer loses the connection, and others are answered meanwhile."""
    monkeypatch.setattr(serving, "ANSWER_S", 0.5)
    with socket.create_connection(server.address, timeout=10) as client:
        client.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        assert (200, b"hello\n") == _ask(server, "/hello")
        wait_until(lambda: not server.connected)
        got = 0
        try:
            while data := client.recv(1 << 20):
                got += len(data)
        except ConnectionResetError:
            pass
        assert got < 32 << 20


def test_many_idle_connections_keep_nobody_out(server: HttpThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """When too many are connected the oldest goes: probes are answered however many connections idle."""
    monkeypatch.setattr(serving, "REQUEST_S", 1000.0)
    idle = [socket.create_connection(server.address, timeout=10) for _ in range(serving.MOST_CONNECTIONS + 5)]
    assert (200, b"hello\n") == _ask(server, "/hello")
    try:
        told = idle[0].recv(1)
    except ConnectionResetError:
        told = b""
    assert told == b""
    for one in idle:
        one.close()


_FORKS = """
import os
from emq_compat.monitor.address import HttpAddress
from emq_compat.monitor.serving import HttpThread

first = HttpThread(HttpAddress("127.0.0.1", 0), {})
first.start()
read, write = os.pipe()
forked, begun = os.pipe()
child = os.fork()
if not child:
    os.close(write)
    os.write(begun, b"x")
    os.read(read, 1)
    os._exit(0)
os.read(forked, 1)
first.stop()
HttpThread(first.address, {}).stop()
os.close(write)
os.waitpid(child, 0)
print("listens again")
"""


def test_a_forked_process_does_not_keep_the_port() -> None:
    """What a task forks in the pools threads and solo doesn't keep the port from the next worker."""
    code = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _FORKS]
    done = subprocess.run(code, capture_output=True, text=True, timeout=60)
    assert "listens again\n" == done.stdout, done
