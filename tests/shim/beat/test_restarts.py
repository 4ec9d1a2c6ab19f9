"""Several beats, beats that are started again, and answers of the broker that are lost."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from emq_compat.shim.schedules.cron import crontab
from tests.shim.beats import NOON, BrokerHere, app_on, beat, every, run_due

pytestmark = pytest.mark.unit


# Restarts, and two of them


def test_a_restart_neither_misses_nor_repeats(broker: BrokerHere) -> None:
    """An interval of 20 s comes through though beat is started anew every 7 s; a minute isn't sent twice."""
    entries = {"interval": every(20, "i"), "cron": every(crontab(), "c")}
    app = app_on(broker, entries)
    for second in range(1, 141):
        if second % 7 == 1:
            scheduler = beat(app)
        broker.pass_time(1)
        run_due(scheduler)
    counts = [sum(args == [mark] for args in broker.sent()) for mark in ("i", "c")]
    assert [7, 2] == counts


def test_what_was_missed_is_sent_once(broker: BrokerHere) -> None:
    """However many runs were missed while no beat ran; none that is older than the deadline."""
    entries = {"e": every(crontab(), "x"), "old": every(crontab(0, 13), "old")}
    run_due(beat(app_on(broker, entries)))
    broker.set_clock(NOON + timedelta(hours=3, seconds=30))
    scheduler = beat(app_on(broker, entries, beat_cron_starting_deadline=600))
    run_due(scheduler)
    assert [["x"]] == broker.sent()


def test_of_two_beats_each_run_is_sent_by_one(broker: BrokerHere) -> None:
    """Both are active; when one is gone the other goes on at the next run."""
    app = app_on(broker, {"i": every(5, "i"), "c": every(crontab(), "c")})
    one, two = beat(app), beat(app)
    for second in range(1, 181):
        broker.pass_time(1)
        for scheduler in (one, two)[:: 1 if second % 2 else -1]:
            if scheduler is two or second < 90:
                run_due(scheduler)
    counts = [sum(args == [mark] for args in broker.sent()) for mark in ("i", "c")]
    assert [36, 3] == counts
    assert one.schedule["i"].total_run_count < two.schedule["i"].total_run_count == 36


def test_two_that_decide_at_the_same_moment(broker: BrokerHere) -> None:
    """Who comes second publishes nothing: the run is the broker's to give."""
    entries = {"e": every(10, "x")}
    app = app_on(broker, entries)
    one, two = beat(app), beat(app)
    run_due(one), run_due(two)
    broker.pass_time(10)
    apply_entry = two.apply_entry

    def beaten(entry: Any, producer: Any = None) -> None:
        run_due(one)
        apply_entry(entry, producer=producer)

    two.apply_entry = beaten  # type: ignore[method-assign]
    run_due(two)
    assert [["x"]] == broker.sent()
    assert 1 == two.schedule["e"].total_run_count


def test_removed_entries_are_gone_and_another_projects_are_not(broker: BrokerHere) -> None:
    """A beat that is started without an entry removes it; one that still has it sends it no more."""
    other = app_on(broker, {"theirs": every(10, "t")})
    other.main = "another project"
    run_due(beat(other))
    old = beat(app_on(broker, {"kept": every(10, "k"), "removed": every(10, "r")}))
    run_due(old)
    run_due(beat(app_on(broker, {"kept": every(10, "k")})))
    assert ["another project", "beats"] == [row["schedule"] for row in broker.ask("periodic")]
    broker.pass_time(10)
    run_due(old)
    assert [["k"]] == broker.sent()
    assert {"kept"} == set(old.schedule)


def test_what_is_changed_keeps_its_history(broker: BrokerHere) -> None:
    """New arguments, or a new schedule, go on from the last run of the old ones."""
    run_due(beat(app_on(broker, {"e": every(100, "old")})))
    broker.pass_time(60)
    scheduler = beat(app_on(broker, {"e": every(50, "new")}))
    run_due(scheduler)
    assert [["new"]] == broker.sent()
    assert "<freq: 50 seconds>" == broker.ask("periodic")[0]["shown"]


def test_an_entry_that_is_added_while_beat_runs(broker: BrokerHere) -> None:
    """add() makes one that is kept as any other."""
    scheduler = beat(app_on(broker, {"e": every(1000)}))
    run_due(scheduler)
    scheduler.add(name="later", task="t", schedule=10, args=("x",))
    run_due(scheduler)
    broker.pass_time(11)
    run_due(scheduler)
    broker.pass_time(11)
    run_due(scheduler)
    assert [["x"], ["x"]] == broker.sent()


# Trouble


def test_a_lost_confirmation_sends_nothing_twice(broker: BrokerHere) -> None:
    """A run of which it is unknown whether it was sent is the same run when it is sent again."""
    scheduler = beat(app_on(broker, {"e": every(10, "x"), "f": every(10, "y")}))
    run_due(scheduler)
    broker.pass_time(10)
    broker.losing = 3
    pauses = [wait_s for _ in range(20) if 0 < (wait_s := scheduler.tick()) < 9]
    assert 3 == len(pauses)
    assert [["x"], ["y"]] == sorted(broker.sent())
    broker.pass_time(10)
    run_due(scheduler)
    assert 4 == len(broker.sent())


def test_a_run_that_was_sent_after_all_does_not_delay_the_next(broker: BrokerHere) -> None:
    """Its confirmation was lost, and it is found sent when the clock has changed: the next comes in time."""
    scheduler = beat(app_on(broker, {"e": every(10, "x")}))
    run_due(scheduler)
    broker.pass_time(10)
    broker.losing = 1
    scheduler.tick()
    broker.set_clock(NOON + timedelta(hours=1))
    broker.pass_time(5)
    run_due(scheduler)
    assert 1 == len(broker.sent())
    broker.pass_time(6)
    run_due(scheduler)
    assert 2 == len(broker.sent())


def test_a_broker_that_is_away_is_waited_for(broker: BrokerHere, caplog: pytest.LogCaptureFixture) -> None:
    """At the start as later: pauses up to 5 s, then everything that is due."""
    broker.down = True
    scheduler = beat(app_on(broker, {"e": every(10, "x")}))
    assert [0.5, 1, 2, 4, 5, 5] == [scheduler.tick() for _ in range(6)]
    assert "the broker is down" in caplog.text
    broker.down = False
    run_due(scheduler)
    broker.pass_time(10)
    broker.down = True
    assert 0.5 == scheduler.tick()
    broker.down = False
    broker.restart()
    run_due(scheduler)
    assert [["x"]] == broker.sent()


def test_a_full_queue_delays_a_run(caplog: pytest.LogCaptureFixture) -> None:
    """A run that the broker refuses is tried again, and not counted."""
    broker = BrokerHere(queue_limit=1)
    scheduler = beat(app_on(broker, {"e": every(10, "x")}))
    run_due(scheduler)
    for runs in (1, 1, 1):
        broker.pass_time(10)
        run_due(scheduler)
        assert runs == len(broker.sent())
    assert "QueueFull" in caplog.text
    assert 1 == broker.ask("periodic")[0]["total"]
