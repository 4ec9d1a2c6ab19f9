"""Schedules: when a periodic task is due."""

from __future__ import annotations

import pickle
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from emq_compat.celery_shim import Celery
from emq_compat.shim.schedules.cron import crontab
from emq_compat.shim.schedules.fields import ParseException, crontab_parser
from emq_compat.shim.schedules.interval import schedule
from emq_compat.shim.schedules.maybe import maybe_schedule

pytestmark = pytest.mark.unit
NOON = datetime(2026, 8, 8, 12, 0, tzinfo=timezone.utc)


def _app(**conf: object) -> Celery:
    app = Celery("sched", set_as_current=False)
    app.conf.update(conf)
    return app


@pytest.mark.parametrize(
    ("field", "count", "least", "values"),
    [
        ("*", 7, 0, {0, 1, 2, 3, 4, 5, 6}),
        ("*/15", 60, 0, {0, 15, 30, 45}),
        ("8-17/2", 24, 0, {8, 10, 12, 14, 16}),
        ("22-4", 24, 0, {22, 23, 0, 1, 2, 3, 4}),
        ("0,8-10", 60, 0, {0, 8, 9, 10}),
        ("mon-fri", 7, 0, {1, 2, 3, 4, 5}),
        ("fri-mon", 7, 0, {5, 6, 0, 1}),
        ("jan,March", 12, 1, {1, 3}),
        ("*/3", 31, 1, set(range(1, 32, 3))),
    ],
)
def test_a_field(field: str, count: int, least: int, values: set[int]) -> None:
    """A field of a crontab names numbers: ranges wrap, steps count from the range's start."""
    assert values == crontab_parser(count, least).parse(field)


@pytest.mark.parametrize("field", ["", "1,", "*/", "1-5/", "-1", "61", "2-99", "*/0", "1/x", "noday"])
def test_a_field_that_says_nothing(field: str) -> None:
    """What can't be read is a ParseException, a number out of range a ValueError."""
    with pytest.raises((ParseException, ValueError)):
        crontab_parser(60).parse(field)


def test_a_day_that_never_comes() -> None:
    """30 February is refused when the crontab is made."""
    with pytest.raises(ValueError, match="no month"):
        crontab(day_of_month="30", month_of_year="2")
    assert {29} == crontab(day_of_month="29", month_of_year="2").day_of_month


@pytest.mark.parametrize(
    ("fields", "after", "at"),
    [
        ({}, "2026-08-08T12:00:30", "2026-08-08T12:01:00"),
        ({"minute": 30}, "2026-08-08T12:30:00", "2026-08-08T13:30:00"),
        ({"minute": 0, "hour": "9,17"}, "2026-08-08T17:00:00", "2026-08-09T09:00:00"),
        ({"minute": 0, "hour": 0, "day_of_week": "sun"}, "2026-08-08T12:00:00", "2026-08-09T00:00:00"),
        ({"minute": 0, "hour": 0, "day_of_week": "sun"}, "2026-08-09T00:00:00", "2026-08-16T00:00:00"),
        ({"minute": 0, "hour": 0, "day_of_month": 31}, "2026-08-31T00:00:00", "2026-10-31T00:00:00"),
        ({"minute": 0, "day_of_month": 29, "month_of_year": 2}, "2026-08-08T12:00:00", "2028-02-29T00:00:00"),
        ({"minute": 9, "hour": 3, "month_of_year": 12}, "2026-12-31T03:09:00", "2027-12-01T03:09:00"),
        ({"minute": 0, "day_of_month": 13, "day_of_week": "fri"}, "2026-08-08T00:00", "2026-11-13T00:00:00"),
    ],
)  # fmt: skip
def test_the_next_time(fields: dict[str, object], after: str, at: str) -> None:
    """The next time is the first minute after the last run that every field names."""
    last = datetime.fromisoformat(after).replace(tzinfo=timezone.utc)
    expected = datetime.fromisoformat(at).replace(tzinfo=timezone.utc)
    due = crontab(nowfun=lambda: last, app=_app(), **fields)  # type: ignore[arg-type]
    assert expected == due.next_after(last)
    assert expected - last == due.remaining_estimate(last)


def test_due_and_when_to_look_again() -> None:
    """A crontab is due once its next time after the last run is over; then look at the time after now."""
    every_quarter = crontab(minute="*/15", nowfun=lambda: NOON + timedelta(minutes=1), app=_app())
    assert (True, 14 * 60) == every_quarter.is_due(NOON - timedelta(minutes=1))
    assert (False, 14 * 60) == every_quarter.is_due(NOON)


def test_a_crontab_counts_in_the_apps_zone() -> None:
    """9 o'clock is the zone's, before and after its change to daylight saving, whose night has 23 hours."""
    zone = ZoneInfo("Europe/Berlin")
    last = datetime(2026, 3, 28, 9, 0, tzinfo=zone)
    due = crontab(minute=0, hour=9, nowfun=lambda: last, app=_app(timezone="Europe/Berlin"))
    assert timedelta(hours=23) == due.remaining_estimate(last)


def test_a_missed_run_is_left_out_after_the_deadline() -> None:
    """beat_cron_starting_deadline: what was missed by more than that many seconds isn't due."""
    for late_s, due in ((30, True), (90, False)):
        now = NOON + timedelta(seconds=late_s)
        noon = crontab(
            minute=0, hour=12, nowfun=lambda now=now: now, app=_app(beat_cron_starting_deadline=60)
        )
        assert due is noon.is_due(NOON - timedelta(days=3)).is_due


def test_a_crontab_by_its_line_and_as_a_pickle() -> None:
    """from_string has cron's order of fields; equal fields make equal crontabs, through pickle, too."""
    assert crontab(minute="*/5", day_of_week=1) == crontab.from_string("*/5 * * * 1")
    assert crontab(minute=5) == pickle.loads(pickle.dumps(crontab(minute=5)))
    assert crontab(minute=5) != crontab(minute=6)
    assert "<crontab: 5 * * * * (m/h/dM/MY/d)>" == repr(crontab(minute=5))


def test_an_interval() -> None:
    """A schedule is due when the interval since the last run is over; relative rounds that down."""
    app = _app()
    minute = schedule(60, nowfun=lambda: NOON, app=app)
    assert (True, 60) == minute.is_due(NOON - timedelta(minutes=2))
    assert (False, 45) == minute.is_due(NOON - timedelta(seconds=15))
    assert ("1.00 minute", 60.0) == (minute.human_seconds, minute.seconds)
    hourly = schedule(3600, relative=True, nowfun=lambda: NOON, app=app)
    assert timedelta(0) == hourly.remaining_estimate(NOON - timedelta(minutes=30))
    assert schedule(60) == schedule(timedelta(minutes=1)) == pickle.loads(pickle.dumps(schedule(60)))


@pytest.mark.parametrize(
    ("given", "error"), [(-5, ValueError), (timedelta(seconds=-1), ValueError), ("5", TypeError)]
)
def test_what_is_no_interval(given: Any, error: type[Exception]) -> None:
    """It is refused where it is given: below nothing an entry would be due without end."""
    with pytest.raises(error, match="interval"):
        schedule(given)


def test_maybe_schedule() -> None:
    """Seconds and timedeltas become schedules; a schedule gets the app."""
    app = _app()
    assert schedule(10) == maybe_schedule(10, app=app) == maybe_schedule(timedelta(seconds=10))
    given = crontab()
    assert given is maybe_schedule(given, app=app)
    assert app is given.app
    assert maybe_schedule(None) is None


def test_lists_may_have_spaces() -> None:
    """``1, 2`` is ``1,2``, in every field."""
    assert crontab("0, 30", day_of_week="mon, wed") == crontab("0,30", day_of_week="mon,wed")


def test_a_zone_that_is_assigned_to_the_app_counts() -> None:
    """app.timezone may be assigned: schedules count in it, and now() is in it."""
    app = _app(timezone="UTC")
    app.timezone = "Europe/Berlin"
    nine = crontab(minute=0, hour=9, nowfun=lambda: NOON, app=app)
    assert timedelta(hours=19) == nine.remaining_estimate(NOON)
    assert ZoneInfo("Europe/Berlin") == app.now().tzinfo
