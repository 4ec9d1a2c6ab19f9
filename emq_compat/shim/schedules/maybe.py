"""``maybe_schedule``: what may stand for a schedule in settings."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from emq_compat.shim.schedules.base import BaseSchedule
from emq_compat.shim.schedules.interval import schedule

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["maybe_schedule"]


def maybe_schedule(
    s: float | timedelta | BaseSchedule | None, relative: bool = False, app: Celery | None = None
) -> BaseSchedule | None:
    """Return a schedule from seconds, a timedelta or a schedule, which gets the app; None as it is.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(s, (int, float, timedelta)):
        return schedule(s, relative, app=app)
    if s is not None and not hasattr(s, "is_due"):
        raise TypeError(f"{s!r} is no schedule: give seconds, a timedelta, or a schedule")
    if s is not None and app is not None:
        s.app = app
    return s
