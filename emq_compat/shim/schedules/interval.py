"""``schedule``: every so many seconds."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from emq_compat.shim.schedules.base import BaseSchedule, Now, schedstate
from emq_compat.shim.surface.times import humanize_seconds, maybe_timedelta, remaining

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["schedule"]

#: An interval of nothing is looked at again after so many seconds.
_LEAST_S = 0.001


class schedule(BaseSchedule):  # noqa: N801 - Celery's name
    """Every ``run_every`` seconds, or timedelta.

    ``relative`` rounds the time of the next run down to the day, hour or minute, as long as the interval is.

    Raises:
        TypeError: it is neither seconds nor a timedelta.
        ValueError: it is less than nothing.
    """

    def __init__(
        self,
        run_every: float | timedelta | None = None,
        relative: bool = False,
        nowfun: Now | None = None,
        app: Celery | None = None,
    ) -> None:
        every = maybe_timedelta(run_every)
        if every is not None and not isinstance(every, timedelta):
            raise TypeError(f"an interval is seconds or a timedelta, not {run_every!r}")
        if every is not None and every < timedelta(0):
            raise ValueError(f"an interval of {every.total_seconds():g} s: it must not be less than 0")
        self.run_every = every
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
        left_s = self.remaining_estimate(last_run_at).total_seconds()
        if left_s > 0:
            return schedstate(False, left_s)
        next_s = self.seconds
        if self.relative:
            # The rounded end of the next interval may come sooner than a whole one after now.
            rounded_s = self.remaining_estimate(self.now()).total_seconds()
            next_s = rounded_s if rounded_s > 0 else next_s
        return schedstate(True, max(next_s, _LEAST_S))

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
