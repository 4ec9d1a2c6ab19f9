"""Beats and clocks that are changed, by hand and twice a year."""

from __future__ import annotations

import logging
import time
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emq_compat.shim.beat.service import EmbeddedService
from emq_compat.shim.schedules.cron import crontab
from tests.broker.bench import Bench
from tests.processes import wait_until
from tests.shim.beats import MINUTE, NOON, BrokerHere, app_on, beat, every, run_due

pytestmark = pytest.mark.unit


# The clock


def test_a_clock_put_back_repeats_no_minute_and_freezes_no_interval(broker: BrokerHere) -> None:
    """After an hour back a crontab waits for the first minute that is new; an interval goes on as before."""
    scheduler = beat(app_on(broker, {"c": every(crontab(), "c"), "i": every(20, "i")}))
    run_due(scheduler)
    broker.pass_time(61)
    run_due(scheduler)
    assert [["c"], ["i"]] == sorted(broker.sent())
    broker.set_clock(broker.now - timedelta(hours=1))
    for _ in range(6):
        broker.pass_time(10)
        run_due(scheduler)
    assert [["c"], ["i"], ["i"], ["i"], ["i"]] == sorted(broker.sent())
    broker.set_clock(NOON + 2 * MINUTE)
    run_due(scheduler)
    assert 2 == sum(args == ["c"] for args in broker.sent())


def test_a_clock_put_on_makes_no_interval_shorter(broker: BrokerHere) -> None:
    """What a crontab would have sent in the time that was left out comes once; an interval is real time."""
    scheduler = beat(app_on(broker, {"c": every(crontab(), "c"), "i": every(20, "i")}))
    run_due(scheduler)
    broker.pass_time(10)
    broker.set_clock(broker.now + timedelta(hours=5))
    run_due(scheduler)
    assert [["c"]] == broker.sent()
    broker.pass_time(11)
    run_due(scheduler)
    assert [["c"], ["i"]] == sorted(broker.sent())


def test_a_clock_that_is_changed_while_an_entry_is_decided_on(broker: BrokerHere) -> None:
    """A run is that of one reading of the clock: a step back in between repeats nothing."""
    broker.set_clock(NOON - timedelta(seconds=1))
    app = app_on(broker, {"c": every(crontab(), "c")})
    scheduler = beat(app)
    run_due(scheduler)
    broker.set_clock(NOON + timedelta(seconds=1))
    apply_entry = scheduler.apply_entry

    def put_back(entry: Any, producer: Any = None) -> None:
        broker.set_clock(NOON - timedelta(seconds=30))
        apply_entry(entry, producer=producer)

    scheduler.apply_entry = put_back  # type: ignore[method-assign]
    run_due(scheduler)
    broker.set_clock(NOON + timedelta(seconds=5))
    run_due(scheduler)
    assert [["c"]] == broker.sent()


# Anything at all


#: Before Berlin's clock is put on, and before it is put back.
CHANGES = [datetime(2026, month, day, 0, 50, tzinfo=timezone.utc) for month, day in ((3, 29), (10, 25))]


class _Oracle:
    """Knows from the clock alone what must have been sent: each minute once, each interval in real time."""

    def __init__(self, due: crontab, zone: ZoneInfo, now: datetime) -> None:
        self.due, self.zone = due, zone
        self.next_at = due.next_after(now.astimezone(zone))
        self.runs = 0

    def look(self, now: datetime) -> int:
        """Return how many runs there must be once a beat has looked at this time."""
        if self.next_at <= now:
            self.runs += 1
            while self.next_at <= now:
                self.next_at = self.due.next_after(self.next_at)
        return self.runs


_steps = st.lists(
    st.tuples(
        st.sampled_from(["pass", "pass", "put", "kill", "lose", "away"]),
        st.integers(1, 90) | st.integers(-5000, 5000),
        st.sampled_from([0, 1]),
    ),
    max_size=40,
)


@given(start=st.sampled_from(CHANGES), steps=_steps, every_s=st.integers(5, 100))
@settings(max_examples=200, deadline=None)
def test_whatever_happens_no_run_is_missed_or_sent_twice(
    start: datetime, steps: list[tuple[str, int, int]], every_s: int
) -> None:
    """Two beats, kills, lost answers, the broker away, the clock put to and fro over a change."""
    broker = BrokerHere()
    broker.set_clock(start)
    lines = {"all": crontab(), "half": crontab(30), "two": crontab("*/10", 2)}
    entries = {name: every(line, name) for name, line in lines.items()}
    entries["interval"] = every(every_s, "interval")
    app = app_on(broker, entries, timezone="Europe/Berlin")
    beats = [beat(app), beat(app)]
    for one in beats:
        run_due(one)
    zone = ZoneInfo("Europe/Berlin")
    oracles = {name: _Oracle(line, zone, broker.now) for name, line in lines.items()}
    intervals, sent_at = 0, broker.bench.mono
    for what, number, which in steps:
        if what == "pass":
            broker.pass_time(abs(number) % 90 + 1)
        elif what == "put":
            broker.set_clock(broker.now + timedelta(seconds=number))
        elif what == "kill":
            beats[which] = beat(app)
        elif what == "lose":
            broker.losing = 1
        else:
            broker.down = True
            assert beats[which].tick() > 0
            broker.down = False
        for one in beats[which:] + beats[:which]:
            for _ in range(200):
                if one.tick() > 5:
                    break
        for name, oracle in oracles.items():
            assert oracle.look(broker.now) == broker.sent().count([name]), (what, name)
        if broker.bench.mono - sent_at >= every_s - 0.001:
            intervals, sent_at = intervals + 1, broker.bench.mono
        assert intervals == broker.sent().count(["interval"]), what
    while Bench.opened:
        Bench.opened.pop().store.close()


def test_a_sleeping_service_sees_that_the_clock_was_changed(caplog: pytest.LogCaptureFixture) -> None:
    """It sleeps for minutes, and looks at the clock once a second: what is due now is sent now."""
    caplog.set_level(logging.DEBUG)
    broker = BrokerHere()
    broker.set_clock(NOON)
    app = app_on(broker, {"e": every(crontab(0, 15), "x")})
    start = time.monotonic()
    app.now = lambda: broker.now + timedelta(seconds=time.monotonic() - start)  # type: ignore[method-assign]
    embedded = EmbeddedService(app, thread=True)
    embedded.start()
    wait_until(lambda: "beat: Waking up" in caplog.text)
    broker.set_clock(NOON + timedelta(hours=4))
    wait_until(lambda: [["x"]] == broker.sent(), 10)
    embedded.stop()
    embedded.join(5)
    assert "the clock was changed" in caplog.text
