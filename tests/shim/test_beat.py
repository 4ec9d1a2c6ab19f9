"""Beats: what is sent when, by one or several, across restarts, lost answers and changes of the clock."""

from __future__ import annotations

import logging
import shelve
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emq_compat.celery_shim import Celery
from emq_compat.shim import signals
from emq_compat.shim.beat.entry import BeatLazyFunc, ScheduleEntry
from emq_compat.shim.beat.persistent import PersistentScheduler
from emq_compat.shim.beat.remote import Answering
from emq_compat.shim.beat.scheduler import Scheduler
from emq_compat.shim.beat.service import EmbeddedService, Service
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.schedules.base import BaseSchedule, schedstate
from emq_compat.shim.schedules.cron import crontab
from emq_compat.shim.schedules.interval import schedule
from tests.broker.bench import Bench
from tests.processes import wait_until
from tests.shim.beats import MINUTE, BrokerHere, app_on, beat, every, run_due

pytestmark = pytest.mark.unit
NOON = datetime(2026, 8, 8, 12, 0, tzinfo=timezone.utc)


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while Bench.opened:
        Bench.opened.pop().store.close()


@pytest.fixture
def broker() -> BrokerHere:
    here = BrokerHere()
    here.set_clock(NOON)
    return here


# One beat


def test_an_entry_is_sent_when_its_interval_is_over(broker: BrokerHere) -> None:
    """The first run comes an interval after the entry was added, the next ones an interval after that."""
    scheduler = beat(app_on(broker, {"e": every(20, "x")}))
    for seconds, runs in ((0, 0), (19, 0), (2, 1), (10, 1), (11, 2)):
        broker.pass_time(seconds)
        run_due(scheduler)
        assert runs == len(broker.sent())
    assert [["x"], ["x"]] == broker.sent()
    assert 2 == scheduler.schedule["e"].total_run_count


def test_a_crontab_is_sent_in_each_minute_that_it_names(broker: BrokerHere) -> None:
    """Once a minute, however often the beat looks; the tick says when to look again."""
    scheduler = beat(app_on(broker, {"e": every(crontab("*/2"), "x")}))
    for half_minute in range(1, 13):
        broker.set_clock(NOON + half_minute * timedelta(seconds=30))
        run_due(scheduler)
        assert half_minute // 4 == len(broker.sent())
    broker.set_clock(NOON + timedelta(minutes=6, seconds=50))
    assert pytest.approx(70) == scheduler.tick()


def test_many_are_due_at_once_and_all_are_sent(broker: BrokerHere) -> None:
    """One a tick, none is left behind."""
    scheduler = beat(app_on(broker, {f"e{i}": every(crontab(), i) for i in range(50)}))
    run_due(scheduler)
    broker.set_clock(NOON + MINUTE)
    run_due(scheduler)
    assert list(range(50)) == sorted(args[0] for args in broker.sent())


def test_lazy_arguments_are_computed_for_each_run(broker: BrokerHere) -> None:
    """BeatLazyFunc in args and kwargs; options, and the mark of beat's own, are the message's."""
    counted = iter(range(9))
    entry = every(10, BeatLazyFunc(lambda: next(counted)), options={"queue": "q", "priority": 7})
    scheduler = beat(app_on(broker, {"e": entry}))
    for _ in range(2):
        broker.pass_time(10)
        run_due(scheduler)
    assert [[0], [1]] == broker.sent("q")


def test_an_entry_that_cannot_be_published_stops_no_other(
    broker: BrokerHere, caplog: pytest.LogCaptureFixture
) -> None:
    """Its run is left out, with an error that names it; the next one is tried."""

    def broken() -> None:
        raise LookupError("no such customer")

    entries = {"bad": every(10, BeatLazyFunc(broken)), "big": every(10, "x" * (5 << 20))}
    entries["good"] = every(10, 1)
    scheduler = beat(app_on(broker, entries))
    broker.pass_time(10)
    run_due(scheduler)
    assert [[1]] == [args for args in broker.sent() if args == [1]]
    assert "Couldn't apply scheduled task bad: no such customer" in caplog.text
    broker.pass_time(10)
    run_due(scheduler)
    assert 2 == sum(args == [1] for args in broker.sent())


def test_a_schedule_of_the_projects_own(broker: BrokerHere, caplog: pytest.LogCaptureFixture) -> None:
    """Any class with is_due counts; one that raises is logged and stops no other."""

    class Odd(BaseSchedule):
        def is_due(self, last_run_at: datetime) -> schedstate:
            return schedstate(self.now().minute % 2 == 1 and last_run_at.minute != self.now().minute, 20)

    class Broken(BaseSchedule):
        def is_due(self, last_run_at: datetime) -> schedstate:
            raise ZeroDivisionError

    scheduler = beat(app_on(broker, {"odd": every(Odd(), "x"), "broken": every(Broken(), "y")}))
    for half_minute in range(1, 9):
        broker.set_clock(NOON + half_minute * timedelta(seconds=30))
        run_due(scheduler)
    assert [["x"], ["x"]] == broker.sent()
    assert "the next run of 'broken' can't be told" in caplog.text


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"task": "t", "schedule": "every day"}, "'every day'"),
        ({"task": "t"}, "'schedule'"),
        ({"schedule": 3}, "its 'task' is None"),
        ({"task": 5, "schedule": 3}, "its 'task' is 5"),
        ({"task": "t", "schedule": -5}, "-5 s"),
        ({"task": "t", "schedule": 3, "arguments": [1]}, "arguments"),
        ("t", "'e'"),
    ],
)
def test_an_entry_that_cannot_be_one_is_named(broker: BrokerHere, entry: Any, named: str) -> None:
    """What is wrong with beat_schedule is told at the start, with the entry's name."""
    with pytest.raises(ImproperlyConfigured, match="the entry 'e' of the schedule") as told:
        beat(app_on(broker, {"e": entry}))
    assert named in str(told.value)


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


# Schedulers of a project's own


def test_a_scheduler_that_keeps_entries_itself(broker: BrokerHere) -> None:
    """Scheduler's subclass has its own entries, its own class of them, and is ticked as Celery ticks it."""

    class Row(ScheduleEntry):
        def __next__(self) -> ScheduleEntry:
            rows.append(self.name)
            return super()._next_instance()

    class Table(Scheduler):
        Entry = Row

        def setup_schedule(self) -> None:
            self.install_default_entries(self.schedule)
            self.update_from_dict(self.app.conf.beat_schedule)

        def sync(self) -> None:
            rows.append("synced")

    rows: list[str] = []
    published: list[Any] = []
    app = app_on(broker, {"e": every(10, "x")})
    broker.publish = published.append  # type: ignore[attr-defined]
    scheduler = Table(app=app, schedule_filename="unused", max_interval=3)
    assert 3 == scheduler.tick()
    broker.pass_time(10)
    assert 0 == scheduler.tick()
    assert ["e", "synced"] == rows
    assert 1 == len(published)
    assert scheduler.tick() > 0


def test_the_service_finds_a_scheduler_by_its_path(broker: BrokerHere) -> None:
    """A class, its path, Celery's names for ours; what can't be imported is named."""
    app = app_on(broker, {}, beat_scheduler="celery.beat:PersistentScheduler")
    assert isinstance(Service(app).get_scheduler(lazy=True), PersistentScheduler)
    path = f"{Scheduler.__module__}:Scheduler"
    for way in (path, path.replace(":", "."), Scheduler, "celery.beat.Scheduler"):
        assert Scheduler is type(Service(app, scheduler_cls=way).get_scheduler(lazy=True))
    with pytest.raises(ImproperlyConfigured, match=r"'nowhere\.at:All' can't be imported"):
        Service(app, scheduler_cls="nowhere.at:All").get_scheduler()


def test_entries_may_be_ready_made(broker: BrokerHere) -> None:
    """A ScheduleEntry in beat_schedule is taken as it is."""
    entry = ScheduleEntry(name="e", task="t", schedule=schedule(10), args=("x",), app=app_on(broker, {}))
    scheduler = beat(app_on(broker, {"e": entry}))
    run_due(scheduler)
    broker.pass_time(10)
    run_due(scheduler)
    assert [["x"]] == broker.sent()


# Files


class _Stock(BrokerHere):
    stock = True

    def __init__(self) -> None:
        super().__init__()
        self.published: list[Any] = []

    def publish(self, message: Any) -> None:
        self.published.append(message)


def test_beside_a_stock_router_a_file_has_the_last_runs(tmp_path: Path) -> None:
    """Celery's file: a restart goes on from it; a removed entry is gone from it; another zone begins anew."""
    router = _Stock()
    router.set_clock(NOON)
    file = str(tmp_path / "celerybeat-schedule")

    def restarted(zone: str = "UTC") -> PersistentScheduler:
        app = app_on(router, {"e": {"task": "proj.t", "schedule": 20}}, timezone=zone)
        return beat(app, schedule_filename=file)

    for runs in (0, 0, 0, 1, 1, 1, 2):
        router.pass_time(7)
        scheduler = restarted()
        run_due(scheduler)
        scheduler.close()
        assert runs == len(router.published)
    with shelve.open(file) as written:
        assert 2 == written["entries"]["e"].total_run_count
    scheduler = restarted("Europe/Berlin")
    assert 0 == scheduler.schedule["e"].total_run_count
    scheduler.close()


def test_a_file_that_cannot_be_read_is_begun_anew(tmp_path: Path) -> None:
    """Beside a stock router; the error is logged."""
    file = tmp_path / "celerybeat-schedule"
    for suffix in ("", ".db", ".dat", ".dir"):
        file.with_name(file.name + suffix).write_bytes(b"\x00nonsense" * 100)
    scheduler = beat(app_on(_Stock(), {"e": every(20, "x")}), schedule_filename=str(file))
    assert {"e"} == set(scheduler.schedule)
    scheduler.close()


def test_last_runs_are_taken_over_from_celerys_file(
    broker: BrokerHere, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first beat over emq:// goes on from the file of Celery's beat, and later ones don't look at it."""
    caplog.set_level(logging.INFO)
    file = str(tmp_path / "celerybeat-schedule")
    app = app_on(broker, {"e": every(100, "x")})
    with shelve.open(file) as written:
        old = {"schedule": schedule(100), "last_run_at": NOON - timedelta(seconds=90), "total_run_count": 41}
        written["entries"] = {"e": ScheduleEntry(name="e", task="t", app=app, **old)}
    scheduler = beat(app, schedule_filename=file)
    run_due(scheduler)
    broker.pass_time(11)
    run_due(scheduler)
    assert [["x"]] == broker.sent()
    assert 42 == broker.ask("periodic")[0]["total"]
    assert f"last runs taken over from the file {file}" in caplog.text


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


# From code


def test_entries_are_added_by_receivers_connected_after_settings_were_set(broker: BrokerHere) -> None:
    """app.conf is set at the top of a module, on_after_configure connected below: both are sent."""
    app = app_on(broker, {"set": every(10, "set")})

    @app.on_after_configure.connect
    def add(sender: Any, **_: Any) -> None:
        sender.add_periodic_task(10, sender.signature("t", args=("added",)), name="added")

    scheduler = beat(app)
    run_due(scheduler)
    broker.pass_time(10)
    run_due(scheduler)
    assert [["added"], ["set"]] == sorted(broker.sent())


# The loop


def test_a_service_in_a_thread_sends_and_stops() -> None:
    """EmbeddedService(thread=True) runs beside other code; beat_init is sent; stop waits for its end."""
    began: list[Any] = []
    with Celery("beside", broker="memory://", set_as_current=False) as app:
        app.conf.beat_schedule = {"e": {"task": "proj.t", "schedule": 0.05}}
        embedded = EmbeddedService(app, thread=True)
        receiver = signals.beat_init.connect(lambda sender, **_: began.append(sender), weak=False)
        try:
            embedded.start()
            wait_until(lambda: sum(row["waiting"] for row in app.client.ask("queues")) >= 3)
            embedded.stop()
        finally:
            signals.beat_init.disconnect(receiver)
        embedded.join(5)
        assert not embedded.is_alive()
        assert [embedded.service] == began


def test_a_beat_that_stands_still_is_stuck(broker: BrokerHere) -> None:
    """Two of the longest sleeps, a minute at least, or as the setting says; 0: never."""
    app = app_on(broker, {})
    service = Service(app, remote_control=True)
    answering = Answering(service, "clock@here")
    service.moved_at = time.monotonic() - 100
    stuck = []
    for longest_s, setting in ((None, None), (5, None), (60, None), (60, 90), (60, 0)):
        service.effective_max_interval = longest_s
        app.conf.beat_remote_control_max_tick_age = setting
        stuck.append(answering.is_stuck())
    assert [False, True, False, True, False] == stuck


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


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (None, "beats"),
        ("celerybeat-schedule", "beats"),
        ("/var/run/here/celerybeat-schedule", "beats"),
        ("nightly", "beats:nightly"),
        ("/srv/there/nightly", "beats:nightly"),
    ],
)
def test_which_schedule_a_beat_runs(broker: BrokerHere, given: str | None, name: str) -> None:
    """The app's, or the one that -s names; the folder of a file makes no difference."""
    run_due(beat(app_on(broker, {"e": every(10)}), schedule_filename=given))
    assert [name] == [row["schedule"] for row in broker.ask("periodic")]
