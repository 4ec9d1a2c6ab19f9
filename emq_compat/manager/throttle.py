"""Rate limits: which job of a limited task may run when, and the few that came a little early.

The broker is told the limits and gives no more than they allow, so that what is over them stays there, for
other workers, and other tasks pass by. What comes early all the same is held here for a moment, or goes back.
Nothing here knows a clock: ``now`` is monotonic seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from heapq import heappop, heappush
from itertools import count

from emq_compat.manager.inflight import JobInFlight
from emq_compat.rate import TokenBucket

__all__ = ["EARLY_S", "Throttle"]

#: What comes earlier than this goes back to its broker.
EARLY_S = 0.25


class Throttle:
    """Task name → how often it may run on this worker; jobs that wait for their time.

    Attributes:
        intervals: task name → seconds between two runs.
    """

    def __init__(self, intervals: Mapping[str, float]) -> None:
        self._buckets = {task: TokenBucket(interval_s) for task, interval_s in intervals.items()}
        self._held: list[tuple[float, int, JobInFlight]] = []
        self._numbers = count()

    def __len__(self) -> int:
        """How many jobs are held."""
        return len(self._held)

    @property
    def intervals(self) -> dict[str, float]:
        """Task name → seconds between two of its runs, of the limited tasks."""
        return {task: bucket.interval_s for task, bucket in self._buckets.items()}

    @property
    def due(self) -> float:
        """When the first of the held jobs may run; infinity: none is held."""
        return self._held[0][0] if self._held else math.inf

    def change(self, task: str, interval_s: float | None) -> None:
        """Limit a task from now on; None: don't."""
        if interval_s is None:
            self._buckets.pop(task, None)
        else:
            self._buckets[task] = TokenBucket(interval_s)

    def reserve(self, job: JobInFlight, now: float, *, takes_back: bool) -> bool:
        """Give a job the next token of its task, if it is limited and the job has none.

        ``takes_back``: its broker takes jobs back at no cost. False: then it should, the token is far off.
        """
        bucket = self._buckets.get(job.delivery.headers.task) if not job.good_at else None
        if bucket is None:
            return True
        if takes_back and bucket.wait_s(now) > EARLY_S:
            return False
        job.good_at = bucket.take(now)
        return True

    def put_back(self, job: JobInFlight) -> None:
        """Take the token back from a job that goes back to its broker."""
        bucket = self._buckets.get(job.delivery.headers.task)
        if bucket is not None and job.good_at:
            bucket.put_back()
        job.good_at = 0.0

    def hold(self, job: JobInFlight) -> None:
        """Keep a job until its token is good."""
        heappush(self._held, (job.good_at, next(self._numbers), job))

    def released(self, now: float) -> list[JobInFlight]:
        """Take out the jobs whose time has come."""
        jobs = []
        while self._held and self._held[0][0] <= now:
            jobs.append(heappop(self._held)[2])
        return jobs

    def take_back(self) -> list[JobInFlight]:
        """Take out all that are held."""
        held, self._held = self._held, []
        return [job for _, _, job in held]
