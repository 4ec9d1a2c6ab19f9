"""Taking jobs in: who gets them, how many are asked for, and what goes back."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from emq_compat.manager.autoscale import Autoscaler
from emq_compat.manager.endings import Endings
from emq_compat.manager.inflight import JobInFlight, assignment_of
from emq_compat.manager.losses import revoked
from emq_compat.manager.revokes import Revokes
from emq_compat.manager.signals import Stage
from emq_compat.manager.turns import Turns
from emq_compat.message import Delivery
from emq_compat.run import about
from emq_compat.upstream.base import Key, Upstream

__all__ = ["Intake"]

#: So many jobs may wait here until their task's rate limit lets them, where a broker doesn't keep to it.
THROTTLED = 100

logger = logging.getLogger("emq_compat.jobmanager")


class Intake(Endings):
    """Gives the pool what upstreams deliver, and asks them for as much as there is room for.

    Attributes:
        total_ready_sent: jobs that were asked for.
        autoscaler: makes the pool larger and smaller; None: nobody does.
        revokes: ids of tasks that are ended when they come; ``revoked_tags``: tags (Headers.tags) of such.
    """

    total_ready_sent: int
    autoscaler: Autoscaler | None
    revokes: Revokes
    revoked_tags: Revokes
    _turns: Turns[Upstream]
    #: Upstream that is connected → jobs that were asked of it and haven't come.
    _credit_out: dict[Upstream, int]

    @property
    def _most_at_once(self) -> int:
        """How many jobs can run at once; where the worker scales itself, once it has grown for them."""
        return self.autoscaler.max_concurrency if self.autoscaler is not None else self.pool.concurrency

    def _accept(self, upstream: Upstream, delivery: Delivery) -> None:
        credit = self._credit_out.get(upstream, 0)
        if credit:
            self._credit_out[upstream] = credit - 1
        if len(self.upstreams) > 1:
            self._turns.came(upstream, time.monotonic())
        msgid = delivery.msgid
        running = self.jobs_in_flight.get(msgid)
        if running is not None:
            self._join(running, delivery)
            return
        task = delivery.headers.task
        program = self.program
        policies = program.policies
        policy = policies.get(task) if policies is not None else None
        if policy is None:
            policy = program.default_policy
        if delivery.headers.concludes:
            policy = replace(policy, acks_late=True, reject_on_worker_lost=True, lost_retry_s=None)
        job = JobInFlight(
            delivery,
            upstream,
            policy,
            assignment_of(delivery, policy),
            short=self._placement.credit.is_short(task),
        )
        if self._stage is not Stage.RUNNING:
            self.jobs_in_flight[msgid] = job
            self._give_back((job,))
            return
        onlooker = program.onlooker
        if onlooker.received_log.isEnabledFor(logging.INFO):
            onlooker.received_log.info(
                "Task %s[%s] received", task or "-", job.task_id, extra=about(delivery, "RECEIVED")
            )
        onlooker.received(delivery)
        if (self.revokes or self.revoked_tags) and self._is_revoked(job):
            self.jobs_in_flight[msgid] = job
            self._end(job, revoked("revoked"))
            return
        if not self._placement.take_in(job):
            self._give_back((job,))

    def _is_revoked(self, job: JobInFlight) -> bool:
        headers = job.delivery.headers
        if headers.concludes:
            return False
        return job.task_id in self.revokes or any(
            tag in self.revoked_tags for tag in headers.tags.split(";") if tag
        )

    def _join(self, running: JobInFlight, delivery: Delivery) -> None:
        """Let a job that runs here already answer its second delivery, too: the broker took it for lost."""
        key = (delivery.msgid, delivery.attempt)
        if key in running.keys:
            return
        logger.info("%s was delivered again while it is still here: it isn't started twice", delivery.msgid)
        running.keys = (*running.keys, key)
        if running.began_at:
            running.upstream.began((key,))

    def _settle(self, now: float) -> None:
        """End a turn: what can't be run soon goes back, and as much as there is room for is asked."""
        placement = self._placement
        if self.autoscaler is not None and self._stage is Stage.RUNNING:
            self.autoscaler.step(now)
        for upstream in self.upstreams:
            upstream.resize(self._most_at_once)
        placement.place_held_back(now)
        if now >= placement.due:
            self._give_back([*placement.late(now), *placement.overrun(now)])
        if self._stage is Stage.RUNNING and self._credit_out:
            self._give_credit(*placement.wanted(now), now)

    def _give_back(self, jobs: Sequence[JobInFlight]) -> None:
        """Give jobs that never began back to their brokers; those that were revoked meanwhile end here."""
        returned: dict[Upstream, list[Key]] = {}
        for job in jobs:
            if job.task_id in self._revoked:
                self._end(job, revoked("revoked"))
                continue
            if job.good_at and not job.began_at:
                self._placement.throttle.put_back(job)
            if self._placement.forget(job):
                returned.setdefault(job.upstream, []).extend(job.keys)
        for upstream, keys in returned.items():
            upstream.nack(keys)

    def _forget_waiting(self, upstream: Upstream) -> None:
        """Forget what an upstream delivered and has not begun; what is another's goes on waiting."""
        waiting = self._placement.take_back()
        self._give_back([job for job in waiting if job.upstream is upstream])
        for job in waiting:
            if job.upstream is not upstream and not self._placement.take_in(job):
                self._give_back((job,))

    def _withdraw_credit(self) -> None:
        self._credit_out.clear()

    def _give_credit(self, idle: int, reserve: int, step: int, now: float) -> None:
        outs = self._credit_out
        if len(self._placement.throttle) >= THROTTLED:
            outs = {upstream: out for upstream, out in outs.items() if upstream.limits}
        if len(outs) == 1:
            for upstream, out in outs.items():
                more = idle + (reserve if upstream.takes_back else 0) - out
                if more >= step or idle > out:
                    self._ask(upstream, more)
        elif outs:
            if not all(upstream.takes_back for upstream in outs):
                reserve = 0
            for upstream, more in self._turns.split(outs, idle, reserve, now).items():
                if more < 0 and upstream.recall():
                    self._credit_out[upstream] = 0
                self._ask(upstream, more)

    def _ask(self, upstream: Upstream, count: int) -> None:
        if count <= 0:
            return
        if self._quick:
            self._send_ready(upstream, count)
        else:
            for _ in range(count):
                self.send_ready()

    def _due(self) -> float:
        return min(super()._due(), self._turns.due)

    def limit_rate(self, task: str, interval_s: float | None) -> None:
        """Run a task no more than once every so many seconds from now on; None: as often as it comes."""
        self._placement.throttle.change(task, interval_s)
        for upstream in self.upstreams:
            upstream.limit(task, interval_s)

    def hear_ends(self, hears: bool) -> None:
        """Have brokers tell this worker, or no more, of jobs that end before any worker has them."""
        for upstream in self.upstreams:
            upstream.hear_ends(hears)

    def send_ready(self) -> None:
        """Tell the broker that one more job can be taken."""
        self._send_ready(next(iter(self._credit_out), self.outgoing), 1)

    def _send_ready(self, upstream: Upstream, count: int) -> None:
        self.total_ready_sent += count
        if upstream in self._credit_out:
            self._credit_out[upstream] += count
        upstream.ready(count)
