"""``celery.utils.time``: durations, rates, time zones."""

from __future__ import annotations

import random
import time
from calendar import monthrange
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from datetime import timezone as fixed
from typing import Any

__all__ = [
    "LocalTimezone",
    "adjust_timestamp",
    "delta_resolution",
    "ffwd",
    "get_exponential_backoff_interval",
    "humanize_seconds",
    "is_naive",
    "localize",
    "make_aware",
    "maybe_iso8601",
    "maybe_make_aware",
    "maybe_s_to_ms",
    "maybe_timedelta",
    "rate",
    "remaining",
    "timezone",
    "to_utc",
    "utcoffset",
    "weekday",
    "yearmonth",
]

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_PER = {"s": 1.0, "m": 60.0, "h": 3600.0}
_UNITS = (("day", 86_400.0, 2), ("hour", 3_600.0, 2), ("minute", 60.0, 2), ("second", 1.0, 2))


class LocalTimezone(tzinfo):
    """The machine's time zone, with its daylight saving."""

    def utcoffset(self, dt: datetime | None) -> timedelta | None:
        """Return the offset of a local time."""
        return None if dt is None else dt.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, dt: datetime | None) -> timedelta | None:
        """Return what daylight saving adds."""
        if dt is None:
            return None
        saving = time.localtime(dt.replace(tzinfo=None).timestamp()).tm_isdst > 0
        return timedelta(seconds=time.timezone - time.altzone) if saving else timedelta(0)

    def tzname(self, dt: datetime | None) -> str | None:
        """Return the zone's name."""
        return None if dt is None else dt.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, dt: datetime) -> datetime:
        """Return the local time of a UTC time that carries this zone."""
        local = dt.replace(tzinfo=fixed.utc).astimezone()
        here = local.replace(tzinfo=self)
        # In an hour that comes twice only the fold tells which one it is.
        return here if here.utcoffset() == local.utcoffset() else here.replace(fold=1)

    def __repr__(self) -> str:
        return "<LocalTimezone>"


class _Zone:
    """``timezone``: the zones that settings name."""

    @property
    def local(self) -> tzinfo:
        """The machine's zone."""
        return LocalTimezone()

    @property
    def utc(self) -> tzinfo:
        """UTC."""
        return fixed.utc

    def tz_or_local(self, tzinfo: str | tzinfo | None = None) -> tzinfo:
        """Return a zone by its name, or the machine's."""
        return self.local if tzinfo is None else self.get_timezone(tzinfo)

    def get_timezone(self, zone: str | tzinfo) -> tzinfo:
        """Return a zone by its IANA name; raises zoneinfo.ZoneInfoNotFoundError."""
        from zoneinfo import ZoneInfo  # noqa: PLC0415 - workers that tell events need no zone

        if isinstance(zone, str):
            return fixed.utc if zone.upper() == "UTC" else ZoneInfo(zone)
        return zone

    def to_local(self, dt: datetime, local: tzinfo | None = None, orig: tzinfo | None = None) -> datetime:
        """Return a time in the zone ``local``; a naive one is taken to be in ``orig``, else UTC."""
        if is_naive(dt):
            dt = make_aware(dt, orig or self.utc)
        return localize(dt, self.tz_or_local(local))

    def to_system(self, dt: datetime) -> datetime:
        """Return a time in the machine's zone."""
        return localize(dt, self.local)

    def to_local_fallback(self, dt: datetime) -> datetime:
        """Return a time in the machine's zone; a naive one is in it already."""
        return make_aware(dt, self.local) if is_naive(dt) else localize(dt, self.local)


timezone = _Zone()


class ffwd:  # noqa: N801 - Celery's name
    """What replaces parts of a datetime that it is added to, and moves it by weeks and to a weekday."""

    def __init__(
        self,
        year: int | None = None,
        month: int | None = None,
        weeks: int = 0,
        weekday: int | None = None,
        day: int | None = None,
        hour: int | None = None,
        minute: int | None = None,
        second: int | None = None,
        microsecond: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.year, self.month, self.weeks, self.weekday, self.day = year, month, weeks, weekday, day
        self.hour, self.minute, self.second, self.microsecond = hour, minute, second, microsecond
        self.days = weeks * 7

    def __radd__(self, other: datetime) -> datetime:
        if not isinstance(other, datetime):
            return NotImplemented
        year, month = self.year or other.year, self.month or other.month
        day = min(monthrange(year, month)[1], self.day or other.day)
        parts = {name: getattr(self, name) for name in ("hour", "minute", "second", "microsecond")}
        given = {name: value for name, value in parts.items() if value is not None}
        moved = other.replace(year=year, month=month, day=day, **given)
        if self.weekday is not None:
            moved += timedelta(days=(7 - moved.weekday() + self.weekday) % 7)
        return moved + timedelta(days=self.days)


def maybe_timedelta(delta: float | timedelta | None) -> timedelta | None:
    """Return seconds as a timedelta; anything else as it is."""
    return timedelta(seconds=delta) if isinstance(delta, (int, float)) else delta


def is_naive(dt: datetime) -> bool:
    """Return whether a time says nothing of its zone."""
    return dt.tzinfo is None or dt.tzinfo.utcoffset(dt) is None


def make_aware(dt: datetime, tz: tzinfo) -> datetime:
    """Return a naive time as one of the zone ``tz``."""
    return dt.replace(tzinfo=tz)


def maybe_make_aware(dt: datetime, tz: tzinfo | None = None, naive_as_utc: bool = True) -> datetime:
    """Return a time in the zone ``tz`` (UTC without one); a naive one is taken for UTC, or one of ``tz``."""
    zone = timezone.utc if tz is None else timezone.tz_or_local(tz)
    if is_naive(dt):
        return localize(to_utc(dt), zone) if naive_as_utc else make_aware(dt, zone)
    return localize(dt, zone)


def localize(dt: datetime, tz: tzinfo) -> datetime:
    """Return an aware time in another zone, a naive one as one of that zone."""
    return make_aware(dt, tz) if is_naive(dt) else dt.astimezone(tz)


def to_utc(dt: datetime) -> datetime:
    """Return a naive time as one of UTC."""
    return make_aware(dt, timezone.utc)


def maybe_iso8601(dt: datetime | str | None) -> datetime | None:
    """Return a time from ISO 8601; a datetime and None as they are."""
    if not dt:
        return None
    if isinstance(dt, datetime):
        return dt
    return datetime.fromisoformat(f"{dt[:-1]}+00:00" if dt.endswith("Z") else dt)


def delta_resolution(dt: datetime, delta: timedelta) -> datetime:
    """Return a time rounded down to the day, hour or minute that the interval is at least as long as."""
    seconds = max(delta.total_seconds(), 0)
    if seconds >= 86_400:
        return dt.replace(hour=0, minute=0, second=0, microsecond=0)
    if seconds >= 3_600:
        return dt.replace(minute=0, second=0, microsecond=0)
    if seconds >= 60:
        return dt.replace(second=0, microsecond=0)
    return dt


def remaining(
    start: datetime, ends_in: timedelta | ffwd, now: datetime | Callable[[], datetime] | None = None,
    relative: bool = False,
) -> timedelta:  # fmt: skip
    """Return the time until ``start + ends_in``; negative where it is over.

    ``relative`` rounds the end down to the resolution of the interval. An interval is real time, whatever is
    done to the zone's clock in between; a relative one of days ends at a midnight of that clock.
    """
    now = now() if callable(now) else now or datetime.now(fixed.utc)
    if isinstance(ends_in, timedelta) and not is_naive(start):
        if relative:
            end = _rounded_end(start, ends_in)
        else:
            end = start.astimezone(fixed.utc) + ends_in
    else:
        end = start + ends_in
        if relative and isinstance(ends_in, timedelta):
            end = delta_resolution(end, ends_in).replace(microsecond=0)
    if is_naive(end) or is_naive(now):
        return end.replace(tzinfo=None) - now.replace(tzinfo=None)
    return end.astimezone(fixed.utc) - now.astimezone(fixed.utc)


def _rounded_end(start: datetime, interval: timedelta) -> datetime:
    """Return, in UTC, an interval's end, rounded down on the face of the start's clock, but after the start.

    What the clock shows twice is the last one before the end; what it doesn't show is when it is put ahead.
    """
    begin = start.astimezone(fixed.utc)
    end = begin + interval
    if interval < timedelta(minutes=1):
        return end.replace(microsecond=0)
    if interval >= timedelta(days=1):
        unit = timedelta(days=1)
        face = start.replace(tzinfo=None) + interval
        shown = _shown_at(delta_resolution(face, interval), start.tzinfo)
    else:
        unit = timedelta(hours=1) if interval >= timedelta(hours=1) else timedelta(minutes=1)
        face = end.astimezone(start.tzinfo).replace(tzinfo=None)
        shown = _shown_at(delta_resolution(face, interval), start.tzinfo)
        shown = [at for at in shown if at <= end][-1:]
    if not any(at > begin for at in shown):
        shown = _shown_at(delta_resolution(face, interval) + unit, start.tzinfo)
    return next((at for at in shown if at > begin), end)


def _shown_at(face: datetime, zone: tzinfo | None) -> list[datetime]:
    """Return, in UTC, when a zone's clock shows ``face``: once, twice, or when it is put ahead past that."""
    twice = [face.replace(tzinfo=zone, fold=fold).astimezone(fixed.utc) for fold in (0, 1)]
    if twice[0].astimezone(zone).replace(tzinfo=None) == face:
        return sorted(set(twice))
    before = (face - timedelta(days=1)).replace(tzinfo=zone).utcoffset()
    return [(face - (before or timedelta())).replace(tzinfo=fixed.utc)]


def rate(r: str | float | None) -> float:
    """Return ``"100/m"`` (also ``/s``, ``/h``; without a unit per second) as a rate per second; None is 0."""
    if not r:
        return 0.0
    if isinstance(r, str):
        count, _, unit = r.partition("/")
        return float(count) / _PER[unit or "s"]
    return float(r)


def weekday(name: str) -> int:
    """Return the number of a weekday by its English name or abbreviation: Sunday is 0; raises KeyError."""
    try:
        return _DAYS.index(name[:3].lower())
    except ValueError:
        raise KeyError(name) from None


def yearmonth(name: str) -> int:
    """Return the number of a month by its English name or abbreviation: January is 1; raises KeyError."""
    try:
        return _MONTHS.index(name[:3].lower()) + 1
    except ValueError:
        raise KeyError(name) from None


def humanize_seconds(
    secs: float, prefix: str = "", sep: str = "", now: str = "now", microseconds: bool = False
) -> str:
    """Return a duration in its largest unit: ``2.00 minutes``."""
    secs = float(secs if microseconds else format(float(secs), ".2f"))
    for unit, length, digits in _UNITS:
        if secs >= length:
            count = secs / length
            shown = f"{int(count)}" if unit == "second" and count == int(count) else f"{count:.{digits}f}"
            return f"{prefix}{sep}{shown} {unit}{'' if count == 1 else 's'}"
    if microseconds and secs > 0.0:
        return f"{prefix}{sep}{secs:.2f} seconds"
    return now


def get_exponential_backoff_interval(
    factor: int, retries: int, maximum: int, full_jitter: bool = False
) -> int:
    """Return factor × 2 ** retries seconds, at most ``maximum``; full_jitter: a random number up to that."""
    pause = min(maximum, factor * 2**retries)
    if full_jitter:
        pause = random.randrange(int(pause) + 1)
    return max(0, int(pause))


def utcoffset(time: Any = time, localtime: Callable[..., time.struct_time] = time.localtime) -> int:
    """Return how many hours the machine's zone is behind UTC."""
    offset = time.altzone if localtime().tm_isdst else time.timezone
    return int(offset // 3600)


def adjust_timestamp(ts: float, offset: int, here: Callable[[], float] = utcoffset) -> float:
    """Return a timestamp of a host with another offset as one of this host."""
    return ts - (offset - here()) * 3600


def maybe_s_to_ms(v: float | None) -> int | None:
    """Return seconds in milliseconds; None as it is."""
    return int(float(v) * 1000.0) if v is not None else None
