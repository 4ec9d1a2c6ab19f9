"""When a crontab runs, as somebody finds who watches the clock: no code in common with the shim."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)


class Fields(Protocol):
    """The numbers that the five fields name."""

    minute: set[int]
    hour: set[int]
    day_of_week: set[int]
    day_of_month: set[int]
    month_of_year: set[int]


def minutes_named(fields: Fields, zone: ZoneInfo, start: datetime, minutes: int) -> Iterator[datetime]:
    """Yield, of so many real minutes after ``start``, those in which it runs, in UTC.

    It knows each face that the clock has shown in the day before ``start`` and since. With every hour named a
    minute counts whenever its face is named; otherwise when its face, or one that was skipped just now, is
    named and was not shown before.
    """
    every_hour = len(fields.hour) == 24
    at = start.replace(second=0, microsecond=0)
    face = at.astimezone(zone).replace(tzinfo=None)
    shown = {(at - MINUTE * back).astimezone(zone).replace(tzinfo=None) for back in range(24 * 60)}
    for _ in range(minutes):
        at += MINUTE
        last, face = face, at.astimezone(zone).replace(tzinfo=None)
        skipped = []
        while face - last > MINUTE:
            last += MINUTE
            skipped.append(last)
        if every_hour:
            named = _names(fields, face)
        else:
            named = any(_names(fields, one) for one in (*skipped, face) if one not in shown)
        shown.update((*skipped, face))
        if named:
            yield at


def _names(fields: Fields, face: datetime) -> bool:
    return (
        face.minute in fields.minute
        and face.hour in fields.hour
        and face.day in fields.day_of_month
        and face.month in fields.month_of_year
        and face.isoweekday() % 7 in fields.day_of_week
    )
