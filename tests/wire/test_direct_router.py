"""A ROUTER in the caller's thread: stock peers, identities taken over, peers that misbehave, its bounds."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from emq_compat.errors import OperationalError, RemoteProtocolError
from emq_compat.message import Headers, new_id
from emq_compat.protocol.commands import Answer, Heartbeat, Ready, Request
from emq_compat.protocol.frames import Limits, encode
from emq_compat.wire import DirectRouter, DirectWire, Wire, direct_router
from emq_compat.wire import large as large_module
from emq_compat.wire.peer import READ_BYTES, Peer
from tests.faults import zmtp
from tests.faults.zmtp import Raw
from tests.processes import wait_until
from tests.wire.conftest import Driver, poll_of, turn

pytestmark = pytest.mark.integration

Context = zmq.Context[Any]


@pytest.fixture
def router() -> Iterator[DirectRouter]:
    made = DirectRouter("tcp://127.0.0.1:*", message_bytes=1 << 20)
    poll_of(made)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def raws() -> Iterator[list[Raw]]:
    """The connections of a test, which are closed at its end."""
    made: list[Raw] = []
    _raws.append(made)
    yield made
    _raws.pop()
    for raw in made:
        raw.close()


_raws: list[list[Raw]] = []


def port(router: DirectRouter) -> int:
    return int(router.endpoint.rpartition(":")[2])


def raw_to(router: DirectRouter) -> Raw:
    """A connection on which nothing was said yet."""
    _raws[-1].append(Raw(port(router), timeout_s=0.05))
    return _raws[-1][-1]


def peer(router: DirectRouter, name: str = "raw") -> Raw:
    """A connection of which a first message has come."""
    heard: list[Any] = []
    raw = raw_to(router).shake(name, meanwhile=lambda: heard.extend(turn(router, 0.05)))
    wait_until(lambda: [heard.extend(turn(router)), heard][1])
    return raw


def closed(raw: Raw, router: DirectRouter) -> bool:
    """Whether the router has ended a connection."""
    turn(router)
    return raw.ended()


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


def test_half_a_greeting_is_waited_for_five_seconds(
    router: DirectRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who doesn't finish its handshake in time is cut off, and who does isn't."""
    monkeypatch.setattr(direct_router, "_HANDSHAKE_S", 0.1)
    good, half, silent = peer(router), raw_to(router), raw_to(router)
    half.send(zmtp.GREETING[:20])
    turn(router, 0.05)
    assert router.deadline() is not None
    wait_until(lambda: closed(half, router) and closed(silent, router))
    assert not closed(good, router)
    assert router.deadline() is None


@pytest.mark.parametrize("scheme", ["tcp", "ipc"])
def test_a_message_that_never_ends_is_cut_off(tmp_path: Any, scheme: str) -> None:
    """A message that has become too long ends its connection, over TCP and over a Unix socket."""
    made = DirectRouter(
        "tcp://127.0.0.1:*" if scheme == "tcp" else f"ipc://{tmp_path}/s", message_bytes=1 << 20
    )
    poll_of(made)
    sock = socket.socket(socket.AF_UNIX if scheme == "ipc" else socket.AF_INET)
    sock.connect(f"{tmp_path}/s" if scheme == "ipc" else ("127.0.0.1", port(made)))
    sock.setblocking(False)
    sock.send(zmtp.opening())
    sent = 0

    def more() -> bool:
        nonlocal sent
        turn(made)
        try:
            sent += sock.send(zmtp.more(b"x" * 50_000))
        except BlockingIOError:
            return False
        except OSError:
            return True
        return False

    wait_until(more, interval_s=0)
    assert sent < 12 << 20  # what the system holds comes on top
    assert {} == made._by_identity
    sock.close()
    made.close()


def test_what_one_sends_is_read_in_turns(router: DirectRouter) -> None:
    """One that says more than a turn takes doesn't keep another one waiting for all of it."""
    much, little = peer(router, "much"), peer(router, "little")
    much.sock.setblocking(False)
    little.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    much.sock.send(zmtp.said(Heartbeat(msgid="h", timestamp=1.0)) * 20_000)
    little.send(zmtp.said(Ready(msgid="r")))
    before = 0
    heard: set[type] = set()
    while Ready not in heard:
        batch = turn(router, 0.1, 512)
        heard = {type(said) for _, said, _ in batch}
        before += len(batch)
    assert before < 3_000


def test_bytes_of_one_turn_are_bounded(router: DirectRouter) -> None:
    """No more is read in a turn once it has so many bytes; the rest comes with the next."""
    raw = peer(router)
    message = zmtp.said(Request(msgid="m", queue="q", headers=Headers(), payload=bytes(200_000)))
    raw.sock.settimeout(None)
    count = 0
    for _ in range(20):
        raw.sock.setblocking(False)
        data = memoryview(message)
        while data:
            try:
                data = data[raw.sock.send(data) :]
            except BlockingIOError:
                router.flush()
                poll_of(router).wait(0.1)
                got = router.receive(most_bytes=300_000)
                assert len(got) <= 4
                count += len(got)
    driver = Driver(router)
    driver.until(lambda: count + len(driver.received) == 20)


def test_the_time_of_one_turn_is_bounded(router: DirectRouter, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some time no more is read in a turn, however little there was in it: the rest comes later."""
    monkeypatch.setattr(direct_router, "_READ_S", 0.0)
    raws = [peer(router, name) for name in ("one", "another")]
    beat = zmtp.said(Heartbeat(msgid="h", timestamp=1.0))
    for raw in raws:
        assert raw.send(beat * (150_000 // len(beat)))
    wait_until(lambda: [poll_of(router).wait(0.0), len(router._readable) == 2][1])
    batches = [turn(router, 5.0, 1 << 20) for _ in range(4)]
    assert all(0 < len(batch) <= READ_BYTES // len(beat) + 1 for batch in batches)
    assert [1] * 4 == [len({identity for identity, _, _ in batch}) for batch in batches]
    assert batches[0][0][0] != batches[1][0][0]


@pytest.fixture
def narrow() -> Iterator[DirectRouter]:
    """A router that takes little of large messages at once."""
    made = DirectRouter("tcp://127.0.0.1:*", unfinished_bytes=4 << 20)
    poll_of(made)
    yield made
    made.close()


def large(size: int = 12 << 20) -> bytes:
    return zmtp.said(Request(msgid=new_id(), queue="q", headers=Headers(), payload=bytes(size)))


class Saying:
    """A connection that says something as fast as it is read."""

    def __init__(self, raw: Raw, data: bytes) -> None:
        self.raw = raw
        self.left = memoryview(data)
        raw.sock.setblocking(False)

    def go_on(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.left:
                self.left = self.left[self.raw.sock.send(self.left) :]


def test_large_messages_of_many_are_bounded_together(narrow: DirectRouter) -> None:
    """All arrive, however many are sent at once; what is unfinished is the bound, one, and little of each."""
    many = [Saying(peer(narrow, f"p{n}"), large() * 2) for n in range(6)]
    received, most = [], 0

    def arrived() -> bool:
        nonlocal most
        for one in many:
            one.go_on()
        received.extend(turn(narrow))
        most = max(most, sum(one.zmtp.unfinished for one in narrow._by_fd.values()))
        return len(received) == 12

    wait_until(arrived, interval_s=0)
    assert 4 << 20 < most < (4 + 12 + 6 * 1.5) * (1 << 20)
    assert (0, {}) == (narrow._large.total_bytes, narrow._large.held)


def test_who_waits_with_a_large_message_hears_of_the_router(
    narrow: DirectRouter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told that the router lives; who holds it up and says nothing is cut off, and small ones pass."""
    monkeypatch.setattr(direct_router, "_SIGN_OF_LIFE_S", 0.05)
    first, second, third = (peer(narrow, name) for name in ("first", "second", "third"))
    first.read()
    second.read()
    stands = Saying(first, large()[: 6 << 20])
    wait_until(lambda: [stands.go_on(), turn(narrow), not stands.left][2])
    waits, left = Saying(second, large()), Saying(third, large())
    wait_until(lambda: [waits.go_on(), left.go_on(), turn(narrow), len(narrow._large.held) == 2][3])
    heard = b""

    def signs() -> int:
        nonlocal heard
        turn(narrow)
        heard += second.read()
        return heard.count(b"PING")

    wait_until(lambda: signs() >= 3)
    small = peer(narrow, "small")
    small.send(zmtp.said(Ready(msgid="small")))
    assert ["small"] == [said.msgid for _, said in Driver(narrow).messages(1)]
    third.close()
    wait_until(lambda: [turn(narrow), len(narrow._large.held) == 1][1])
    monkeypatch.setattr(large_module, "STANDS_STILL_S", 0.1)
    received: list[Any] = []
    wait_until(lambda: [waits.go_on(), received.extend(turn(narrow)), received][2])
    assert closed(first, narrow)
    assert "nothing more comes of a large message" in caplog.text


@pytest.mark.parametrize(
    ("bound", "most", "size"), [("_UNREAD_BYTES", 30 << 20, 1 << 20), ("_UNREAD_PIECES", 30, 20 << 10)]
)
def test_who_never_reads_is_cut_off_at_a_bound(
    router: DirectRouter,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    bound: str,
    most: int,
    size: int,
) -> None:
    """What is kept for one peer is bounded in bytes and in messages; beyond it is cut off and gone."""
    monkeypatch.setattr(direct_router, bound, most)
    raw = peer(router)
    driver = Driver(router)
    [name] = router._by_identity
    answer = Answer(msgid=new_id(), body=bytes(size), asked="a")
    sent = 0
    while router.send(name, answer):
        router.flush()
        sent += 1
        assert sent < 1000
    assert 29 <= sent
    assert "doesn't read what it is sent" in caplog.text
    driver.until(lambda: driver.gone)
    assert [name] == driver.gone
    raw.close()


def test_who_has_said_nothing_is_not_gone(router: DirectRouter) -> None:
    """Nobody is told of the end of a connection over which no message came."""
    raw_to(router).send(zmtp.opening())
    wait_until(lambda: [turn(router), router.connections() == 1][1])
    _raws[-1][-1].close()
    wait_until(lambda: [turn(router), router.connections() == 0][1])
    assert [] == turn(router)
    assert [] == router.gone()


def test_without_memory_for_what_one_says_it_is_cut_off(
    router: DirectRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of what it said is missing: its connection ends, the caller hears of it, and others go on."""
    good, bad = peer(router, "good"), peer(router, "bad")

    def read(self: Peer, into: Any) -> tuple[int, bool]:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(Peer, "read", read)
        bad.send(zmtp.said(Ready(msgid="r")))
        with pytest.raises(MemoryError):
            wait_until(lambda: turn(router, 0.1))
    wait_until(lambda: closed(bad, router))
    good.send(zmtp.said(Ready(msgid="good")))
    assert ["good"] == [said.msgid for _, said in Driver(router).messages(1)]


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


def test_of_many_who_do_not_read_the_one_with_the_most_is_cut_off(
    router: DirectRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept for all together is bounded; what one has read, or has left behind, counts no more."""
    monkeypatch.setattr(direct_router, "_ALL_UNREAD_BYTES", 60 << 20)
    deaf = [peer(router, name) for name in ("a", "b", "c")]
    names = {name[:1]: name for name in router._by_identity}
    big = Answer(msgid=new_id(), body=bytes(1 << 20), asked="a")

    def send(name: bytes, count: int) -> int:
        return sum(router.send(names[name], big) for _ in range(count))

    assert [25, 15, 10] == [send(b"a", 25), send(b"b", 15), send(b"c", 10)]
    assert send(b"c", 60) < 60
    assert {names[b"a"], names[b"b"]} == set(router._by_identity)
    assert router._kept.unsent_bytes == sum(map(router.unsent_bytes, names.values())) > 30 << 20
    driver = Driver(router)
    driver.until(lambda: driver.gone)
    assert [names[b"c"]] == driver.gone
    router.cut(names[b"a"])

    def read() -> bool:
        turn(router)
        return not deaf[1].read(1 << 20) and not router._kept.unsent_bytes

    wait_until(read, interval_s=0)


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


def test_without_descriptors_others_are_served(
    router: DirectRouter, caplog: pytest.LogCaptureFixture
) -> None:
    """With no descriptor for a connection it waits, those that stand go on, and it is accepted later."""
    good, late = peer(router), raw_to(router)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard))
    taken = []
    try:
        while True:
            try:
                taken.append(os.dup(0))
            except OSError:
                break
        wait_until(lambda: [turn(router), "can't be accepted: Too many open files" in caplog.text][1])
        good.send(zmtp.said(Ready(msgid="good")))
        assert ["good"] == [said.msgid for _, said in Driver(router).messages(1)]
        assert router.deadline() is not None
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    late.shake(meanwhile=lambda: turn(router, 0.05))
    late.send(zmtp.said(Ready(msgid="late")))
    driver = Driver(router)
    driver.until(lambda: "late" in [said.msgid for _, said in driver.received])


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
