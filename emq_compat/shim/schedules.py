"""``celery.schedules``: when a periodic task is due."""

from __future__ import annotations

import functools
import re
from bisect import bisect_left
from calendar import monthrange
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, NamedTuple

from emq_compat.shim import current
from emq_compat.shim.surface.times import (
    humanize_seconds,
    maybe_make_aware,
    maybe_timedelta,
    remaining,
    timezone,
    weekday,
    yearmonth,
)

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = [
    "BaseSchedule",
    "ParseException",
    "crontab",
    "crontab_parser",
    "maybe_schedule",
    "schedstate",
    "schedule",
    "solar",
]

Now = Callable[[], datetime]
#: A field of a crontab: a number, an expression, or the numbers themselves.
Cronspec = int | str | Iterable[int]

#: Days looked through for the next time of a crontab: 29 February may be eight years away.
_DAYS_AHEAD = 8 * 366 + 1
_LONGEST_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_HORIZONS = {
    "dawn_astronomical": ("-18", "rising"),
    "dawn_nautical": ("-12", "rising"),
    "dawn_civil": ("-6", "rising"),
    "sunrise": ("-0:34", "rising"),
    "solar_noon": ("0", "transit"),
    "sunset": ("-0:34", "setting"),
    "dusk_civil": ("-6", "setting"),
    "dusk_nautical": ("-12", "setting"),
    "dusk_astronomical": ("-18", "setting"),
}


class ParseException(Exception):
    """A field of a crontab can't be read."""


class schedstate(NamedTuple):  # noqa: N801 - Celery's name
    """Whether a schedule is due, and in how many seconds to look again."""

    is_due: bool
    next: float


class BaseSchedule:
    """What every schedule has: a clock and an app.

    Args:
        nowfun: returns the time now; the app's clock by default.
        app: whose settings (``timezone``, ``enable_utc``, ``beat_cron_starting_deadline``) count; the current
            one by default.
    """

    def __init__(self, nowfun: Now | None = None, app: Celery | None = None) -> None:
        self.nowfun = nowfun
        self._app = app

    @property
    def app(self) -> Celery:
        """The app that it belongs to."""
        return self._app or current.get_app()

    @app.setter
    def app(self, app: Celery) -> None:
        self._app = app

    def now(self) -> datetime:
        """Return the time now."""
        return self.nowfun() if self.nowfun is not None else self.app.now()

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """Return the time until the next run, given the last; not above zero: it is due."""
        raise NotImplementedError

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Return whether it is due, and in how many seconds to look again."""
        raise NotImplementedError

    def maybe_make_aware(self, dt: datetime, naive_as_utc: bool = True) -> datetime:
        """Return a time in the app's zone."""
        return maybe_make_aware(dt, self.tz, naive_as_utc)

    @functools.cached_property
    def tz(self) -> tzinfo:
        """The zone in which the fields of a crontab count: the setting timezone."""
        conf = self.app.conf
        if conf.timezone:
            return timezone.get_timezone(conf.timezone)
        return timezone.utc if conf.enable_utc else timezone.local

    @property
    def utc_enabled(self) -> bool:
        """The setting enable_utc."""
        return bool(self.app.conf.enable_utc)

    def to_local(self, dt: datetime) -> datetime:
        """Return a time in the machine's zone, unless enable_utc."""
        return dt if self.utc_enabled else timezone.to_local_fallback(dt)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, BaseSchedule):
            return other.nowfun == self.nowfun
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]


class schedule(BaseSchedule):  # noqa: N801 - Celery's name
    """Every ``run_every`` seconds, or timedelta.

    ``relative`` rounds the time of the next run down to the day, hour or minute, as long as the interval is.
    """

    def __init__(
        self,
        run_every: float | timedelta | None = None,
        relative: bool = False,
        nowfun: Now | None = None,
        app: Celery | None = None,
    ) -> None:
        self.run_every = maybe_timedelta(run_every)
        self.relative = relative
        super().__init__(nowfun, app)

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """Return the time until the next run, given the last."""
        assert self.run_every is not None
        return remaining(
            self.maybe_make_aware(last_run_at),
            self.run_every,
            self.maybe_make_aware(self.now()),
            self.relative,
        )

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Return whether it is due, and in how many seconds to look again."""
        left_s = max(self.remaining_estimate(last_run_at).total_seconds(), 0)
        return schedstate(True, self.seconds) if left_s == 0 else schedstate(False, left_s)

    @property
    def seconds(self) -> float:
        """The interval in seconds."""
        assert self.run_every is not None
        return max(self.run_every.total_seconds(), 0)

    @property
    def human_seconds(self) -> str:
        """The interval in words."""
        return humanize_seconds(self.seconds)

    def __repr__(self) -> str:
        return f"<freq: {self.human_seconds}>"

    def __eq__(self, other: object) -> bool:
        return bool(self.run_every == (other.run_every if isinstance(other, schedule) else other))

    __hash__ = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.run_every, self.relative, self.nowfun)


class crontab_parser:  # noqa: N801 - Celery's name
    """Reads one field: ``*``, ``*/5``, ``3``, ``2-10``, ``22-4``, ``8-17/2``, ``mon-fri``, joined by commas.

    Args:
        max_: how many values there are.
        min_: the least of them.
    """

    ParseException = ParseException
    _PART = re.compile(r"(?P<star>\*)|(?P<first>\w+?)(?:-(?P<last>\w+))?")

    def __init__(self, max_: int = 60, min_: int = 0) -> None:
        self.max_ = max_
        self.min_ = min_

    def parse(self, spec: str) -> set[int]:
        """Return the values that a field names.

        Raises:
            ParseException: it can't be read.
            ValueError: a value is out of range, or no name of a day or month.
        """
        values: set[int] = set()
        for part in spec.split(","):
            values.update(self._part(part))
        return values

    def _part(self, part: str) -> list[int]:
        if not part:
            raise self.ParseException("empty part")
        if part.startswith("-"):
            raise self.ParseException("negative numbers not supported")
        numbers, slash, step = part.partition("/")
        if slash and not step:
            raise self.ParseException("empty filter")
        found = self._PART.fullmatch(numbers)
        if found is None or (slash and not (step.isdecimal() and int(step))):
            raise self.ParseException(f"{part!r} is no field of a crontab")
        if found["star"]:
            values = list(range(self.min_, self.min_ + self.max_))
        elif found["last"] is None:
            values = [self._number(found["first"])]
        else:
            values = self._range(self._number(found["first"]), self._number(found["last"]))
        return values[:: int(step)] if slash else values

    def _range(self, first: int, last: int) -> list[int]:
        if last >= first:
            return list(range(first, last + 1))
        return [*range(first, self.min_ + self.max_), *range(self.min_, last + 1)]

    def _number(self, text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = self._named(text)
        highest = self.min_ + self.max_ - 1
        if number > highest:
            raise ValueError(f"Invalid end range: {number} > {highest}.")
        if number < self.min_:
            raise ValueError(f"Invalid beginning range: {number} < {self.min_}.")
        return number

    @staticmethod
    def _named(text: str) -> int:
        for numbers in (yearmonth, weekday):
            try:
                return numbers(text)
            except KeyError:
                continue
        raise ValueError(f"Invalid weekday literal {text!r}.")


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
            raise ValueError("no month of month_of_year has a day of day_of_month")
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
            raise ValueError("a field of a crontab names no value")
        return values

    def next_after(self, moment: datetime) -> datetime:
        """Return the first time after an aware one, in its zone.

        Raises:
            ValueError: there is none in the next eight years.
        """
        hours, minutes = sorted(self.hour), sorted(self.minute)
        start = moment.replace(second=0, microsecond=0)
        for days in range(_DAYS_AHEAD):
            day = start + timedelta(days=days)
            if not self._names_day(day):
                continue
            for hour in hours if days else hours[bisect_left(hours, start.hour) :]:
                for minute in minutes:
                    if days or (hour, minute) > (start.hour, start.minute):
                        return day.replace(hour=hour, minute=minute)
        raise ValueError(f"{self!r} names no time in the next eight years")

    def _names_day(self, day: datetime) -> bool:
        return (
            day.month in self.month_of_year
            and day.day in self.day_of_month
            and day.isoweekday() % 7 in self.day_of_week
            and day.day <= monthrange(day.year, day.month)[1]
        )

    def remaining_delta(self, last_run_at: datetime) -> tuple[datetime, timedelta, datetime]:
        """Return the last run, what is to be added to it to have the next, and now; in the app's zone."""
        last = self.maybe_make_aware(last_run_at)
        now = self.maybe_make_aware(self.now())
        return self.to_local(last), self.next_after(last) - last, self.to_local(now)

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """Return the time until the next run, given the last."""
        return remaining(*self.remaining_delta(last_run_at))

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Return whether it is due, and in how many seconds to look again.

        A run that was missed by more than ``beat_cron_starting_deadline`` seconds is left out.
        """
        left = self.remaining_estimate(last_run_at)
        if left > timedelta(0):
            return schedstate(False, left.total_seconds())
        due = True
        deadline_s = self.app.conf.beat_cron_starting_deadline
        if deadline_s is not None:
            now = self.maybe_make_aware(self.now())
            since = max(self.maybe_make_aware(last_run_at), now - timedelta(seconds=deadline_s, minutes=1))
            late = now - self.next_after(since)
            due = timedelta(0) <= late <= timedelta(seconds=deadline_s)
        return schedstate(due, max(self.remaining_estimate(self.now()).total_seconds(), 0))

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


class solar(BaseSchedule):  # noqa: N801 - Celery's name
    """At an event of the sun; needs the package ephem.

    Args:
        event: dawn_astronomical, dawn_nautical, dawn_civil, sunrise, solar_noon, sunset, dusk_civil,
            dusk_nautical or dusk_astronomical.
        lat: the latitude in degrees, north is positive.
        lon: the longitude in degrees, east is positive.

    Raises:
        ImproperlyConfigured: ephem is missing.
        ValueError: there is no such event or place.
    """

    def __init__(
        self, event: str, lat: float, lon: float, *, nowfun: Now | None = None, app: Celery | None = None
    ) -> None:
        try:
            import ephem  # noqa: PLC0415 - optional
        except ImportError as exc:
            from emq_compat.shim.exceptions import ImproperlyConfigured  # noqa: PLC0415

            raise ImproperlyConfigured("solar schedules need the package ephem") from exc
        if event not in _HORIZONS:
            raise ValueError(f"there is no event {event!r}; known: {', '.join(sorted(_HORIZONS))}")
        if not -90 <= lat <= 90:
            raise ValueError(f"the latitude {lat} is not between -90 and 90")
        if not -180 <= lon <= 180:
            raise ValueError(f"the longitude {lon} is not between -180 and 180")
        self.event, self.lat, self.lon = event, lat, lon
        self._ephem = ephem
        super().__init__(nowfun, app)

    def next_after(self, moment: datetime) -> datetime:
        """Return when the event is next after an aware time, in UTC; where the sun doesn't, a day later."""
        horizon, method = _HORIZONS[self.event]
        observer = self._ephem.Observer()
        observer.lat, observer.lon, observer.horizon, observer.pressure = (
            str(self.lat),
            str(self.lon),
            horizon,
            0,
        )
        sun = self._ephem.Sun()
        in_utc = moment.astimezone(timezone.utc)
        centre = {"use_center": True} if method != "transit" and "-0" not in horizon else {}
        try:
            found = getattr(observer, f"next_{method}")(sun, start=self._ephem.Date(in_utc), **centre)
        except self._ephem.CircumpolarError:
            return in_utc + timedelta(days=1)
        at: datetime = found.datetime()
        return at.replace(tzinfo=timezone.utc)

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """Return the time until the next run, given the last."""
        last = self.maybe_make_aware(last_run_at)
        return self.next_after(last) - self.maybe_make_aware(self.now())

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Return whether it is due, and in how many seconds to look again."""
        left_s = max(self.remaining_estimate(last_run_at).total_seconds(), 0)
        if left_s:
            return schedstate(False, left_s)
        return schedstate(True, max(self.remaining_estimate(self.now()).total_seconds(), 0))

    def __repr__(self) -> str:
        return f"<solar: {self.event} at latitude {self.lat}, longitude: {self.lon}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, solar):
            return NotImplemented
        return (self.event, self.lat, self.lon) == (other.event, other.lat, other.lon)

    __hash__ = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.event, self.lat, self.lon)


def maybe_schedule(
    s: float | timedelta | BaseSchedule | None, relative: bool = False, app: Celery | None = None
) -> BaseSchedule | None:
    """Return a schedule from seconds, a timedelta or a schedule, which gets the app; None as it is."""
    if isinstance(s, (int, float, timedelta)):
        return schedule(s, relative, app=app)
    if s is not None and app is not None:
        s.app = app
    return s
