"""Time zones: what the settings ``timezone`` and ``enable_utc`` mean."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone, tzinfo

__all__ = ["LocalZone", "zone_named"]


class LocalZone(tzinfo):
    """This machine's zone; daylight saving as its rules have it for the time asked about."""

    def _aware(self, moment: datetime | None) -> datetime:
        return (moment or datetime.now()).replace(tzinfo=None).astimezone()  # noqa: DTZ005 - local by purpose

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        """Return the difference to UTC."""
        return self._aware(moment).utcoffset()

    def dst(self, moment: datetime | None) -> timedelta | None:
        """Return nothing: the system doesn't tell which part of the offset it is."""
        return None

    def tzname(self, moment: datetime | None) -> str | None:
        """Return the zone's short name."""
        return self._aware(moment).tzname()

    def fromutc(self, moment: datetime) -> datetime:
        """Return a time in UTC as local time."""
        local = moment.replace(tzinfo=timezone.utc).astimezone()
        here = local.replace(tzinfo=self)
        # In an hour that comes twice only the fold tells which one it is.
        return here if here.utcoffset() == local.utcoffset() else here.replace(fold=1)

    def __repr__(self) -> str:
        return "<this machine's time zone>"


_LOCAL = LocalZone()


def zone_named(zone: tzinfo | str | None, *, utc: bool = True) -> tzinfo:
    """Return a zone by its name, or itself; without one UTC, or this machine's where ``utc`` is false.

    Raises:
        ZoneInfoNotFoundError: there is no zone of this name.
    """
    if isinstance(zone, tzinfo):
        return zone
    if not zone:
        return timezone.utc if utc else _LOCAL
    if zone.upper() == "UTC":
        return timezone.utc
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - few projects need it

    return ZoneInfo(zone)
