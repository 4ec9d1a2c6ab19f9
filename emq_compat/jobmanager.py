"""The job manager: one loop between upstreams, which deliver jobs, and one pool, which runs them.

The class, its members and their names are eventmq's. A subclass that overrides one of them sees every job;
where nothing is overridden the loop takes a shorter path to the same end.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from emq_compat.address import Address
from emq_compat.errors import ConfigurationError, MessageError
from emq_compat.failures import failure_of
from emq_compat.manager import control
from emq_compat.manager.autoscale import Autoscaler
from emq_compat.manager.connections import Connections
from emq_compat.manager.defaults import allowed_paths, timings
from emq_compat.manager.intake import Intake
from emq_compat.manager.losses import Losses
from emq_compat.manager.messages import (
    delivery_of,
    message_of,
    weighted,
    worker_addresses,
    workers_address,
)
from emq_compat.manager.placement import Placement
from emq_compat.manager.revokes import Revokes, RevokesTold
from emq_compat.manager.settings import DEFAULT_WEIGHT, EventmqSettings, read_settings
from emq_compat.manager.signals import Stage
from emq_compat.manager.throttle import Throttle
from emq_compat.manager.turns import Turns
from emq_compat.message import FAILURE, Delivery, Outcome
from emq_compat.pool.base import Pool, PoolOptions
from emq_compat.pool.factory import make_pool
from emq_compat.run import Program
from emq_compat.upstream.base import Asked, Connected, Delivered, Disconnected, Upstream, UpstreamEvent
from emq_compat.upstream.emq import EmqUpstream

__all__ = ["JobManager", "jobmanager_main"]

logger = logging.getLogger(__name__)

#: What a subclass may override to see every job.
_MEMBERS = (
    "handle_response",
    "on_request",
    "send_ready",
    "send_reply",
    "worker_death",
    "worker_done",
    "worker_done_with_reply",
    "worker_ready",
)


class JobManager(Intake):
    """Takes jobs from its upstreams, has its pool run them, answers.

    Args:
        name: unique name of this instance, shown in logs; a uuid by default.
        queues: names or (weight, name) of the queues listened on; empty: the program's default queue, without
            a program eventmq's setting.
        skip_signal: register no signal handlers, and leave the process's scheduling policy as it is.
        concurrent_jobs: how many jobs run at once; None: eventmq's setting.
        program: what is run; None: the paths that ``allow`` allows.
        pool: ``prefork``, ``threads``, ``solo``, or a Pool that is not started yet.
        pool_options: further options of the pool; concurrency and those that the program sets are replaced.
        upstreams: where jobs come from, or what makes them; None: the broker at ``addresses``.
        addresses: of the broker; None: eventmq's settings WORKER_ADDR and WORKER_ADDR_FAILOVER.
        allow: patterns of the paths that may be run, when no program is given.
        settings: eventmq's settings; None: read from their file and the environment.
        kill_grace_period: the longest warm shutdown, in seconds; None: as long as jobs run.
        soft_shutdown_timeout_s: what a cold shutdown still gives to running jobs (Celery's
            worker_soft_shutdown_timeout).
        restart_on_hup: HUP ends ``start`` with ``restart_wanted`` set; otherwise it reloads the settings.
        reserve: whether short jobs may wait behind another one in a child.
        before_fork: called after the program's ``worker_init``, before there is any child.
        after_fork: called once the pool has started, before there is any connection; what it raises ends the
            start.
        on_connected: called with the broker's address whenever a broker has taken this worker in.
        companions: name → descriptor that becomes readable when that companion has ended (a pidfd): this
            job manager then ends, too, with exit status 1.
        autoscaler: makes what grows and shrinks the pool.

    Attributes:
        jobs_in_flight: msgid → all details of each job that was delivered and is not answered.
        pid_distribution: pid → jobs completed by that process.
        total_requests: REQUESTs received.
        runs_by_task: name of each registered task → runs that began.
        total_ready_sent: READYs sent, one a job.
        outgoing: the (first) upstream.
        modules_wanted: what is to be imported, too, when this is started again (``start_again``).
    """

    def __init__(
        self,
        name: str | None = None,
        queues: Sequence[str | Sequence[Any]] = (),
        skip_signal: bool = False,
        *,
        concurrent_jobs: int | None = None,
        program: Program | None = None,
        pool: str | Pool = "prefork",
        pool_options: PoolOptions | None = None,
        upstreams: Sequence[Upstream] | Callable[[JobManager], Sequence[Upstream]] | None = None,
        addresses: Sequence[Address] | None = None,
        allow: Sequence[str] = (),
        settings: EventmqSettings | None = None,
        kill_grace_period: float | None = None,
        soft_shutdown_timeout_s: float = 0.0,
        restart_on_hup: bool = False,
        reserve: bool = True,
        before_fork: Callable[[], None] | None = None,
        after_fork: Callable[[], None] | None = None,
        on_connected: Callable[[str], None] | None = None,
        companions: Mapping[str, int] | None = None,
        autoscaler: Callable[[Pool, JobManager], Autoscaler] | None = None,
    ) -> None:
        super().__init__(
            skip_signal=skip_signal,
            kill_grace_period=kill_grace_period,
            soft_shutdown_timeout_s=soft_shutdown_timeout_s,
            before_fork=before_fork,
            after_fork=after_fork,
            companions=companions,
        )
        self.name = name or str(uuid.uuid4())
        self.settings = settings if settings is not None else read_settings(os.environ)
        self.program: Program = program if program is not None else allowed_paths(self.settings, allow)
        self.queues = weighted(queues) or (
            self.settings.queues if program is None else ((DEFAULT_WEIGHT, program.default_queue),)
        )
        self.concurrent_jobs = concurrent_jobs or self.settings.concurrent_jobs
        self.restart_on_hup = restart_on_hup
        self.on_connected = on_connected

        self.pid_distribution: dict[int, int] = {}
        self.total_requests = 0
        self.total_ready_sent = 0
        self.started_at = time.monotonic()

        self.runs_by_task = dict.fromkeys(self.program.policies or (), 0)

        options = self._pool_options(pool_options)
        self.max_tasks_per_child = options.max_tasks_per_child
        self.pool = pool if isinstance(pool, Pool) else make_pool(pool, options, self.program.work)
        throttle = Throttle(
            {
                task: policy.interval_s
                for task, policy in (self.program.policies or {}).items()
                if policy.interval_s is not None
            }
        )
        self._placement = Placement(self.pool, reserve=reserve, throttle=throttle)
        self.jobs_in_flight = self._placement.jobs
        self.autoscaler = autoscaler(self.pool, self) if autoscaler is not None else None
        self._placement.scaler = self.autoscaler
        if upstreams is None:
            upstreams = [self.upstream_of(addresses or worker_addresses(self.settings))]
        elif callable(upstreams):
            upstreams = upstreams(self)
        self.upstreams = tuple(upstreams)
        self.outgoing = self.upstreams[0]

        self._quick = True
        self._credit_out: dict[Upstream, int] = {}
        self._turns: Turns[Upstream] = Turns()
        self._revoked: set[str] = set()
        self._revokes_told = RevokesTold()
        self._losses = Losses()
        self.revokes = Revokes()
        self.revoked_tags = Revokes()
        self._been_ready = False
        self.modules_wanted: tuple[str, ...] = ()
        self._connections = Connections()
        self._arriving: tuple[Upstream, Delivery] | None = None

    def _pool_options(self, given: PoolOptions | None) -> PoolOptions:
        options = given or PoolOptions(max_tasks_per_child=self.settings.max_job_count or None)
        return replace(
            options,
            concurrency=self.concurrent_jobs,
            soft_limit_exceeded=self.program.soft_limit_exceeded,
            before_child=self.program.onlooker.before_child,
            child_init=self.program.child_init,
            child_exit=self.program.child_exit,
            rebuild=self.program.rebuild,
        )

    def upstream_of(self, addresses: Sequence[Address]) -> EmqUpstream:
        """Return the upstream of our broker, or a stock router, at one of these addresses."""
        policies = self.program.policies
        hears = "e" if self.program.onlooker.hears_ends else ""
        tasks = (
            None
            if policies is None
            else {
                task: f"{'l' if policy.acks_late else ''}{'r' if policy.reject_on_worker_lost else ''}{hears}"
                for task, policy in policies.items()
            }
        )
        return EmqUpstream(
            name=self.name,
            addresses=addresses,
            queues=self.queues,
            slots=self._most_at_once,
            tasks=tasks,
            intervals=self._placement.throttle.intervals,
            shares=None
            if policies is None
            else {task: policy.shares for task, policy in policies.items() if any(policy.shares)},
            control=self.program.onlooker.namespace,
            timings=timings(self.settings),
            on_heartbeat=self._heard_heartbeat,
            on_heartbeat_sent=self.program.onlooker.heartbeat_sent,
        )

    # Start and stop.

    def jobmanager_main(self, broker_addr: str | None = None) -> int:
        """Set logging up, read eventmq's settings, and run until the end; returns the exit status.

        Args:
            broker_addr: the workers' endpoint of a broker, or an address of ours; wins over the settings.
        """
        if not logging.getLogger().handlers:
            logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        self.settings = read_settings(os.environ)
        if self.kill_grace_period is None:
            self.kill_grace_period = self.settings.kill_grace_period
        return self.start(broker_addr)

    def start(self, addr: str | None = None, queues: Sequence[str | Sequence[Any]] = ()) -> int:
        """Run until the end; returns the exit status: 0 after a warm shutdown, 1 when jobs were cut off.

        The children are forked before anything has a thread or a socket.
        """
        if queues:
            self.queues = weighted(queues)
        if addr is not None or queues:
            addresses = worker_addresses(self.settings) if addr is None else workers_address(addr)
            self.upstreams = (self.upstream_of(addresses),)
            self.outgoing = self.upstreams[0]
        self._quick = self._nothing_overridden()
        return self._live()

    def _on_hup(self) -> None:
        if self.restart_on_hup:
            self.start_again()
            return
        try:
            settings = read_settings(os.environ)
        except ConfigurationError as exc:
            logger.error("the settings stay as they were: %s", exc)
            return
        before, self.settings = self.settings, settings
        if settings.queues != before.queues:
            self.listen(settings.queues)
        if settings.kill_grace_period != before.kill_grace_period:
            self.kill_grace_period = settings.kill_grace_period
        more = settings.concurrent_jobs - before.concurrent_jobs
        if more > 0:
            self.pool.grow(more)
        elif more < 0:
            self.pool.shrink(min(-more, self.pool.concurrency - 1))
        self.concurrent_jobs = self.pool.concurrency
        logger.info("settings reloaded; what only a restart can change stays as it was")

    @property
    def revoked(self) -> Set[str]:
        """The ids of the tasks that this worker was told are revoked."""
        return self._revoked | set(self.revokes)

    def start_again(self, modules: Sequence[str] = ()) -> None:
        """Have ``start`` end, warm, with ``restart_wanted`` set.

        Args:
            modules: what whoever starts this again is to import, too.

        Raises:
            ConfigurationError: nobody would start it again.
        """
        if not self.restart_on_hup:
            raise ConfigurationError("this worker can't start itself again")
        self.modules_wanted = (*self.modules_wanted, *modules)
        self.restart_wanted = self.restart_wanted or self._stage is Stage.RUNNING
        self.shut_down()

    def is_connected(self, upstream: Upstream) -> bool:
        """Whether one of ``upstreams`` has a broker that has taken this worker in, and is heard."""
        return self._connections.stands(upstream)

    @property
    def reconnects(self) -> int:
        """Connections to brokers beyond the first of each upstream."""
        return self._connections.reconnects

    def renew_pool(self) -> None:
        """Replace what runs jobs: idle processes or threads now, the others once they have ended theirs.

        Raises:
            ConfigurationError: the pool can't.
        """
        if self.pool.name == "solo":
            raise ConfigurationError("the solo pool has only the main thread: reload=True starts again")
        slots = self.pool.concurrency
        self.pool.shrink(slots)
        self.pool.grow(slots)

    # What upstreams tell.

    def _on_upstream_event(self, upstream: Upstream, event: UpstreamEvent) -> None:
        kind = type(event)
        if kind is Delivered:
            assert isinstance(event, Delivered)
            delivery = event.delivery
            if self._quick:
                self.total_requests += 1
                self._accept(upstream, delivery)
                return
            self._arriving = (upstream, delivery)
            try:
                self.on_request(delivery.msgid, message_of(delivery))
            finally:
                self._arriving = None
        elif kind is Connected:
            assert isinstance(event, Connected)
            self._credit_out[upstream] = 0
            if self.on_connected is not None:
                self.on_connected(event.address)
            anew = self._connections.connected(upstream)
            self.program.onlooker.connected(self, self._connections.announce, anew=anew)
            if not self._been_ready:
                self._been_ready = True
                self.program.onlooker.ready()
        elif kind is Disconnected:
            assert isinstance(event, Disconnected)
            self._credit_out.pop(upstream, None)
            self._turns.forget(upstream)
            if event.cut and not upstream.remembers:
                self._forget_waiting(upstream)
            if self._connections.disconnected(upstream, cut=event.cut):
                self.program.onlooker.disconnected()
        elif isinstance(event, Asked):
            upstream.answer(event.asked, control.answer(self, event.verb, event.arguments))
        else:
            self.on_disconnect("", ())

    def on_request(self, msgid: str, msg: Sequence[Any]) -> None:
        """Take a job in.

        Args:
            msgid: of the REQUEST.
            msg: ``(queue, headers, payload)`` as text, as it comes from a broker; or ``[subcommand,
                options]``, where the subcommand is ``run`` and the options hold ``path`` (``module`` or
                ``module:Class``), ``callable`` and, if wanted, ``args``, ``kwargs``, ``class_args``,
                ``class_kwargs``. Anything else is answered with an error.
        """
        self.total_requests += 1
        if self._arriving is not None and self._arriving[1].msgid == msgid:
            self._accept(*self._arriving)
            return
        try:
            delivery = delivery_of(msgid, msg)
        except MessageError as exc:
            logger.error("the request %s is refused: %s", msgid, exc)
            refusal = Outcome(state=FAILURE, failure=failure_of(exc)).encode()
            self.send_reply(refusal.body.decode(), msgid)
            return
        self._accept(self.outgoing, delivery)

    def on_heartbeat(self, msgid: str, message: Sequence[str]) -> None:
        """A HEARTBEAT of the broker: looks after the pool. Every message tells that the broker lives."""
        if self._started:
            self.check_worker_health()

    def _heard_heartbeat(self, msgid: str, message: Sequence[str]) -> None:
        self.on_heartbeat(msgid, message)

    def on_disconnect(self, msgid: str, msg: Sequence[str]) -> None:
        """The broker asks this job manager to leave: a warm shutdown."""
        logger.warning("the broker asks %s to leave", self.name)
        self.shut_down()

    def listen(self, queues: Sequence[tuple[int, str]]) -> None:
        """Listen on these queues from now on."""
        self.queues = tuple(queues)
        for upstream in self.upstreams:
            if not upstream.listen(self.queues):
                logger.warning("the new queues take effect at the next start")

    def _nothing_overridden(self) -> bool:
        kind = type(self)
        return all(name not in self.__dict__ and getattr(kind, name) is _PLAIN[name] for name in _MEMBERS)


#: The members as they are here: whoever replaced one, in a subclass or for a test, wants to see every job.
_PLAIN: dict[str, Callable[..., Any]] = {name: getattr(JobManager, name) for name in _MEMBERS}


def jobmanager_main(broker_addr: str | None = None) -> int:
    """Run a job manager with eventmq's settings; returns the exit status."""
    return JobManager().jobmanager_main(broker_addr)
