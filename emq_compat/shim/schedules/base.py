"""What every schedule has: a clock, an app, a time zone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, NamedTuple

from emq_compat.shim import current
from emq_compat.shim.surface.times import maybe_make_aware, timezone

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["BaseSchedule", "schedstate"]

Now = Callable[[], datetime]


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

    #: A subclass may have a zone of its own, whatever the settings say (django-celery-beat's crontab).
    _tz: tzinfo | None = None

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

    @contextmanager
    def standing_at(self, moment: datetime) -> Iterator[None]:
        """Have it see this time as now during the block, however long that takes and whatever the clock does.

        What is decided inside is true of one instant: whether it is due, and which run that was.
        """
        before = self.nowfun
        self.nowfun = lambda: moment
        try:
            yield
        finally:
            self.nowfun = before

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """Return the time until the next run, given the last; not above zero: it is due."""
        raise NotImplementedError

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Return whether it is due, and in how many seconds to look again."""
        raise NotImplementedError

    def maybe_make_aware(self, dt: datetime, naive_as_utc: bool = True) -> datetime:
        """Return a time in the app's zone."""
        return maybe_make_aware(dt, self.tz, naive_as_utc)

    @property
    def tz(self) -> tzinfo:
        """The zone in which the fields of a crontab count: the app's, unless it was given one."""
        return self.app.timezone if self._tz is None else self._tz

    @tz.setter
    def tz(self, zone: tzinfo | None) -> None:
        self._tz = zone

    @property
    def utc_enabled(self) -> bool:
        """The setting enable_utc."""
        return bool(self.app.conf.enable_utc)

    def in_utc(self, dt: datetime) -> datetime:
        """Return a time as one of UTC, in which differences are real time; a naive one is UTC."""
        return maybe_make_aware(dt, timezone.utc)

    def to_local(self, dt: datetime) -> datetime:
        """Return a time in the machine's zone, unless enable_utc."""
        return dt if self.utc_enabled else timezone.to_local_fallback(dt)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, BaseSchedule):
            return other.nowfun == self.nowfun
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]
