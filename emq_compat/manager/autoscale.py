"""How many jobs at once: more when work waits, fewer when there was nothing to do for a while.

A worker that scales itself asks its broker for as many jobs as it may run at most, and makes room for what
comes: so it is busy slots and arrivals that tell that work waits, not a question to the broker. It shrinks
once it has not grown for a while.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from typing import Any

from emq_compat.errors import ConfigurationError
from emq_compat.pool.base import Pool
from emq_compat.words import amount

__all__ = ["AUTOSCALE_KEEPALIVE", "Autoscaler"]

logger = logging.getLogger("celery.worker.autoscale")

#: Seconds for which a worker that has grown doesn't shrink, unless the environment's AUTOSCALE_KEEPALIVE
#: says another number.
AUTOSCALE_KEEPALIVE = 30.0
#: How often a worker that may shrink looks whether it should.
_LOOK_S = 1.0


class Autoscaler:
    """Grows and shrinks a pool; a project's subclass (worker_autoscaler) may decide by other rules.

    Every method is called from the job manager's loop.

    Args:
        pool: what is scaled.
        max_concurrency, min_concurrency: slots, at most and at least (at least 1).
        worker: the job manager.
        keepalive: seconds for which nothing shrinks after it has grown; None: as the environment says.

    Raises:
        ConfigurationError: the limits, or the environment's AUTOSCALE_KEEPALIVE, are none.
    """

    def __init__(
        self,
        pool: Pool,
        max_concurrency: int,
        min_concurrency: int = 0,
        worker: Any = None,
        keepalive: float | None = None,
        mutex: Any = None,
    ) -> None:
        self.pool = pool
        self.max_concurrency, self.min_concurrency = checked_range(max_concurrency, min_concurrency)
        self.worker = worker
        self.keepalive = _keepalive(os.environ) if keepalive is None else keepalive
        self._last_scale_up: float | None = None
        self._look_at = 0.0

    # What a subclass may use and override.

    @property
    def processes(self) -> int:
        """How many slots there are."""
        return self.pool.concurrency

    @property
    def qty(self) -> int:
        """How many jobs are here, those that run included."""
        return len(self.worker.jobs_in_flight)

    def maybe_scale(self, req: Any = None) -> bool | None:
        """Decide, and do it; returns True when the number of slots has changed."""
        return self._maybe_scale(req)

    def _maybe_scale(self, req: Any = None) -> bool | None:
        processes, wanted = self.processes, self.qty
        if min(wanted, self.max_concurrency) > processes:
            self.scale_up(min(wanted, self.max_concurrency) - processes)
            return True
        least = max(wanted, self.min_concurrency)
        if least < processes:
            return self.scale_down(processes - least)
        return None

    def scale_up(self, n: int) -> None:
        """Add slots, whatever the limits are."""
        self._last_scale_up = time.monotonic()
        self._grow(n)

    def scale_down(self, n: int) -> bool | None:
        """Remove slots, unless some were added less than ``keepalive`` seconds ago."""
        grown_at = self._last_scale_up
        if grown_at is not None and time.monotonic() - grown_at <= self.keepalive:
            return None
        self._shrink(n)
        return True

    def _grow(self, n: int) -> None:
        logger.info("scaling up by %s", amount(n, "slot"))
        self.pool.grow(n)

    def _shrink(self, n: int) -> None:
        logger.info("scaling down by %s", amount(n, "slot"))
        self.pool.shrink(n)

    def update(self, max: int | None = None, min: int | None = None) -> tuple[int, int]:  # noqa: A002
        """Change the limits, and the slots where they are outside of them; returns (max, min).

        Raises:
            ConfigurationError: they are none.
        """
        most, least = checked_range(
            self.max_concurrency if max is None else max, self.min_concurrency if min is None else min
        )
        self.max_concurrency, self.min_concurrency = most, least
        if self.processes > most:
            self._shrink(self.processes - most)
        elif self.processes < least:
            self._grow(least - self.processes)
        return most, least

    def info(self) -> dict[str, int]:
        """Return what ``inspect stats`` shows of it."""
        return {
            "max": self.max_concurrency,
            "min": self.min_concurrency,
            "current": self.processes,
            "qty": self.qty,
        }

    # What the loop uses.

    @property
    def room(self) -> int:
        """How many slots may be added."""
        return max(0, self.max_concurrency - self.processes)

    def step(self, now: float) -> None:
        """Scale, when more is here than slots, or when it is time to look; ``now`` is monotonic."""
        if now >= self._look_at or len(self.worker.jobs_in_flight) > self.processes:
            self._look_at = now + _LOOK_S
            try:
                self.maybe_scale()
            except Exception:
                logger.exception("%s can't scale the pool", type(self).__qualname__)

    @property
    def due(self) -> float:
        """When ``step`` is to be called though nothing happens: while there is something to shrink."""
        return self._look_at if self.processes > self.min_concurrency else math.inf


def checked_range(most: int, least: int) -> tuple[int, int]:
    """Return the limits, of which none is below 1.

    Raises:
        ConfigurationError: they are no whole numbers, or the least is above the most.
    """
    if type(most) is not int or type(least) is not int or most < 1 or least < 0:
        raise ConfigurationError(f"autoscale takes whole numbers, MAX from 1, not {most!r} and {least!r}")
    if least > most:
        raise ConfigurationError(f"autoscale: at least {least} is more than at most {most}")
    return most, max(1, least)


def _keepalive(environ: Mapping[str, str]) -> float:
    written = environ.get("AUTOSCALE_KEEPALIVE") or str(AUTOSCALE_KEEPALIVE)
    try:
        return float(written)
    except ValueError:
        raise ConfigurationError(f"AUTOSCALE_KEEPALIVE is {written!r}, not a number of seconds") from None
