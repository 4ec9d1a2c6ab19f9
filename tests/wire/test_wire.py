"""Wire and both kinds of routers over real sockets."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
import zmq

from emq_compat.errors import OperationalError, RemoteProtocolError
from emq_compat.message import Headers
from emq_compat.protocol.commands import Ack, Heartbeat, Kbye, Ready, Request
from emq_compat.protocol.frames import Limits, encode
from emq_compat.wire import RouterWire, Wire, identity
from emq_compat.wire.routers import Router
from tests.processes import Procs
from tests.wire.conftest import Driver, turn

pytestmark = pytest.mark.integration

Context = zmq.Context[Any]
Listens = Callable[..., Router]


@pytest.fixture
def router(listens: Listens) -> Router:
    return listens()


def peer(context: Context, router: Router, name: bytes, **options: Any) -> Wire:
    return Wire(context, router.endpoint, identity=name, **options)


def test_commands_travel_both_ways(context: Context, router: Router) -> None:
    """A command sent by a peer arrives with its identity, and the answer arrives at that peer."""
    wire = peer(context, router, b"one")
    request = Request(msgid="m", queue="q", headers=Headers(guarantee=True), payload=b"[]")
    wire.send(request)
    driver = Driver(router)

    assert [(b"one", request)] == driver.messages(1)

    assert router.send(b"one", Ack(msgid="a", acked=("m",)))

    assert [Ack(msgid="a", acked=["m"])] == Driver(wire, router).messages(1)
    assert wire.connected


def test_a_batch_is_bounded(context: Context, router: Router) -> None:
    """`receive` returns at most its limit, and `ready` tells that more is waiting."""
    wire = peer(context, router, b"one")
    for i in range(10):
        wire.send(Ready(msgid=str(i)))
    driver = Driver(router)
    driver.messages(1)
    end = time.monotonic() + 5
    while len(driver.received) < 9 and time.monotonic() < end:
        batch = [received[:2] for received in turn(router, 0.1, 2)]
        assert len(batch) <= 2
        driver.received += batch

    assert [str(i) for i in range(1, 10)] == [command.msgid for _, command in driver.received]
    assert not router.ready()


def test_receiving_nothing_returns_at_once(context: Context, router: Router) -> None:
    """`receive` on a quiet socket returns an empty list without blocking."""
    wire = peer(context, router, b"one")

    assert [] == router.receive()
    assert [] == wire.receive()
    assert [] == router.gone()
    assert router.deadline() is None


def test_sending_to_an_unknown_peer_tells_so(router: Router) -> None:
    """A ROUTER says that it has no connection to a peer instead of blocking or raising."""
    assert not router.send(b"nobody", Kbye(msgid="k"))


def test_malformed_messages_are_values(context: Context, router: Router) -> None:
    """What can't be decoded comes as its error, in order, and the good messages around it as commands."""
    wire = peer(context, router, b"one")
    good = Ready(msgid="r")
    wire.send(good)
    wire.send_frames([b"junk"])
    wire.send_frames([b"", b"eMQP/1.0", b"REQUEST", b"m", b"q", b"\xff", b""])
    wire.send(good)

    messages = Driver(router).messages(4)

    assert [b"one"] * 4 == [sender for sender, _ in messages]
    assert [Ready, RemoteProtocolError, RemoteProtocolError, Ready] == [type(m) for _, m in messages]
    assert "frame 5 (headers) of REQUEST: is not UTF-8" == str(messages[2][1])
    assert ("REQUEST", "m") == (messages[2][1].command, messages[2][1].msgid)


def test_a_malformed_answer_is_a_value(context: Context, router: Router) -> None:
    """At the connecting side, too, a malformed message comes as its error."""
    wire = peer(context, router, b"one")
    wire.send(Ready(msgid="r"))
    Driver(router).messages(1)
    router.send_frames(b"one", [b"", b"eMQP/1.0", b"NOISE", b"m"])

    (error,) = Driver(wire, router).messages(1)

    assert isinstance(error, RemoteProtocolError)
    assert "frame 2 (command): 'NOISE' is unknown" == str(error)


def test_endless_frames_are_cut_short(context: Context, listens: Listens) -> None:
    """Of a message with far too many frames only an error is left, and the next message is whole."""
    router = listens(limits=Limits(follow_ups=2))
    wire = peer(context, router, b"one")
    wire.send_frames([b"", b"eMQP/1.0", b"READY", b"m"] + [b"x"] * 100_000)
    wire.send(Ready(msgid="r"))

    messages = Driver(router).messages(2)

    assert isinstance(messages[0][1], RemoteProtocolError)
    assert (b"one", Ready(msgid="r")) == messages[1]


def test_a_frame_too_large_is_told(context: Context, listens: Listens) -> None:
    """A payload somewhat above the limit is received and told as an error that names it."""
    router = listens(limits=Limits(payload_bytes=1000))
    wire = peer(context, router, b"one")
    wire.send_frames([b"", b"eMQP/1.0", b"REQUEST", b"m", b"q", b"", bytes(1001)])

    ((_, error),) = Driver(router).messages(1)

    assert "frame 6 (payload) of REQUEST: has 1001 bytes, more than 1000" == str(error)


def test_an_enormous_frame_costs_the_connection(context: Context, listens: Listens) -> None:
    """A peer that sends a frame far above the limit is cut off; others are not disturbed."""
    router = listens(limits=Limits(payload_bytes=1000))
    driver = Driver(router)
    bad, good = peer(context, router, b"bad"), peer(context, router, b"good")
    bad.send(Ready(msgid="b"))
    good.send(Ready(msgid="g"))
    driver.messages(2)

    bad.send_frames([b"", bytes(17 << 20)])
    driver.until(lambda: b"bad" in driver.gone)
    good.send(Ready(msgid="g2"))

    assert [(b"good", Ready(msgid="g2"))] == driver.messages(1)


def test_a_closed_peer_is_gone(context: Context, router: Router) -> None:
    """A peer that closes is reported gone once, after all that it had said."""
    wire = peer(context, router, b"one")
    driver = Driver(router)
    wire.send(Ready(msgid="r"))
    driver.messages(1)
    for i in range(5):
        wire.send(Ready(msgid=str(i)))
    wire.send(Kbye(msgid="k"))
    # The Kbye has to have left before the socket closes.
    driver.messages(6)
    wire.close()

    driver.until(lambda: driver.gone)
    driver.step()

    assert [b"one"] == driver.gone


CHILD = """
import sys, time, zmq
from emq_compat.wire import Wire
from emq_compat.protocol.commands import Ready
wire = Wire(zmq.Context(), sys.argv[1], identity=b"child")
wire.send(Ready(msgid="r"))
print("sent", flush=True)
time.sleep(600)
"""


def test_a_killed_process_is_gone_within_a_second(context: Context, router: Router, procs: Procs) -> None:
    """When a peer's process is SIGKILLed, its identity is reported gone within a second; others stay."""
    other = peer(context, router, b"other")
    other.send(Ready(msgid="o"))
    child = procs.python("-c", CHILD, router.endpoint)
    driver = Driver(router)
    assert {b"child", b"other"} == {sender for sender, _ in driver.messages(2)}

    child.kill()
    killed = time.monotonic()
    driver.until(lambda: driver.gone)

    assert time.monotonic() - killed < 1.0
    assert [b"child"] == driver.gone


def test_a_peer_that_comes_again_under_its_identity_is_gone_and_back(
    context: Context, router: Router
) -> None:
    """After gone, a message under the same identity is received, and a second loss is reported again."""
    driver = Driver(router)
    for round_ in range(1, 4):
        wire = peer(context, router, b"one")
        wire.send(Ready(msgid=str(round_)))
        assert [(b"one", Ready(msgid=str(round_)))] == driver.messages(1)
        wire.close()
        driver.until(lambda n=round_: len(driver.gone) == n)

    assert [b"one"] * 3 == driver.gone


def test_an_identity_taken_over_is_not_gone(context: Context, router: Router) -> None:
    """When a new connection takes an identity over, the end of the old one is not reported as its loss."""
    driver = Driver(router)
    old = peer(context, router, b"one")
    old.send(Ready(msgid="old"))
    driver.messages(1)
    new = peer(context, router, b"one")
    new.send(Ready(msgid="new"))
    assert [(b"one", Ready(msgid="new"))] == driver.messages(1)
    old.close()

    if isinstance(router, RouterWire):
        # Until the suspicion raised by the closed connection has been settled.
        driver.until(lambda: router.deadline() is not None)
        driver.until(lambda: router.deadline() is None)
    assert [] == driver.gone

    new.send(Ready(msgid="again"))
    driver.messages(1)
    new.close()
    driver.until(lambda: driver.gone)
    assert [b"one"] == driver.gone


def test_many_peers_come_and_go(context: Context, router: Router) -> None:
    """Every one of many short connections, whose file descriptors are used again, is reported gone once."""
    driver = Driver(router)
    names = [identity("short") for _ in range(60)]
    for start in range(0, 60, 6):
        wires = [peer(context, router, name) for name in names[start : start + 6]]
        for wire in wires:
            wire.send(Heartbeat(msgid="h", timestamp=1.0))
        driver.messages(6)
        for wire in wires:
            wire.close()
    driver.until(lambda: len(driver.gone) >= 60)

    assert sorted(names) == sorted(driver.gone)


def test_a_wire_connects_again_by_itself(context: Context, listens: Listens, router: Router) -> None:
    """A wire notices that the broker is gone, and is connected again when it is back at that address."""
    endpoint = router.endpoint
    wire = peer(context, router, b"one")
    Driver(wire, router).until(lambda: wire.connected)
    router.close()
    Driver(wire).until(lambda: not wire.connected)

    again = listens(endpoint)
    driver = Driver(wire, again)
    driver.until(lambda: wire.connected)
    wire.send(Ready(msgid="r"))

    driver.until(lambda: driver.beside[0].received)
    assert [(b"one", Ready(msgid="r"))] == driver.beside[0].received


def test_a_stock_peer_gets_only_what_it_knows(context: Context, router: Router) -> None:
    """To a stock peer a REQUEST goes out with stock headers only, both ways."""
    wire = peer(context, router, b"one", stock=True)
    ours = Headers(guarantee=True, task_id="id", attempt=2)
    wire.send(Request(msgid="m", queue="q", headers=ours, payload=b"[]"))
    ((_, received),) = Driver(router).messages(1)
    assert Headers(guarantee=True) == received.headers

    router.send(b"one", Request(msgid="n", queue="q", headers=ours, payload=b"[]"), stock=True)
    assert [Headers(guarantee=True)] == [m.headers for m in Driver(wire, router).messages(1)]


def test_ipc_and_inproc_carry_messages(context: Context, listens: Listens, tmp_path: Any) -> None:
    """The wire works over ipc, with loss detection, and over inproc, without it."""
    for endpoint in (f"ipc://{tmp_path}/s", f"ipc://@emq-test-{os.getpid()}", "inproc://wire"):
        router = RouterWire(context, endpoint) if endpoint.startswith("inproc") else listens(endpoint)
        driver = Driver(router)
        wire = Wire(context, endpoint, identity=b"one")
        wire.send(Ready(msgid="r"))
        assert [(b"one", Ready(msgid="r"))] == driver.messages(1)
        wire.send(Ready(msgid="s"))
        assert [(b"one", Ready(msgid="s"))] == driver.messages(1)
        wire.close()
        if endpoint.startswith("ipc"):
            driver.until(lambda d=driver: d.gone)
            assert [b"one"] == driver.gone


def test_an_address_in_use_is_told(listens: Listens, router: Router) -> None:
    """Binding an address that is in use raises an error that names it."""
    with pytest.raises(OperationalError, match=f"{router.endpoint} can't be bound: Address already in use"):
        listens(router.endpoint)


def test_a_unix_socket_in_use_is_left_alone(context: Context, listens: Listens, tmp_path: Any) -> None:
    """A unix socket at which somebody listens can't be bound; one that was left behind can."""
    endpoint = f"ipc://{tmp_path}/s"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(f"{tmp_path}/s")
    router = listens(endpoint)
    with pytest.raises(OperationalError, match="s can't be bound: Address already in use"):
        listens(endpoint)

    Wire(context, endpoint, identity=b"one").send(Ready(msgid="r"))
    assert [(b"one", Ready(msgid="r"))] == Driver(router).messages(1)


def test_an_impossible_endpoint_is_told(context: Context) -> None:
    """Connecting to what is no endpoint raises an error that names it."""
    with pytest.raises(OperationalError, match="nonsense can't be connected to"):
        Wire(context, "nonsense", identity=b"one")


def test_identities_are_unique_printable_ascii() -> None:
    """Identities keep the name readable, hold printable ASCII only and never repeat."""
    made = {identity("wörker @ höst") for _ in range(100)}

    assert 100 == len(made)
    for one in made:
        assert one.decode("ascii").isprintable()
        assert one.startswith(b"w_rker_@_h_st.")
        assert b" " not in one
        assert len(identity("x" * 1000)) < 256


def test_large_payloads_arrive_whole(context: Context, router: Router) -> None:
    """A payload of many megabytes arrives as it was sent."""
    wire = peer(context, router, b"one")
    payload = bytes(range(256)) * (1 << 17)
    wire.send_frames(encode(Request(msgid="m", queue="q", headers=Headers(), payload=payload)))

    ((_, received),) = Driver(router).messages(1)

    assert payload == received.payload
