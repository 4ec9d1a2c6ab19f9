"""Crontabs where the clock is put on and back: recorded instants, and an oracle that walks real minutes."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emq_compat.celery_shim import Celery
from emq_compat.shim.schedules.cron import crontab
from emq_compat.shim.schedules.interval import schedule
from emq_compat.shim.schedules.solar import solar
from emq_compat.shim.surface.times import LocalTimezone
from emq_compat.shim.zones import LocalZone
from tests.real_minutes import minutes_named

pytestmark = pytest.mark.unit
MINUTE = timedelta(minutes=1)


def _app(**conf: object) -> Celery:
    app = Celery("zones", set_as_current=False)
    app.conf.update(conf)
    return app


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def _runs(line: str, zone: str, start: str, end: str) -> list[str]:
    due = crontab.from_string(line)
    at, until = _utc(start).astimezone(ZoneInfo(zone)), _utc(end)
    found = []
    while (at := due.next_after(at)) < until:
        found.append(f"{at.astimezone(timezone.utc):%m-%d %H:%M}")
    return found


#: (line, zone, from, until, the runs), all in UTC, as the zones' rules have them.
INSTANTS = [
    # Berlin, 2026-03-29: 02:00 CET → 03:00 CEST at 01:00 UTC.
    ("30 2 * * *", "Europe/Berlin", "2026-03-28", "2026-03-31", ["03-28 01:30", "03-29 01:00", "03-30 00:30"]),  # noqa: E501
    ("*/20 2 * * *", "Europe/Berlin", "2026-03-29", "2026-03-30", ["03-29 01:00"]),
    ("0 2,3 * * *", "Europe/Berlin", "2026-03-29", "2026-03-30", ["03-29 01:00"]),
    ("30 * * * *", "Europe/Berlin", "2026-03-29", "2026-03-29T03:00", ["03-29 00:30", "03-29 01:30", "03-29 02:30"]),  # noqa: E501
    # Berlin, 2026-10-25: 03:00 CEST → 02:00 CET at 01:00 UTC.
    ("30 2 * * *", "Europe/Berlin", "2026-10-24T12", "2026-10-26T12", ["10-25 00:30", "10-26 01:30"]),
    ("0 3 * * *", "Europe/Berlin", "2026-10-25", "2026-10-26", ["10-25 02:00"]),
    ("30 * * * *", "Europe/Berlin", "2026-10-25", "2026-10-25T03", ["10-25 00:30", "10-25 01:30", "10-25 02:30"]),  # noqa: E501
    ("0 */2 * * *", "Europe/Berlin", "2026-10-24T21", "2026-10-25T04", ["10-24 22:00", "10-25 00:00", "10-25 03:00"]),  # noqa: E501
    # New York, 2026-03-08 07:00 UTC and 2026-11-01 06:00 UTC.
    ("15 2 * * *", "America/New_York", "2026-03-08", "2026-03-10", ["03-08 07:00", "03-09 06:15"]),
    ("15 1 * * *", "America/New_York", "2026-11-01", "2026-11-03", ["11-01 05:15", "11-02 06:15"]),
    ("15 * * * *", "America/New_York", "2026-11-01T05", "2026-11-01T08", ["11-01 05:15", "11-01 06:15", "11-01 07:15"]),  # noqa: E501
    # Lord Howe: half an hour; 2026-10-03 15:30 UTC on (02:00 → 02:30), 2026-04-04 15:00 UTC back (02:00 → 01:30).  # noqa: E501
    ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03", "2026-10-05", ["10-03 15:30", "10-04 15:15"]),
    ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04", "2026-04-06", ["04-04 14:45", "04-05 15:15"]),
    ("45 * * * *", "Australia/Lord_Howe", "2026-04-04T14", "2026-04-04T17", ["04-04 14:45", "04-04 15:15", "04-04 16:15"]),  # noqa: E501
    # Cairo: midnight itself doesn't exist on 2026-04-24 (22:00 UTC the day before).
    ("0 0 * * *", "Africa/Cairo", "2026-04-22", "2026-04-25", ["04-22 22:00", "04-23 22:00", "04-24 21:00"]),
    # Apia left out the whole of 2011-12-30.
    ("0 10 30 12 *", "Pacific/Apia", "2011-12-29", "2012-12-30", ["12-30 10:00", "12-29 20:00"]),
    # St. John's, 1990-10-28: 00:01 → 23:01 of the day before, 02:31 UTC.
    ("0 0 * * *", "America/St_Johns", "1990-10-28", "1990-10-30", ["10-28 02:30", "10-29 03:30"]),
    ("*/30 * * * sat", "America/St_Johns", "1990-10-28T02:10", "1990-10-28T12:00", ["10-28 03:00"]),
    ("30 23 * * sat", "America/St_Johns", "1990-10-27", "1990-10-29", ["10-28 02:00"]),
    # Nothing changes: 29 February, both day fields.
    ("0 12 29 2 *", "Europe/Berlin", "2026-01-01", "2033-01-01", ["02-29 11:00", "02-29 11:00"]),
    ("0 12 29 2 mon", "UTC", "2026-01-01", "2073-01-01", ["02-29 12:00", "02-29 12:00"]),
    ("0 0 13 * fri", "UTC", "2026-01-01", "2026-12-31", ["02-13 00:00", "03-13 00:00", "11-13 00:00"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "zone", "start", "end", "runs"), INSTANTS, ids=[f"{row[1]}-{row[0]}" for row in INSTANTS]
)
def test_recorded_instants(line: str, zone: str, start: str, end: str, runs: list[str]) -> None:
    """A time that doesn't exist comes at the gap's end, one that comes twice once; every hour is every hour."""  # noqa: E501
    assert runs == _runs(line, zone, start, end)


#: Zone → times just before its changes.
CHANGES = [
    ("Europe/Berlin", "2026-03-28T20:00"), ("Europe/Berlin", "2026-10-24T20:00"),
    ("America/New_York", "2026-03-08T02:00"), ("America/New_York", "2026-11-01T01:00"),
    ("Australia/Lord_Howe", "2026-04-04T09:00"), ("Australia/Lord_Howe", "2026-10-03T09:00"),
    ("America/St_Johns", "1990-10-27T20:00"), ("America/St_Johns", "1990-04-01T00:00"),
    ("America/Sao_Paulo", "2018-11-03T20:00"), ("America/Sao_Paulo", "2018-02-17T20:00"),
    ("Africa/Cairo", "2026-04-23T10:00"), ("Africa/Casablanca", "2026-02-14T20:00"),
    ("Antarctica/Troll", "2026-03-28T20:00"), ("Asia/Kolkata", "2026-05-05T00:00"),
]  # fmt: skip
_minutes = st.one_of(st.just(set(range(60))), st.sets(st.integers(0, 59), min_size=1, max_size=4))
_hours = st.one_of(st.just(set(range(24))), st.sets(st.integers(0, 4) | st.integers(0, 23), min_size=1))
_days = st.one_of(st.just(set(range(7))), st.sets(st.integers(0, 6), min_size=1, max_size=4))


@given(
    change=st.sampled_from(CHANGES), ahead=st.integers(0, 600), minute=_minutes, hour=_hours, weekday=_days
)
@settings(max_examples=300, deadline=None)
def test_the_runs_are_those_of_a_walk_through_real_minutes(
    change: tuple[str, str], ahead: int, minute: set[int], hour: set[int], weekday: set[int]
) -> None:
    """Whatever the fields, next_after gives just the minutes that somebody who watches the clock finds."""
    zone, start = ZoneInfo(change[0]), _utc(change[1]) + ahead * MINUTE
    due = crontab(minute, hour, weekday)
    length = 26 * 60
    expected = list(minutes_named(due, zone, start, length))
    at, found = start.astimezone(zone), []
    end = start + length * MINUTE
    while len(found) <= len(expected):
        at = due.next_after(at)
        if at.astimezone(timezone.utc) > end:
            break
        found.append(at.astimezone(timezone.utc))
    assert expected == found


@given(
    change=st.sampled_from(CHANGES),
    ahead_s=st.floats(0, 90_000, allow_nan=False),
    ago_s=st.floats(-90_000, 90_000, allow_nan=False),
    kind=st.sampled_from(["cron", "interval", "relative", "nothing"]),
    every_s=st.floats(0.001, 100_000),
)
@settings(max_examples=150, deadline=None)
def test_when_to_look_again_is_always_later(
    change: tuple[str, str], ahead_s: float, ago_s: float, kind: str, every_s: float
) -> None:
    """is_due's second value is a number above zero; looking again just then finds it due, unless it was."""
    zone, now = change[0], _utc(change[1]) + timedelta(seconds=ahead_s)
    clock = [now]
    app = _app(timezone=zone)
    kinds = {
        "cron": lambda: crontab("*/7", "1-3", nowfun=lambda: clock[0], app=app),
        "interval": lambda: schedule(every_s, nowfun=lambda: clock[0], app=app),
        "relative": lambda: schedule(every_s, relative=True, nowfun=lambda: clock[0], app=app),
        "nothing": lambda: schedule(0, nowfun=lambda: clock[0], app=app),
    }
    due = kinds[kind]()
    last = now - timedelta(seconds=ago_s)
    is_due, next_s = due.is_due(last)
    assert 0 < next_s < 100 * 366 * 86_400
    if not is_due:
        clock[0] = now + timedelta(seconds=next_s, microseconds=1)
        assert due.is_due(last).is_due


def test_a_zone_of_the_settings_counts_from_the_moment_it_is_set() -> None:
    """A schedule that has been used follows a change of the setting timezone."""
    app = _app(timezone="Europe/Berlin")
    now = _utc("2026-06-01T05:00")
    nine = crontab(0, 9, nowfun=lambda: now, app=app)
    assert timedelta(hours=2) == nine.remaining_estimate(now)
    app.conf.timezone = "America/New_York"
    assert timedelta(hours=8) == nine.remaining_estimate(now)


def test_a_naive_clock_is_utc() -> None:
    """nowfun and the last run may be naive: they are times of UTC, whatever the zone of the fields."""
    naive = datetime(2026, 6, 1, 5, 0)  # noqa: DTZ001
    nine = crontab(0, 9, nowfun=lambda: naive, app=_app(timezone="Europe/Berlin"))
    assert timedelta(hours=2) == nine.remaining_estimate(naive)
    assert (False, 7200) == nine.is_due(naive - timedelta(hours=1))
    assert (True, 7200) == nine.is_due(naive - timedelta(days=1))


@pytest.mark.parametrize("zone", [LocalTimezone(), LocalZone()], ids=["celery.utils.time", "settings"])
def test_this_machines_zone_knows_the_second_pass_of_an_hour(
    zone: LocalTimezone | LocalZone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without enable_utc fields are the machine's: both passes of an hour are told apart."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        for hour in (0, 1):
            at = datetime(2026, 10, 25, hour, 30, tzinfo=timezone.utc)
            assert (2, at) == (at.astimezone(zone).hour, at.astimezone(zone).astimezone(timezone.utc))
        every = crontab(30, app=_app(enable_utc=False, timezone=None))
        every.nowfun = lambda: _utc("2026-10-25T01:00")
        assert (False, 1800) == every.is_due(_utc("2026-10-25T00:31"))
        fixed = crontab(30, 2, app=_app(enable_utc=False, timezone=None))
        fixed.nowfun = every.nowfun
        assert (False, 24 * 3600 + 1800) == fixed.is_due(_utc("2026-10-25T00:30:01"))
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_deadline_counts_the_latest_missed_run() -> None:
    """beat_cron_starting_deadline looks at the last run that was missed, not at the first; its end counts."""
    now = _utc("2026-06-01T12:00")
    app = _app(beat_cron_starting_deadline=90)
    every_minute = crontab(nowfun=lambda: now, app=app)
    assert (True, 60) == every_minute.is_due(now - timedelta(days=3))
    for late_s, due in ((90, True), (91, False)):
        clock = now + timedelta(seconds=late_s)
        noon = crontab(0, 12, nowfun=lambda clock=clock: clock, app=app)
        assert due is noon.is_due(now - timedelta(days=3)).is_due


# The sun


def test_the_sun_at_recorded_times() -> None:
    """Sunrise and sunset in Berlin are those of the almanac, to the minute, in real time."""
    pytest.importorskip("ephem")
    now = _utc("2026-06-21T00:00")
    rises = solar("sunrise", 52.52, 13.40, nowfun=lambda: now, app=_app(timezone="Europe/Berlin"))
    sets = solar("sunset", 52.52, 13.40, nowfun=lambda: now, app=_app())
    assert abs(_utc("2026-06-21T02:43") - (now + rises.remaining_estimate(now))) < 2 * MINUTE
    assert abs(_utc("2026-06-21T19:33") - (now + sets.remaining_estimate(now))) < 2 * MINUTE


@pytest.mark.parametrize("event", ["sunset", "sunrise", "solar_noon", "dusk_astronomical", "dawn_civil"])
def test_an_event_of_the_sun_comes_once(event: str) -> None:
    """Right behind an event the next one is a day away, not the same one found a little later."""
    pytest.importorskip("ephem")
    here = solar(event, 40.0, -3.7, app=_app())
    at = here.next_after(_utc("2026-03-01T00:00"))
    assert at is not None
    for behind_us in (0, 1, 20_000, 300_000):
        following = here.next_after(at + timedelta(microseconds=behind_us))
        assert following is not None
        assert timedelta(hours=23) < following - at < timedelta(hours=25)


def test_where_the_sun_does_not_set_nothing_is_due() -> None:
    """In the polar day the next sunset is that of July; nothing runs in the meantime."""
    pytest.importorskip("ephem")
    now = _utc("2026-06-01T00:00")
    tromso = solar("sunset", 69.65, 18.96, nowfun=lambda: now, app=_app())
    assert timedelta(days=50) < tromso.remaining_estimate(now - timedelta(days=3)) < timedelta(days=60)
    assert not tromso.is_due(now - timedelta(days=3)).is_due
