"""Which of several brokers is asked for work."""

from __future__ import annotations

import math

import pytest

from emq_compat.manager.turns import DRY_S, Turns

pytestmark = pytest.mark.unit


class Play:
    """Brokers with so many messages each, and a pool of ``slots`` that is asked for turn by turn."""

    def __init__(self, **messages: int) -> None:
        self.turns: Turns[str] = Turns()
        self.messages = messages
        self.out = dict.fromkeys(messages, 0)
        self.now = 100.0

    def ask(self, idle: int, reserve: int = 0) -> dict[str, int]:
        """Ask, as a job manager does."""
        asks = self.turns.split(self.out, idle, reserve, self.now)
        for broker, more in asks.items():
            self.out[broker] += more
        return asks

    def bring(self, most: int = 1_000) -> list[str]:
        """Have the brokers bring what they were asked for, as far as they have it; returns whose it was."""
        brought = []
        for broker in self.out:
            while self.out[broker] > 0 and self.messages[broker] > 0 and len(brought) < most:
                self.out[broker] -= 1
                self.messages[broker] -= 1
                self.turns.came(broker, self.now)
                brought.append(broker)
        return brought

    def run(self, turns: int, idle: int = 1) -> list[str]:
        """Free so many slots again and again; returns whose jobs took them."""
        order: list[str] = []
        for _ in range(turns):
            self.now += 0.001
            self.ask(idle)
            brought = self.bring()
            assert len(brought) <= idle
            order += brought
        return order


def test_one_free_slot_is_asked_of_one_broker() -> None:
    """Two brokers with work take turns, and never is more brought than there is room for."""
    order = Play(old=50, new=50).run(40)
    assert (20, 20) == (order.count("old"), order.count("new"))


def test_many_free_slots_are_shared_evenly() -> None:
    """What there is room for is split."""
    assert {"old": 5, "new": 5} == Play(old=50, new=50).ask(4, reserve=6)


def test_a_dry_broker_costs_others_nothing() -> None:
    """One that brings nothing for a moment is passed over: the other one gets every slot."""
    play = Play(old=0, new=50)
    play.run(2)
    play.now += DRY_S
    play.turns.came("new", play.now)
    order = play.run(30)
    assert 30 == order.count("new")


def test_a_dry_broker_is_heard_when_it_has_something() -> None:
    """It is asked beside the others while a slot is free, and takes its turns again once it brings."""
    play = Play(old=0, new=0)
    play.ask(1)
    play.now += DRY_S
    play.ask(1)
    play.now += DRY_S
    play.ask(1)
    assert {"old": 1, "new": 1} == play.out
    play.messages["old"] = 1
    assert ["old"] == play.bring()


def test_credit_is_taken_back_when_nothing_is_free() -> None:
    """Without a free slot what was asked for is asked for no more."""
    play = Play(old=0, new=0)
    play.ask(2)
    assert {"old": -1, "new": -1} == play.ask(0)


def test_when_to_look_again() -> None:
    """It says when a broker that was asked is to be taken for dry."""
    play = Play(old=0, new=0)
    assert math.inf == play.turns.due
    play.ask(1)
    assert play.now + DRY_S == play.turns.due
