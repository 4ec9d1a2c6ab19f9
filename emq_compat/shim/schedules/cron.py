"""``crontab``: each minute that all five fields name, in the app's time zone.

Where the zone's clock is put on or back:

- With some hours named (fewer than all 24) a line names times of the clock on the wall. One that doesn't
  exist that day comes at the end of the gap, once however many fell into it; one that comes twice counts
  once, the first time.
- With every hour it names minutes of real time: each one whose reading the fields name, the second pass of an
  hour that comes twice included.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from datetime import datetime, timedelta, tzinfo
from typing import Any

from emq_compat.shim.schedules.base import BaseSchedule, schedstate
from emq_compat.shim.schedules.fields import Cronspec, crontab_parser
from emq_compat.shim.surface.times import timezone

__all__ = ["crontab"]

#: Days looked through for the next time: 29 February may be eight years away, on a given weekday forty.
_DAYS_AHEAD = 40 * 366
_LONGEST_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_HOURS = 24
_MINUTE = timedelta(minutes=1)


class crontab(BaseSchedule):  # noqa: N801 - Celery's name
    """Like a line of cron: due in each minute that all five fields name, in the app's time zone.

    Raises:
        ParseException, ValueError: a field can't be read, or the fields name a day that never comes.
    """

    def __init__(
        self,
        minute: Cronspec = "*",
        hour: Cronspec = "*",
        day_of_week: Cronspec = "*",
        day_of_month: Cronspec = "*",
        month_of_year: Cronspec = "*",
        **kwargs: Any,
    ) -> None:
        given: tuple[Cronspec | None, ...] = (minute, hour, day_of_week, day_of_month, month_of_year)
        fields = ["*" if field is None else field for field in given]
        self._orig_minute, self._orig_hour, self._orig_day_of_week = fields[:3]
        self._orig_day_of_month, self._orig_month_of_year = fields[3:]
        self._orig_kwargs = kwargs
        self.hour = self._expand_cronspec(self._orig_hour, 24)
        self.minute = self._expand_cronspec(self._orig_minute, 60)
        self.day_of_week = self._expand_cronspec(self._orig_day_of_week, 7)
        self.day_of_month = self._expand_cronspec(self._orig_day_of_month, 31, 1)
        self.month_of_year = self._expand_cronspec(self._orig_month_of_year, 12, 1)
        if min(self.day_of_month) > max(_LONGEST_MONTH[month - 1] for month in self.month_of_year):
            raise ValueError("it never occurs: no month of month_of_year has a day of day_of_month")
        super().__init__(**kwargs)

    @classmethod
    def from_string(cls, crontab: str) -> crontab:
        """Return a crontab from the five fields of a line of cron: minute, hour, day, month, weekday."""
        minute, hour, day_of_month, month_of_year, day_of_week = crontab.split()
        return cls(minute, hour, day_of_week, day_of_month, month_of_year)

    @staticmethod
    def _expand_cronspec(cronspec: Cronspec, max_: int, min_: int = 0) -> set[int]:
        if isinstance(cronspec, int):
            values = {cronspec}
        elif isinstance(cronspec, str):
            values = crontab_parser(max_, min_).parse(cronspec)
        else:
            values = set(cronspec)
        for number in values:
            if not min_ <= number < min_ + max_:
                raise ValueError(
                    f"Invalid crontab pattern. Valid range is {min_}-{min_ + max_ - 1}. {number!r} was found."
                )
        if not values:
            raise ValueError("it never occurs: a field of a crontab names no value")
        return values

    def next_after(self, moment: datetime) -> datetime:
        """Return the first time after an aware one, in its zone.

        Raises:
            RuntimeError: there is none in the next forty years.
        """
        zone = moment.tzinfo
        assert zone is not None
        return self._following(moment.astimezone(timezone.utc), zone).astimezone(zone)

    def _following(self, after: datetime, zone: tzinfo) -> datetime:
        return (self._next_minute if len(self.hour) == _HOURS else self._next_named)(after, zone)

    def _next_named(self, after: datetime, zone: tzinfo) -> datetime:
        """Return the first time, of those that the wall's clock shows or should have shown."""
        local = after.astimezone(zone)
        times = sorted((hour, minute) for hour in self.hour for minute in self.minute)
        passed = bisect_right(times, (local.hour, local.minute))
        day = datetime(local.year, local.month, local.day)  # noqa: DTZ001 - what a calendar shows
        for _ in range(_DAYS_AHEAD):
            if self._names_day(day):
                for hour, minute in times[passed:]:
                    at = _instant(day.replace(hour=hour, minute=minute), zone)
                    if at > after:
                        return at
            day, passed = day + timedelta(days=1), 0
        raise self._never()

    def _next_minute(self, after: datetime, zone: tzinfo) -> datetime:
        """Return the first time, of all real minutes."""
        at = after.replace(second=0, microsecond=0) + _MINUTE
        end = at + timedelta(days=_DAYS_AHEAD)
        while at < end:
            local = at.astimezone(zone)
            if self._names_day(local):
                if local.minute in self.minute:
                    return at
                at += _MINUTE
                continue
            midnight = _instant(datetime(local.year, local.month, local.day) + timedelta(days=1), zone)  # noqa: DTZ001
            # A clock that is put back just behind midnight shows the day before once more.
            changes = midnight.astimezone(zone).utcoffset() != local.utcoffset()
            at = at + _MINUTE if changes else midnight
        raise self._never()

    def _never(self) -> RuntimeError:
        return RuntimeError(f"{self!r} names no time in the next forty years")

    def _names_day(self, day: datetime) -> bool:
        return (
            day.month in self.month_of_year
            and day.day in self.day_of_month
            and day.isoweekday() % 7 in self.day_of_week
        )

    def remaining_delta(
        self, last_run_at: datetime, tz: tzinfo | None = None, ffwd: Any = None
    ) -> tuple[datetime, timedelta, datetime]:
        """Return the last run, what is to be added to it to have the next, and now; all in UTC.

        Celery's further arguments are about how it is added: it is real time here.
        """
        last = self.in_utc(last_run_at)
        return last, self._following(last, self.tz) - last, self.in_utc(self.now())

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """Return the time until the next run, given the last."""
        last, wait, now = self.remaining_delta(last_run_at)
        return last + wait - now

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Return whether it is due, and in how many seconds to look again.

        A run that was missed by more than ``beat_cron_starting_deadline`` seconds is left out.
        """
        now = self.now()
        with self.standing_at(now):
            left = self.remaining_estimate(last_run_at)
            if left > timedelta(0):
                return schedstate(False, left.total_seconds())
            due = True
            deadline_s = self.app.conf.beat_cron_starting_deadline
            if deadline_s is not None:
                # A microsecond more: a run at exactly the deadline counts.
                since = self.in_utc(now) - timedelta(seconds=deadline_s, microseconds=1)
                due = self.remaining_estimate(since) <= timedelta(0)
            return schedstate(due, self.remaining_estimate(now).total_seconds())

    def __repr__(self) -> str:
        return (
            f"<crontab: {self._orig_minute} {self._orig_hour} {self._orig_day_of_month} "
            f"{self._orig_month_of_year} {self._orig_day_of_week} (m/h/dM/MY/d)>"
        )

    def __str__(self) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, crontab):
            return NotImplemented
        fields = ("month_of_year", "day_of_month", "day_of_week", "hour", "minute")
        same = all(getattr(self, field) == getattr(other, field) for field in fields)
        return same and super().__eq__(other) is True

    __hash__ = None

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (
            self._orig_minute, self._orig_hour, self._orig_day_of_week, self._orig_day_of_month,
            self._orig_month_of_year,
        )  # fmt: skip
        return type(self), fields, self._orig_kwargs

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self._orig_kwargs = dict(state)
        super().__init__(**state)


def _instant(wall: datetime, zone: tzinfo) -> datetime:
    """Return when a zone's clock shows a (naive) time first; one that it skips: when it goes on."""
    at = wall.replace(tzinfo=zone).astimezone(timezone.utc)
    if at.astimezone(zone).replace(tzinfo=None) == wall:
        return at
    # In a gap: taken with the offset in front of it, a time is behind the change, and the other way round.
    before, behind = sorted(
        wall.replace(tzinfo=zone, fold=fold).astimezone(timezone.utc) for fold in (0, 1)
    )
    return _offset_change(before, behind, zone)


def _offset_change(before: datetime, behind: datetime, zone: tzinfo) -> datetime:
    """Return the first minute, between two times, that has the offset of the latter."""
    offset = behind.astimezone(zone).utcoffset()
    while behind - before > _MINUTE:
        middle = before + ((behind - before) // 2 // _MINUTE) * _MINUTE
        if middle.astimezone(zone).utcoffset() == offset:
            behind = middle
        else:
            before = middle
    return behind
