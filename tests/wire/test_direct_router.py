"""A ROUTER in the caller's thread: stock peers, identities taken over, peers that misbehave, its end."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

import pytest
import zmq

from emq_compat.errors import OperationalError, RemoteProtocolError
from emq_compat.message import new_id
from emq_compat.protocol.commands import Answer, Ready
from emq_compat.protocol.frames import Limits, encode
from emq_compat.wire import DirectRouter, DirectWire, Wire
from tests.faults import zmtp
from tests.processes import wait_until
from tests.wire.conftest import Driver, poll_of, turn
from tests.wire.raw_peers import closed, peer, port, raw_to

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("raws")]

Context = zmq.Context[Any]


@pytest.mark.parametrize("kind", [zmq.DEALER, zmq.REQ, zmq.ROUTER])
def test_sockets_of_zeromq_talk_to_it(context: Context, router: DirectRouter, kind: int) -> None:
    """A DEALER, a REQ and a ROUTER of ZeroMQ, the first without an identity, ask and are answered."""
    other = context.socket(kind)
    if kind == zmq.ROUTER:
        other.setsockopt(zmq.CONNECT_ROUTING_ID, b"broker")
    other.connect(router.endpoint)
    said = encode(Ready(msgid="r"))
    other.send_multipart([b"broker", *said] if kind == zmq.ROUTER else said[kind == zmq.REQ :])
    [(identity, _)] = Driver(router).messages(1)
    assert b"\0" == identity[:1]
    assert 5 == len(identity)
    assert router.send(identity, Ready(msgid="s"))
    router.flush()
    assert other.poll(5000)
    assert b"s" == other.recv_multipart()[-1]


def test_who_has_no_identity_has_one_of_its_own(context: Context, router: DirectRouter) -> None:
    """Each of several nameless peers is another one."""
    for _ in range(3):
        dealer = context.socket(zmq.DEALER)
        dealer.connect(router.endpoint)
        dealer.send_multipart(encode(Ready(msgid="r")))
    assert 3 == len({identity for identity, _ in Driver(router).messages(3)})


def test_who_takes_an_identity_over_is_answered(context: Context, router: DirectRouter) -> None:
    """What is sent to an identity goes to who took it over; the other one is ended, and nobody is gone."""
    driver = Driver(router)
    old = peer(router)
    [name] = router._by_identity
    new = raw_to(router)
    new.send(zmtp.GREETING + zmtp.ready(name))
    wait_until(lambda: closed(old, router))
    assert router.send(name, Ready(msgid="for the new one"))
    wait_until(lambda: [turn(router), b"for the new one" in new.read()][1])
    assert [] == router.gone()
    new.close()
    driver.until(lambda: driver.gone)
    assert [name] == driver.gone


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        os.urandom(64),
        zmtp.GREETING[:12] + b"CURVE".ljust(20, b"\0") + bytes(32),
        zmtp.opening() + b"\xff" * 100,
        zmtp.GREETING + zmtp.said(Ready(msgid="early")),
        zmtp.opening() + b"\x02" + (1 << 40).to_bytes(8, "big"),
    ],
    ids=["http", "noise", "curve", "noise after the handshake", "before the handshake", "too large"],
)
def test_garbage_ends_its_connection_only(
    router: DirectRouter, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Who speaks something else is cut off at once and the log says why; others are served."""
    good, bad = peer(router), raw_to(router)
    bad.send(said)
    wait_until(lambda: closed(bad, router))
    assert "is ended: it " in caplog.text
    good.send(zmtp.said(Ready(msgid="good")))
    assert ["good"] == [said.msgid for _, said in Driver(router).messages(1)]


def test_who_has_said_nothing_is_not_gone(router: DirectRouter) -> None:
    """Nobody is told of the end of a connection over which no message came."""
    raw = raw_to(router)
    raw.send(zmtp.opening())
    wait_until(lambda: [turn(router), router.connections() == 1][1])
    raw.close()
    wait_until(lambda: [turn(router), router.connections() == 0][1])
    assert [] == turn(router)
    assert [] == router.gone()


def test_what_was_said_last_leaves(router: DirectRouter) -> None:
    """A router that is closed with some time to linger gives the system what is left, as it takes it."""
    raw = peer(router)
    [name] = router._by_identity
    raw.sock.settimeout(10)
    read: list[int] = []

    def read_all() -> None:
        while data := raw.sock.recv(1 << 20):
            read.append(len(data))

    reader = threading.Thread(target=read_all)
    router.send(name, Answer(msgid=new_id(), body=bytes(40 << 20), asked="a"))
    router.flush()
    assert router.unsent_bytes(name)
    reader.start()
    router.close(linger_s=10)
    reader.join()
    assert 40 << 20 < sum(read)


def test_a_fork_keeps_nothing_open(router: DirectRouter) -> None:
    """What is closed is closed for the other side, though another process has its descriptor, too."""
    raw = peer(router)
    [one] = router._by_fd.values()
    kept = [os.dup(one.fd), os.dup(router._listener.sock.fileno())]
    try:
        router.cut(one.identity)
        wait_until(lambda: closed(raw, router))
        router.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port(router)), timeout=5)
    finally:
        for fd in kept:
            os.close(fd)


def test_large_messages_leave_whole_and_in_order(context: Context, router: DirectRouter) -> None:
    """Large and small messages for one peer arrive as they were sent, however the system takes them."""
    wire = Wire(context, router.endpoint, identity=b"one")
    wire.send(Ready(msgid="r"))
    Driver(router).messages(1)
    bodies = [
        bytes([n % 251]) * size for n, size in enumerate([10, 40_000, 3 << 20, 1, 70_000, 300, 5 << 20])
    ]
    for body in bodies:
        assert router.send(b"one", Answer(msgid="m", body=body, asked="a"))
    driver = Driver(wire, router)
    assert bodies == [answer.body for answer in driver.messages(len(bodies))]
    assert 0 == router.unsent_bytes(b"one")


def test_ipv6(context: Context) -> None:
    """It listens at an IPv6 address, for peers of both kinds."""
    try:
        made = DirectRouter("tcp://[::1]:*")
    except OperationalError:
        pytest.skip("this machine has no IPv6")
    assert made.endpoint.startswith("tcp://[::1]:")
    wires = [Wire(context, made.endpoint, identity=b"a"), DirectWire(made.endpoint, identity=b"b")]
    driver = Driver(made)
    driver.turn()
    for wire in wires:
        wire.send(Ready(msgid="r"))
    direct = Driver(wires[1], made)
    direct.until(lambda: len(direct.beside[0].received) == 2)
    assert {b"a", b"b"} == {identity for identity, _ in direct.beside[0].received}
    wires[1].close()
    made.close()


def test_a_muted_router_is_not_read(router: DirectRouter) -> None:
    """A poll may be told to say nothing of a router; what came and who left meanwhile is heard later."""
    raw, other = peer(router), peer(router, "other")
    poll_of(router).mute(router)
    raw.send(zmtp.said(Ready(msgid="r")))
    other.close()
    assert set() == poll_of(router).wait(0.1)
    poll_of(router).unmute(router)
    driver = Driver(router)
    driver.until(lambda: driver.received and driver.gone)
    assert ["r"] == [said.msgid for _, said in driver.received]


def test_a_ping_is_answered_while_nothing_else_is(router: DirectRouter) -> None:
    """A peer that asks whether the router lives is told."""
    raw = peer(router)
    raw.read()
    raw.send(b"\x04\x0a\x04PING\0\0abc")
    wait_until(lambda: [turn(router), b"\x04PONGabc" in raw.read()][1])


def test_who_is_in_the_midst_of_a_message_is_told_apart(router: DirectRouter) -> None:
    """Of whom a part of a message has come is told once; who only asks whether the router lives says none."""
    raw, other = peer(router), peer(router, "other")
    [name, _] = router._by_identity
    other.send(b"\x04\x07\x04PING\0\0")
    said = zmtp.message([b"", bytes(200_000)])
    told = []
    for part in (said[:80_000], said[80_000:160_000]):
        raw.send(part)
        wait_until(lambda: [turn(router), told.append(router.speaking()), told[-1]][2])
        assert set() == router.speaking()
    raw.send(said[160_000:])
    assert 1 == len(Driver(router).messages(1))
    assert {name} == set().union(*told)


def test_a_malformed_message_is_a_value(router: DirectRouter) -> None:
    """What is a message and no command of the protocol comes as its error; the connection stays."""
    raw = peer(router)
    raw.send(zmtp.message([b"", b"nonsense", b"x", b"y"]) + zmtp.said(Ready(msgid="r")))
    driver = Driver(router)
    driver.until(lambda: len(driver.received) >= 2)
    assert [RemoteProtocolError, Ready] == [type(said) for _, said in driver.received[-2:]]


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:99999", "tcp://192.0.2.1:1", "ipc:///nowhere/at/all"])
def test_an_impossible_endpoint_is_told(endpoint: str) -> None:
    """Where it can't listen is an error that names the endpoint."""
    with pytest.raises(OperationalError, match="can't be bound"):
        DirectRouter(endpoint)


def test_a_unix_socket_is_removed_at_its_end(tmp_path: Any) -> None:
    """The file of a Unix socket goes with it, but not one that another has made meanwhile."""
    first = DirectRouter(f"ipc://{tmp_path}/s")
    first.close()
    assert not (tmp_path / "s").exists()
    second = DirectRouter(f"ipc://{tmp_path}/s")
    (tmp_path / "s").unlink()
    (tmp_path / "s").write_text("another's")
    second.close()
    assert (tmp_path / "s").exists()


def test_limits_are_those_of_the_broker(context: Context) -> None:
    """A frame that is too large by far ends the connection as it does with ZeroMQ's router."""
    made = DirectRouter("tcp://127.0.0.1:*", limits=Limits(payload_bytes=1000))
    driver = Driver(made)
    wire = Wire(context, made.endpoint, identity=b"one")
    wire.send(Ready(msgid="r"))
    driver.messages(1)
    wire.send_frames([b"", bytes(17 << 20)])
    driver.until(lambda: driver.gone)
    made.close()
