"""Which job goes into the pool now, which waits a moment, which goes back; how many more are asked for."""

from __future__ import annotations

import math
import time
from collections import deque

from emq_compat.manager.autoscale import Autoscaler
from emq_compat.manager.credit import HOLD_S, OVERRUN_S, PAUSE_S, WORTHWHILE, Credit
from emq_compat.manager.inflight import JobInFlight
from emq_compat.manager.throttle import Throttle
from emq_compat.pool.base import Assignment, Pool

__all__ = ["Placement"]

#: How long a delivery may wait in the parent for a slot that is being made.
_GROW_S = 1.0


class Placement:
    """The jobs that are here: in the pool, held back until a slot is idle, or until a rate limit lets them.

    Times are monotonic seconds. Without ``reserve`` every job waits for a slot of its own.

    Attributes:
        jobs: msgid → job, for every job that was taken in and is not answered.
        credit: what is known of running times.
        throttle: the rate limits.
        scaler: makes room for what comes beyond the slots there are; None: nobody does.
        closed: no job is placed any more (before the pool's start, and after its end).
    """

    def __init__(self, pool: Pool, *, reserve: bool = True, throttle: Throttle | None = None) -> None:
        self.jobs: dict[str, JobInFlight] = {}
        self.credit = Credit()
        self.throttle = Throttle({}) if throttle is None else throttle
        self.scaler: Autoscaler | None = None
        self.closed = True
        self._pool = pool
        self._reserve = reserve
        self._held_back: deque[JobInFlight] = deque()
        #: Jobs in the pool that need a slot of their own.
        self._alone = 0
        self._overrun_at = math.inf
        self._no_room_until = 0.0

    @property
    def due(self) -> float:
        """When ``late``, ``overrun`` or ``place_held_back`` has something to do."""
        due = min(self._overrun_at, self.throttle.due)
        if self.scaler is not None and not self.closed:
            due = min(due, self.scaler.due)
        if self._held_back and self._held_back[0].hold_until < due:
            return self._held_back[0].hold_until
        return due

    def take_in(self, job: JobInFlight) -> bool:
        """Place a job, or hold it back for a moment: jobs are placed in the order in which they came.

        False: its task's rate limit doesn't let it run soon; it is held here and should go back.
        """
        self.jobs[job.delivery.msgid] = job
        now = time.monotonic()
        if not self.throttle.reserve(job, now, takes_back=job.upstream.limits):
            return False
        if job.good_at > now:
            self.throttle.hold(job)
        elif self._held_back or not self._place(job):
            self._hold_back(job)
        return True

    def forget(self, job: JobInFlight) -> bool:
        """Note that a job is answered or went back; False: it was not here any more."""
        if self.jobs.pop(job.delivery.msgid, None) is None:
            return False
        if job.alone:
            job.alone = False
            self._alone -= 1
        return True

    def place_held_back(self, now: float) -> None:
        """Place what was held back, as far as slots are idle and rate limits let it."""
        held_back = self._held_back
        if self.throttle.due <= now:
            for job in self.throttle.released(now):
                self._hold_back(job)
        while held_back and self._place(held_back[0]):
            held_back.popleft()

    def late(self, now: float) -> list[JobInFlight]:
        """Return the jobs that have been held back for too long: they go back to their broker."""
        held_back = self._held_back
        late = []
        while held_back and held_back[0].hold_until <= now:
            late.append(held_back.popleft())
        if late:
            self.credit.pause(now)
            self._no_room_until = now + PAUSE_S
        return late

    def overrun(self, now: float) -> list[JobInFlight]:
        """Take back what waits behind a job that runs for longer than was thought.

        Returns:
            Those of them that found no idle slot: they go back to their broker.
        """
        if now < self._overrun_at:
            return []
        self._overrun_at = math.inf
        back = self._pool.overrun(OVERRUN_S, now)
        next_at = math.inf
        for key, (_, began) in self._pool.running().items():
            if now - began < OVERRUN_S:
                next_at = min(next_at, began + OVERRUN_S)
                continue
            job = self.jobs.get(key[0])
            if job is not None and not job.alone:
                # How long it runs by itself is learned at its end: this may be a machine that is too busy.
                job.alone = True
                self._alone += 1
        homeless = []
        for job in self._out_of_the_pool(back):
            job.short = False
            if not self._place(job):
                homeless.append(job)
        if self._waiting() > 0:
            self._overrun_at = max(next_at, now) if next_at < math.inf else now + OVERRUN_S
        return homeless

    def take_back(self) -> list[JobInFlight]:
        """Take back everything that has not begun, from the pool and from what was held back."""
        taken = [] if self.closed else self._out_of_the_pool(self._pool.take_back())
        taken += self._held_back
        taken += self.throttle.take_back()
        self._held_back.clear()
        return taken

    def stranded(self) -> list[JobInFlight]:
        """Take back what has not begun in a pool that has no new children any more."""
        return self._out_of_the_pool(self._pool.take_back())

    def wanted(self, now: float) -> tuple[int, int, int]:
        """Return how many jobs could begin at once, how many more may wait behind short ones, and how many
        of them are worth a message of their own.
        """
        if self.closed or self._held_back:
            return 0, 0, 1
        idle = free = self._pool.idle()
        if self.scaler is not None and now >= self._no_room_until:
            free += self.scaler.room
        reserve = min(self.credit.per_child(now), self._pool.reserve_per_slot) if self._reserve else 0
        step = 1
        if reserve:
            most = (self._pool.concurrency - self._alone) * reserve
            reserve = most - max(0, self._waiting(idle))
            step = max(1, int(most * WORTHWHILE))
        return free, max(0, reserve), step

    def _waiting(self, idle: int | None = None) -> int:
        """Return how many jobs wait in the pool behind others (an upper bound while slots are replaced)."""
        busy = self._pool.concurrency - (self._pool.idle() if idle is None else idle)
        return len(self.jobs) - len(self._held_back) - len(self.throttle) - busy

    def _place(self, job: JobInFlight) -> bool:
        short = job.short and self._reserve
        if self.closed or not self._pool.submit(job.assignment, reserve=short):
            return False
        job.hold_until = 0.0
        if not short:
            job.alone = True
            self._alone += 1
        elif self._overrun_at is math.inf and len(self.jobs) > self._pool.concurrency:
            self._overrun_at = time.monotonic() + OVERRUN_S
        return True

    def _hold_back(self, job: JobInFlight) -> None:
        job.hold_until = time.monotonic() + (HOLD_S if self.scaler is None else _GROW_S)
        self._held_back.append(job)

    def _out_of_the_pool(self, assignments: list[Assignment]) -> list[JobInFlight]:
        found = [self.jobs.get(assignment.delivery.msgid) for assignment in assignments]
        jobs = [job for job in found if job is not None]
        for job in jobs:
            if job.alone:
                job.alone = False
                self._alone -= 1
        return jobs
