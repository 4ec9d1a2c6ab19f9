"""Clients' turns: who says much waits for itself, in its order, and leaves after all that it has said."""

from __future__ import annotations

import pytest

from emq_compat.broker import frontdesk
from emq_compat.broker.frontdesk import FrontDesk
from emq_compat.broker.line import Line, Said
from emq_compat.message import Headers, new_id
from emq_compat.permits import FULL
from emq_compat.protocol.commands import Ask, Request
from tests.broker.bench import Bench


def ask(client: str, n: int) -> Said:
    return client.encode(), Ask(msgid=f"{client}{n}", verb="stats", arguments={}), FULL


def publish(client: str) -> Said:
    return client.encode(), Request(msgid=new_id(), queue="q", headers=Headers(), payload=b"[]"), FULL


class Wire:
    """A socket whose clients leave when told to."""

    def __init__(self) -> None:
        self.left: list[bytes] = []
        self.unsent: dict[bytes, int] = {}
        self.cuts: list[bytes] = []

    def gone(self) -> list[bytes]:
        left, self.left = self.left, []
        return left

    def unsent_bytes(self, peer: bytes) -> int:
        return self.unsent.get(peer, 0)

    def taken_bytes(self, peer: bytes) -> object:
        return 7

    def cut(self, peer: bytes) -> None:
        self.cuts.append(peer)


class Desk:
    """A front desk, and what it has done."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.done: list[str] = []
        self.front = FrontDesk(
            self.wire,  # type: ignore[arg-type]
            lambda client, said, permit, now: self.done.append(said.msgid),  # type: ignore[union-attr]
            lambda client, now: self.done.append(f"{client.decode()} gone"),
        )
        self.bench = Bench()

    def turn(self, *received: Said) -> list[str]:
        self.done.clear()
        self.front.begin_turn(self.bench.engine, received)
        self.front.turn(received, self.bench.now)
        return self.done[:]


@pytest.fixture
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each turn's time is over after one message."""
    monkeypatch.setattr(frontdesk, "TURN_S", -1e9)


def test_each_in_turn() -> None:
    """One of each client is taken before the second of any."""
    line = Line()
    line.add([ask("a", 1), ask("a", 2), ask("a", 3), ask("b", 1), ask("c", 1), ask("b", 2)])
    assert ["a1", "b1", "c1", "a2", "b2", "a3"] == [s.msgid for _, s, _ in line.take() if isinstance(s, Ask)]
    assert 0 == len(line)


def test_all_is_handled_while_there_is_time() -> None:
    """A turn with time handles all that came, as it came, and leaves no line."""
    desk = Desk()
    desk.bench.mono = 1e12
    assert ["a1", "a2", "b1"] == desk.turn(ask("a", 1), ask("a", 2), ask("b", 1))
    assert 512 == desk.front.room(512)


@pytest.mark.usefixtures("no_time")
def test_what_is_left_stands_in_line() -> None:
    """Whoever comes later is served before the second message of who came first."""
    desk = Desk()
    assert ["a1"] == desk.turn(*(ask("a", n) for n in range(1, 101)))
    assert 128 - 99 == desk.front.room(512)
    assert ["a2"] == desk.turn(ask("b", 1))
    assert ["b1"] == desk.turn()
    assert ["a3"] == desk.turn()


@pytest.mark.usefixtures("no_time")
def test_only_what_was_handled_is_a_turns_publish() -> None:
    """A turn that fails refuses the publishes that it took, and not those that stand in line."""
    desk = Desk()
    first, second, third = publish("a"), publish("a"), publish("b")
    desk.turn(first, second, third)
    assert [first[:2]] == desk.front.publishes
    desk.turn()
    assert [second[:2]] == desk.front.publishes


@pytest.mark.usefixtures("no_time")
def test_who_is_gone_was_heard_first() -> None:
    """The end of a client comes after all that it has said."""
    desk = Desk()
    desk.wire.left = [b"a", b"b"]
    assert ["a1", "b gone"] == desk.turn(ask("a", 1), ask("a", 2))
    assert ["a2"] == desk.turn()
    assert ["a gone"] == desk.turn()


def test_where_results_wait_it_is_soon_looked_whether_their_client_reads() -> None:
    """Results that are too much for a client wait for a hundredth of a second, not for the next second."""
    desk = Desk()
    engine, now = desk.bench.engine, desk.bench.now
    engine.desk.unread.add(b"reads", 16 << 20)
    desk.front.look_at = now.mono + frontdesk.LOOK_S
    desk.turn()
    assert desk.front.look_at == now.mono + frontdesk.LOOK_S
    engine.results.wait(b"reads", ["t"], now)
    engine.results.put("t", "SUCCESS", b"{}", now)
    desk.turn()
    assert desk.front.look_at == now.mono + frontdesk.LOOK_OFTEN_S


def test_who_reads_goes_on_and_who_doesnt_is_cut_off() -> None:
    """A client that has read what it was sent is forgotten; one that reads nothing is cut off."""
    desk = Desk()
    unread = desk.bench.engine.desk.unread
    unread.add(b"reads", 2 << 20)
    unread.add(b"deaf", 2 << 20)
    desk.wire.unsent = {b"deaf": 1}
    for _ in range(3):
        desk.front.look_after_unread(desk.bench.engine, desk.bench.now)
        desk.bench.mono += 29
    assert {b"deaf"} == unread.many
    assert [] == desk.wire.cuts
    desk.front.look_after_unread(desk.bench.engine, desk.bench.now)
    assert [b"deaf"] == desk.wire.cuts
    assert 0 == unread.total
