"""Whether the clock was put on or back, and time that stands still."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from emq_compat.shim.schedules.base import BaseSchedule

__all__ = ["StepWatch", "standing_at"]

#: What counts as a step: a clock that is slewed moves by less between two looks.
_STEP_S = 0.5


class StepWatch:
    """Compares the wall's clock with the machine's time from look to look."""

    def __init__(self) -> None:
        self._offset_s: float | None = None

    def stepped(self, now: datetime) -> bool:
        """Return whether the clock was put on or back since the last look; ``now`` is what it shows."""
        offset_s, before_s = now.timestamp() - time.monotonic(), self._offset_s
        self._offset_s = offset_s
        return before_s is not None and abs(offset_s - before_s) > _STEP_S


@contextmanager
def standing_at(schedule: Any, moment: datetime) -> Iterator[None]:
    """Have a schedule see this time as now during the block, unless it has nothing of BaseSchedule."""
    if isinstance(schedule, BaseSchedule):
        with schedule.standing_at(moment):
            yield
    else:
        yield
