"""What a ROUTER in the caller's thread takes at most: of one turn, of one peer, of all together."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from emq_compat.message import Headers, new_id
from emq_compat.protocol.commands import Answer, Heartbeat, Ready, Request
from emq_compat.wire import DirectRouter, direct_router
from emq_compat.wire import large as large_module
from emq_compat.wire.peer import READ_BYTES, Peer
from tests.faults import zmtp
from tests.faults.zmtp import Raw
from tests.processes import wait_until
from tests.wire.conftest import Driver, poll_of, turn
from tests.wire.raw_peers import closed, peer, port, raw_to

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("raws")]

Context = zmq.Context[Any]


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
