"""``solar``: at an event of the sun."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from emq_compat.shim.schedules.base import BaseSchedule, Now, schedstate
from emq_compat.shim.surface.times import timezone

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["solar"]

#: event → the sun's height above the horizon in degrees, ephem's method, whether its centre counts.
_EVENTS = {
    "dawn_astronomical": ("-18", "next_rising", True),
    "dawn_nautical": ("-12", "next_rising", True),
    "dawn_civil": ("-6", "next_rising", True),
    "sunrise": ("-0:34", "next_rising", False),
    "solar_noon": ("0", "next_transit", False),
    "sunset": ("-0:34", "next_setting", False),
    "dusk_civil": ("-6", "next_setting", True),
    "dusk_nautical": ("-12", "next_setting", True),
    "dusk_astronomical": ("-18", "next_setting", True),
}
#: Days looked through: at high latitudes an event may not come for months.
_DAYS_AHEAD = 366
_DAY = timedelta(days=1)


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

            raise ImproperlyConfigured(
                "solar schedules need the package ephem: pip install 'emq-compat[solar]'"
            ) from exc
        if event not in _EVENTS:
            raise ValueError(f"there is no event {event!r}; known: {', '.join(sorted(_EVENTS))}")
        if not -90 <= lat <= 90:
            raise ValueError(f"the latitude {lat} is not between -90 and 90")
        if not -180 <= lon <= 180:
            raise ValueError(f"the longitude {lon} is not between -180 and 180")
        self.event, self.lat, self.lon = event, lat, lon
        self._ephem = ephem
        super().__init__(nowfun, app)

    def next_after(self, moment: datetime) -> datetime | None:
        """Return when the event is next after an aware time, in UTC; None: not within a year."""
        horizon, method, centre = _EVENTS[self.event]
        observer = self._ephem.Observer()
        observer.lat, observer.lon = str(self.lat), str(self.lon)
        observer.horizon, observer.pressure = horizon, 0
        options = {"use_center": True} if centre else {}
        after = moment.astimezone(timezone.utc)
        start = after
        while start < after + _DAYS_AHEAD * _DAY:
            date = self._ephem.Date(start.replace(tzinfo=None))
            try:
                found = getattr(observer, method)(self._ephem.Sun(), start=date, **options)
            except self._ephem.CircumpolarError:
                start += _DAY
                continue
            at: datetime = found.datetime().replace(tzinfo=timezone.utc)
            if at > after:
                return at
            start += timedelta(minutes=1)
        return None

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """Return the time until the next run, given the last; a year where there is none in sight."""
        last, now = self.in_utc(last_run_at), self.in_utc(self.now())
        following = self.next_after(last)
        if following is None:
            following = max(last, now) + _DAYS_AHEAD * _DAY
        return following - now

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Return whether it is due, and in how many seconds to look again."""
        now = self.now()
        with self.standing_at(now):
            left_s = self.remaining_estimate(last_run_at).total_seconds()
            if left_s > 0:
                return schedstate(False, left_s)
            return schedstate(True, self.remaining_estimate(now).total_seconds())

    def __repr__(self) -> str:
        return f"<solar: {self.event} at latitude {self.lat}, longitude: {self.lon}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, solar):
            return NotImplemented
        return (self.event, self.lat, self.lon) == (other.event, other.lat, other.lon)

    __hash__ = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.event, self.lat, self.lon)
