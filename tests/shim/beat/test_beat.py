"""Beats: what is sent when, by one or several, across restarts, lost answers and changes of the clock."""

from __future__ import annotations

import logging
import shelve
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

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
from tests.processes import wait_until
from tests.shim.beats import MINUTE, NOON, BrokerHere, app_on, beat, every, run_due

pytestmark = pytest.mark.unit


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


class _Broken(BaseSchedule):
    """A project's schedule that can't say when it is due."""

    def is_due(self, last_run_at: datetime) -> Any:
        raise RuntimeError("no")

    def __repr__(self) -> str:
        return "<broken>"


def test_the_broker_is_told_when_the_next_run_is(broker: BrokerHere) -> None:
    """Of a new entry, and of one that was sent; not of one whose schedule doesn't tell."""

    def next_in_s() -> dict[str, float | None]:
        told = {row["name"]: row["next_at"] for row in broker.ask("periodic")}
        return {name: at and at - time.time() for name, at in told.items()}

    scheduler = beat(app_on(broker, {"e": every(20), "broken": every(_Broken(app=None))}))
    scheduler.tick()
    assert {"e": pytest.approx(20, abs=2), "broken": None} == next_in_s()
    broker.pass_time(30)
    scheduler.tick()
    assert [[]] == broker.sent()
    assert pytest.approx(20, abs=2) == next_in_s()["e"]


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
    service.watch.turned_at = time.monotonic() - 100
    stuck = []
    for longest_s, setting in ((None, None), (5, None), (60, None), (60, 90), (60, 0)):
        service.effective_max_interval = longest_s
        app.conf.beat_remote_control_max_tick_age = setting
        stuck.append(answering.is_stuck())
    assert [False, True, False, True, False] == stuck


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
