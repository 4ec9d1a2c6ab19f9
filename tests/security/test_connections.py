"""Bytes on the wire that no honest peer sends: recorded, repeated, cut short, and no ZeroMQ at all."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from emq_compat.client import Client
from emq_compat.errors import OperationalError
from emq_compat.keys import add_client, new_keys
from emq_compat.message import Publish
from tests.broker_process import Broker
from tests.hand_worker import message
from tests.processes import wait_until

pytestmark = pytest.mark.integration


class Listener:
    """A proxy that records what clients send, and may do something to it.

    Attributes:
        recorded: the bytes of each connection to the broker.
        deed: called with each chunk that a client sent; returns what is sent in its place.
    """

    def __init__(self, target: int) -> None:
        self.recorded: list[bytearray] = []
        self.deed: Callable[[bytes], bytes] = lambda chunk: chunk
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                broker = socket.create_connection(("127.0.0.1", self._target))
                record = bytearray()
                self.recorded.append(record)
                threading.Thread(target=self._pass, args=(client, broker, record), daemon=True).start()
                threading.Thread(target=self._pass, args=(broker, client, None), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, record: bytearray | None) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                if record is not None:
                    record += chunk
                    chunk = self.deed(chunk)
                target.sendall(chunk)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    new_keys(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def listener(broker: Broker, keys: Path) -> Iterator[Listener]:
    broker.start("--memory", "--keys", str(keys))
    made = Listener(broker.ports["frontend"])
    yield made
    made.close()


def published(broker: Broker, keys: Path) -> int:
    with Client(f"{broker.url}&keys={keys}") as client:
        return int(client.ask("stats")["published"])


def through(listener: Listener, broker: Broker, keys: Path) -> Client:
    url = f"{broker.address(listener.port)}&keys={add_client(keys, 'web')}"
    return Client(url, timeout_s=5)


def test_what_was_recorded_can_not_be_replayed(broker: Broker, keys: Path, listener: Listener) -> None:
    """The bytes of a publish, sent again over a connection of their own, are let in by nobody."""
    with through(listener, broker, keys) as client:
        client.publish(message())
    assert 1 == published(broker, keys)

    for record in listener.recorded:
        assert b"REQUEST" not in record
        with socket.create_connection(("127.0.0.1", broker.ports["frontend"])) as replayed:
            replayed.settimeout(10)
            replayed.sendall(record)
            with contextlib.suppress(OSError):
                while replayed.recv(65536):
                    pass

    assert 1 == published(broker, keys)


def meddled(listener: Listener, deed: Callable[[bytes], bytes]) -> threading.Event:
    """Do something to the next message that a client sends; set once that is done."""
    done = threading.Event()

    def once(chunk: bytes) -> bytes:
        if done.is_set() or len(chunk) < 200:
            return chunk
        done.set()
        return deed(chunk)

    listener.deed = once
    return done


def test_what_is_sent_twice_counts_once(broker: Broker, keys: Path, listener: Listener) -> None:
    """Bytes doubled within a connection: the first of them count, and nothing more that comes over it."""
    with through(listener, broker, keys) as client:
        client.publish(message())
        doubled = meddled(listener, lambda chunk: chunk + chunk)
        client.publish(message())
        assert doubled.is_set()
        assert 2 == published(broker, keys)
        client.timeout_s = 0.5
        third = message()
        wait_until(lambda: went(client, third), what="another connection")

    assert 3 == published(broker, keys)


def went(client: Client, one: Publish) -> bool:
    """Publish it (again, which makes no second one); False: nobody confirmed it."""
    try:
        client.publish(one)
    except OperationalError:
        return False
    return True


def changed(chunk: bytes) -> bytes:
    """A bit of it."""
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


def test_a_changed_bit_costs_the_connection(broker: Broker, keys: Path, listener: Listener) -> None:
    """One bit changed on the way: what was sent is not taken as anything, nor what follows it."""
    with through(listener, broker, keys) as client:
        client.publish(message())
        client.timeout_s = 0.5
        done = meddled(listener, changed)
        with pytest.raises(OperationalError):
            client.publish(message())
    assert done.is_set()
    assert 1 == published(broker, keys)


@pytest.mark.long
def test_a_connection_that_was_meddled_with_is_closed(broker: Broker, keys: Path, listener: Listener) -> None:
    """Nothing stays of it at the broker, though libzmq doesn't hear of its end."""
    assert broker.proc is not None
    process = psutil.Process(broker.proc.pid)
    with through(listener, broker, keys) as client:
        client.publish(message())
        client.timeout_s = 0.5
        before = process.num_fds()
        for _ in range(5):
            wait_until(lambda: went(client, message()), what="another connection")
            meddled(listener, changed)
            with pytest.raises(OperationalError):
                client.publish(message())
        assert process.num_fds() > before
    wait_until(lambda: process.num_fds() < before + 1, 60, what="five connections to be closed")


def test_half_a_message_is_none(broker: Broker, keys: Path, listener: Listener) -> None:
    """A connection that ends in the middle of a message leaves nothing of it behind."""
    with through(listener, broker, keys) as client:
        client.publish(message())
        listener.deed = lambda chunk: chunk[: len(chunk) // 2]
        client.timeout_s = 1
        with pytest.raises(OperationalError):
            client.publish(message())
    listener.close()

    assert 1 == published(broker, keys)


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + b"\x00" + bytes(31)
READY = b"\x04\x26\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00"

GARBAGE = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    bytes(10_000),
    b"\xff" * 10_000,
    GREETING[:20],
    GREETING,
    GREETING + b"\x04\xff" + bytes(300),
    GREETING + b"\x06\xff\xff\xff\xff\xff\xff\xff\xff" + bytes(100),
    GREETING + b"\x04\x06\x05READY" + b"\x02\xff\xff\xff\xff\xff\xff\xff\xff",
    GREETING + READY + b"\x02\x7f\xff\xff\xff\xff\xff\xff\xff",
    GREETING + READY + b"\x01\x00\x01\x08eMQP/1.0\x01\x03ASK",
    GREETING + READY + b"\x04\x05\x04PING\x04\x05\x04PONG" * 50,
    GREETING.replace(b"NULL", b"PLAIN") + b"\x04\x10\x05HELLO\x01a\x01b",
    GREETING.replace(b"NULL", b"CURVE") + b"\x04\xc8\x05HELLO" + bytes(194),
    b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x01\x05" + bytes(300),
]


@pytest.mark.parametrize("with_keys", [False, True])
def test_what_is_no_zeromq_bothers_nobody(broker: Broker, keys: Path, with_keys: bool) -> None:
    """Other protocols, half handshakes and random bytes at each port: closed or ignored, and all goes on."""
    proc = broker.start("--memory", *(["--keys", str(keys)] if with_keys else []))
    rng = random.Random(1)
    sent = [*GARBAGE, *(GREETING + READY + rng.randbytes(rng.randint(1, 400)) for _ in range(40))]
    open_ones: list[socket.socket] = []
    for port in broker.ports.values():
        for garbage in sent:
            one = socket.create_connection(("127.0.0.1", port))
            open_ones.append(one)
            with contextlib.suppress(OSError):
                one.sendall(garbage)
            if len(open_ones) % 2:
                one.close()

    with Client(f"{broker.url}&keys={keys}" if with_keys else broker.url) as client:
        client.publish(message())
        assert 1 == client.ask("stats")["published"]
    for one in open_ones:
        one.close()
    assert proc.alive()
    assert "Traceback" not in proc.output()
