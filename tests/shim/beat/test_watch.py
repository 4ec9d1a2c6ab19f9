"""What is known of a beat: whether its loop turns, what it has sent, what is due next."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from emq_compat.celery_shim import Celery
from emq_compat.celery_shim.beat import BeatLazyFunc, Scheduler
from emq_compat.leading.base import Held
from emq_compat.leading.leader import Leader
from emq_compat.shim.beat.clock import StepWatch
from emq_compat.shim.beat.service import Service
from emq_compat.shim.beat.watch import STUCK_S, BeatWatch
from tests.leading.test_leader import LIFE_S, Kept, Store
from tests.shim.beats import BrokerHere, app_on, beat, every, run_due

pytestmark = pytest.mark.unit


class Clock:
    """Seconds that the test lets pass."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_loop_that_does_not_come_back_is_stuck() -> None:
    """It may sleep as long as it has said, and be late by the limit; before it runs it isn't stuck."""
    clock = Clock()
    watch = BeatWatch(clock)
    clock.now += 1000
    assert ("", {"started": "the schedule is being read"}) == (watch.stuck(), watch.checks())

    watch.begin(None, None)
    clock.now += 180
    assert {"started": "", "loop": ""} == watch.checks()
    clock.now += 1
    assert {"started": "", "loop": "the loop has not turned for 181 s"} == watch.checks()

    watch.turned(300.0)
    clock.now += 480
    assert "" == watch.stuck()
    clock.now += 1
    assert "the loop has not turned for 481 s" == watch.stuck()

    watch.begin(None, 5)
    clock.now += 6
    assert "the loop has not turned for 6 s" == watch.stuck()
    watch.begin(None, 0)
    clock.now += 1e6
    assert "" == watch.stuck()


def test_who_leads_is_told() -> None:
    """The leader leads and the other one doesn't; while the store is silent nobody can say."""
    store = Store()
    first, second = BeatWatch(), BeatWatch()
    leaders = [Leader(Kept(store, owner), clock=lambda: store.now) for owner in ("one", "two")]
    for leader, watch in zip(leaders, (first, second), strict=True):
        leader.ask()
        watch.begin(leader, None)
        assert STUCK_S == watch.limit_s
    assert (True, False, None) == (first.leads, second.leads, BeatWatch().leads)
    assert "" == first.checks()["leader"]
    leaders[0].ledger.life_s = STUCK_S
    first.begin(leaders[0], None)
    assert 2 * STUCK_S == first.limit_s
    leaders[0].ledger.life_s = LIFE_S

    store.away = 1
    leaders[0].ask()
    assert "nobody can say who leads: away" == first.checks()["leader"]
    assert first.leads
    store.now += 100
    assert not first.leads
    assert Held.TAKEN == leaders[1].ledger.lead()
    leaders[0].ask()
    assert (False, "") == (first.leads, first.checks()["leader"])


def test_what_the_broker_was_told_is_counted(broker: BrokerHere) -> None:
    """A run counts once the broker has it: not when it is made, and not for a beat that came second."""

    def broken() -> None:
        raise LookupError("no such customer")

    entries = {"good": every(10, 1), "bad": every(10, BeatLazyFunc(broken))}
    one, other = (beat(app_on(broker, entries)) for _ in range(2))
    one.watch, other.watch = BeatWatch(), BeatWatch()
    run_due(one)
    broker.pass_time(10)
    broker.losing = 1
    assert one.tick() > 0  # the confirmation is lost
    assert {} == one.watch.sent
    run_due(one)
    run_due(other)
    assert 1 == len(broker.sent())
    assert ({"good": 1}, {"bad": 1}) == (one.watch.sent, one.watch.failed)
    assert ({}, {}) == (other.watch.sent, other.watch.failed)

    broker.pass_time(10)
    run_due(other)
    run_due(one)
    assert ({"good": 1}, {"good": 1}) == (one.watch.sent, other.watch.sent)


def test_a_refused_run_counts_as_failed() -> None:
    """A full queue: what it takes is sent, and each attempt that it refuses counts as failed."""
    broker = BrokerHere(queue_limit=1)
    scheduler = beat(app_on(broker, {"e": every(10, 1)}))
    scheduler.watch = watch = BeatWatch()
    for _ in range(2):
        broker.pass_time(10)
        run_due(scheduler)
    assert ({"e": 1}, {"e": 1}) == (watch.sent, watch.failed)


def test_when_the_next_entry_is_due(broker: BrokerHere) -> None:
    """The first in the order of time counts; none, or standing by: nothing is known."""
    clock = Clock()
    watch = BeatWatch(clock)
    scheduler = beat(app_on(broker, {"soon": every(10, 1), "later": every(3600, 2)}))
    wait_s = scheduler.tick()
    watch.ticked(scheduler, wait_s)
    assert (2, 1, 100.0) == (watch.entries, watch.ticks, watch.ticked_at)
    assert watch.due_at == pytest.approx(110, abs=0.5)
    assert {"soon": 0, "later": 0} == watch.sent == watch.failed

    watch.ticked(None)
    assert (None, None, 2) == (watch.entries, watch.due_at, watch.ticks)
    empty = beat(app_on(broker, {}))
    empty.tick()
    watch.ticked(empty)
    assert (0, None) == (watch.entries, watch.due_at)
    odd = SimpleNamespace(_heap=[SimpleNamespace(time=1, entry=None)])
    watch.ticked(odd)
    assert (1, None) == (watch.entries, watch.due_at)


def test_a_scheduler_of_the_projects_own_is_counted() -> None:
    """What its apply_async returns or raises counts, whatever it does."""
    called: list[str] = []

    class Own(Scheduler):
        def apply_async(self, entry: Any, **options: Any) -> Any:
            called.append(entry.name)
            if entry.name == "bad":
                raise RuntimeError("no")
            return None

    app = Celery("own", set_as_current=False)
    app.conf.beat_schedule = {"good": every(0.0), "bad": every(0.0)}
    scheduler = Own(app)
    scheduler.watch = watch = BeatWatch()
    for _ in range(6):
        scheduler.tick()
    assert {"good", "bad"} == {*called}
    assert {"good": called.count("good")} == watch.sent
    assert {"bad": called.count("bad")} == watch.failed


def test_a_beat_that_sleeps_is_seen_to_turn(broker: BrokerHere, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it sleeps, it says so again and again: it isn't stuck."""
    monkeypatch.setattr("emq_compat.shim.beat.service._LOOK_S", 0.001)
    service = Service(app_on(broker, {}))
    turned: list[float] = []

    class Seen(BeatWatch):
        def turned(self, sleeps_s: float = 0.0) -> None:
            turned.append(sleeps_s)
            if len(turned) == 3:
                service.stop()

    service.watch = Seen()
    turned.clear()
    service._rest(60, StepWatch())
    assert [0.0] * 3 == turned
