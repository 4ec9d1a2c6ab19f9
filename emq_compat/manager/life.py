"""The life of a job manager: its start, its loop, and its end in stages.

One loop polls the signals, the pool and the upstreams; what they tell is the job manager's affair, which it
takes in by the abstract methods here.
"""

from __future__ import annotations

import logging
import math
import os
import select
import signal
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import FrameType

from emq_compat.manager.inflight import JobInFlight
from emq_compat.manager.losses import reply_to_lost
from emq_compat.manager.placement import Placement
from emq_compat.manager.precedence import give_way
from emq_compat.manager.signals import Signals, Stage, next_stage, remapped_term
from emq_compat.manager.watch import Watch
from emq_compat.memory import Spare
from emq_compat.message import Reply
from emq_compat.pool.base import Lost, Pool, PoolEvent
from emq_compat.run import Program
from emq_compat.upstream.base import Upstream, UpstreamEvent
from emq_compat.words import amount

__all__ = ["Life"]

logger = logging.getLogger(__name__)

#: How long the replies of a warm shutdown may take to be acknowledged, and those of a cold one.
FLUSH_S = 10.0
FLUSH_COLD_S = 1.0
#: How long children that have nothing left to do may take to leave.
LEAVE_S = 5.0

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)


class Life(ABC):
    """Starts, loops and ends; the arguments are JobManager's.

    Attributes:
        received_disconnect: the end has begun.
        restart_wanted: after the end, whoever started this is to start it again.
        watch: counts what happens; None: nobody does.
    """

    name: str
    program: Program
    pool: Pool
    upstreams: tuple[Upstream, ...]
    jobs_in_flight: dict[str, JobInFlight]
    _placement: Placement

    def __init__(
        self,
        *,
        skip_signal: bool,
        kill_grace_period: float | None,
        soft_shutdown_timeout_s: float,
        before_fork: Callable[[], None] | None,
        after_fork: Callable[[], None] | None,
        companions: Mapping[str, int] | None,
    ) -> None:
        self.skip_signal = skip_signal
        self.kill_grace_period = kill_grace_period
        self.soft_shutdown_timeout_s = soft_shutdown_timeout_s
        self.before_fork = before_fork
        self.after_fork = after_fork
        self.received_disconnect = False
        self.restart_wanted = False
        self._companions = {fd: name for name, fd in (companions or {}).items()}
        self._signals = Signals()
        self._remapped = remapped_term(os.environ)
        self._stage = Stage.RUNNING
        self._stage_ends = math.inf
        self._onlooker_due = math.inf
        self._exit_code = 0
        self._pool_broken = False
        self._spare = Spare()
        self._started = False
        self.watch: Watch | None = None
        #: What other threads want to have called in the loop.
        self._calls: deque[Callable[[], None]] = deque()
        #: How far another thread wants it to go.
        self._wanted_stage = Stage.RUNNING

    @abstractmethod
    def _on_hup(self) -> None:
        """Act on HUP."""

    @abstractmethod
    def _on_pool_event(self, event: PoolEvent) -> None:
        """Take in what the pool tells."""

    @abstractmethod
    def _on_upstream_event(self, upstream: Upstream, event: UpstreamEvent) -> None:
        """Take in what an upstream tells."""

    @abstractmethod
    def _settle(self, now: float) -> None:
        """End a turn of the loop."""

    @abstractmethod
    def _give_back(self, jobs: Sequence[JobInFlight]) -> None:
        """Give jobs that never began back to their brokers."""

    @abstractmethod
    def _answer(self, job: JobInFlight, reply: Reply) -> None:
        """Reply to a job and forget it."""

    def _end(self, job: JobInFlight, reply: Reply) -> None:
        """Reply to a job whose task has had no word in it, and forget it."""
        if self.watch is not None and not job.began_at:
            self.watch.ended(job.delivery, reply.state, None)
        self.program.onlooker.unattended(job.delivery, reply, signum=job.signum)
        self._answer(job, reply)

    @abstractmethod
    def _withdraw_credit(self) -> None:
        """Note that no upstream delivers any more."""

    def _live(self) -> int:
        """Run to the end; returns the exit status."""
        if not self.skip_signal:  # the process is this job manager's own
            self._signals.install(_SIGNALS)
            give_way()
        try:
            self.program.worker_init()
            if self.before_fork is not None:
                self.before_fork()
            self.pool.start()
            self._started = True
            self._placement.closed = False
            try:
                if self.after_fork is not None:
                    self.after_fork()
                for upstream in self.upstreams:
                    upstream.start()
                self.pool.run_loop(self._loop_to_the_end)
            finally:
                if self._started:
                    self._stop()
        finally:
            self._signals.close()
        return self._exit_code

    def _loop_to_the_end(self) -> int:
        # The end belongs to the loop: the solo pool's main thread may be busy until it is cut off.
        try:
            self._loop()
        finally:
            self._stop()
        return self._exit_code

    def _stop(self) -> None:
        """Give back or answer all that is held, end the children, say goodbye."""
        cold = self._stage >= Stage.COLD or self._exit_code != 0
        self._give_back(self._placement.take_back())
        self._placement.closed = True
        for event in self.pool.stop(LEAVE_S):
            self._on_pool_event(event)
        self._started = False
        for job in list(self.jobs_in_flight.values()):
            if self.watch is not None and job.began_at:
                self.watch.lost(job.delivery, "stopped")
            self._end(job, reply_to_lost(_stopped(job), job.delivery, job.policy, None))
        for upstream in self.upstreams:
            for epilogue in upstream.epilogues():
                upstream.reply((epilogue.msgid, epilogue.attempt), self.program.work(epilogue, _unheard))
        self.program.onlooker.leaving(self)
        for upstream in self.upstreams:
            upstream.stop(FLUSH_COLD_S if cold else FLUSH_S)
        self.program.onlooker.shut_down()
        logger.info("%s has ended", self.name)

    def shut_down(self, stage: Stage = Stage.WARM, cause: str = "") -> None:
        """Go towards the end: WARM finishes what runs and gives the rest back; see Stage.

        ``cause`` is the name of the signal that asks for it.
        """
        if stage <= self._stage:
            return
        now = time.monotonic()
        was, self._stage = self._stage, stage
        self.received_disconnect = True
        self._stage_ends = math.inf
        if was is Stage.RUNNING:
            for upstream in self.upstreams:
                upstream.leave()
            self._withdraw_credit()
            self._give_back(self._placement.take_back())
            self._placement.closed = True
            # Who asked from this very process needs no telling.
            level = logging.INFO if not cause and self._wanted_stage is stage else logging.WARNING
            logger.log(level, "%s stops taking jobs%s", self.name, self._waits_for(stage, cause))
        if stage is Stage.WARM and self.kill_grace_period is not None:
            self._stage_ends = now + self.kill_grace_period
        elif stage is Stage.SOFT:
            self._stage_ends = now + self.soft_shutdown_timeout_s
            logger.warning("running jobs have %g s left", self.soft_shutdown_timeout_s)
        elif stage is Stage.COLD and self.jobs_in_flight:
            logger.warning("cutting %s off", amount(len(self.jobs_in_flight), "job"))
            self._exit_code = self._exit_code or 1
        if was < Stage.SOFT:
            how = "Warm" if stage is Stage.WARM else "Cold"
            self.program.onlooker.shutting_down(cause, how, self._exit_code)
        if was is Stage.RUNNING and self._started:
            self.pool.close()  # idle children leave now: told after the onlooker

    def _waits_for(self, stage: Stage, cause: str) -> str:
        """Say what a warm end waits for, and what the signal that asked for it does when it comes again."""
        running = len(self.jobs_in_flight)
        if stage is not Stage.WARM or not running:
            return ""
        told = f"; it waits for {amount(running, 'running job')}"
        if self.kill_grace_period is not None:
            told += f", at most {self.kill_grace_period:g} s"
        if cause:
            them = "it" if running == 1 else "them"
            left_s = self.soft_shutdown_timeout_s
            then = f"leaves {them} {left_s:g} s" if left_s > 0 else f"cuts {them} off"
            told += f": {'Ctrl-C' if cause == 'SIGINT' else cause} again {then}"
        return told

    def end_soon(self, stage: Stage = Stage.WARM) -> None:
        """``shut_down`` from another thread; returns at once. Nothing once it has ended."""
        self._wanted_stage = max(self._wanted_stage, stage)
        self._signals.wake()

    def call_soon(self, call: Callable[[], None]) -> None:
        """Have the loop call this; from another thread. It must be quick, and not raise."""
        self._calls.append(call)
        self._signals.wake()

    # The loop.

    def _loop(self) -> None:
        poller: select.poll | None = None
        wake = self._signals.fd
        pool_fds: Sequence[int] = ()
        upstream_fds: list[Sequence[int]] = []
        pool_set: frozenset[int] = frozenset()
        while not self._finished():
            now_pool_fds = self.pool.fds()
            now_upstream_fds = [upstream.fds() for upstream in self.upstreams]
            if poller is None or now_pool_fds != pool_fds or now_upstream_fds != upstream_fds:
                pool_fds, upstream_fds = list(now_pool_fds), now_upstream_fds
                pool_set = frozenset(pool_fds)
                poller = select.poll()
                upstreams_fds = (fd for fds in upstream_fds for fd in fds)
                for fd in (wake, *self._companions, *pool_fds, *upstreams_fds):
                    poller.register(fd, select.POLLIN)
            # Asked once in a turn: an upstream sends then what has been collected for it.
            upstreams_due = [upstream.deadline() for upstream in self.upstreams]
            due = min(self._due(), *(at for at in upstreams_due if at is not None), math.inf)
            ready = [fd for fd, _ in poller.poll(_milliseconds(due))]
            now = time.monotonic()
            if wake in ready:
                self._on_signals()
            if self._companions and not self._companions.keys().isdisjoint(ready):
                self._on_companions_end(ready)
                poller = None
            self._step_pool([fd for fd in ready if fd in pool_set], now)
            for upstream, fds, upstream_due in zip(self.upstreams, upstream_fds, upstreams_due, strict=True):
                if (upstream_due is not None and upstream_due <= now) or any(fd in ready for fd in fds):
                    for event in upstream.step(now):
                        self._on_upstream_event(upstream, event)
                        del event
            self._step_pool((), now)  # what began just now is told without another turn
            self._settle(now)
            if now >= self._spare.due:
                self._spare.look(now, quiet=True)
            self._onlooker_due = self.program.onlooker.turn(self, now)
            if now >= self._stage_ends:
                self.shut_down(Stage.COLD)

    def _step_pool(self, readable: Sequence[int], now: float) -> None:
        due = self.pool.next_deadline()
        if not readable and (due is None or due > now):
            return
        for event in self.pool.step(readable, now):
            self._on_pool_event(event)
            del event  # it may be large, and the next one far away
        if self._pool_broken:
            # A child whose death is seen only now leaves what it had not begun to nobody.
            self._give_back(self._placement.stranded())

    def _finished(self) -> bool:
        return self._stage >= Stage.COLD or (self._stage >= Stage.WARM and not self.jobs_in_flight)

    def _due(self) -> float:
        due = min(self._placement.due, self._stage_ends, self._onlooker_due)
        pool_due = self.pool.next_deadline()
        if pool_due is not None and pool_due < due:
            due = pool_due
        return due

    def _on_companions_end(self, ready: Sequence[int]) -> None:
        for fd in self._companions.keys() & set(ready):
            logger.critical("%s has ended: this worker ends, too", self._companions.pop(fd))
            self._exit_code = 1
        self.shut_down()

    def _on_signals(self) -> None:
        for signum in self._signals.take():
            name = signal.Signals(signum).name
            if signum == signal.SIGUSR1:
                logger.warning("where the jobs stand:\n%s", self.pool.dump_stacks())
            elif signum == signal.SIGHUP:
                logger.warning("%s caught", name)
                self._on_hup()
            else:
                logger.warning("%s caught", name)
                soft = self.soft_shutdown_timeout_s
                stage = next_stage(self._stage, signum, remapped=self._remapped, soft_timeout_s=soft)
                self.shut_down(stage, name)
        self.shut_down(self._wanted_stage)
        while self._calls:
            self._calls.popleft()()

    def sigterm_handler(self, signum: int, frame: FrameType | None = None) -> None:
        """Act on TERM, INT or QUIT; usable as a handler by a program that registers its own."""
        self._signals.note(signum)

    def sighup_handler(self, signum: int, frame: FrameType | None = None) -> None:
        """Act on HUP; usable as a handler by a program that registers its own."""
        self._signals.note(signal.SIGHUP)


def _milliseconds(due: float) -> float | None:
    return None if due is math.inf else max(0.0, (due - time.monotonic()) * 1000)


def _stopped(job: JobInFlight) -> Lost:
    return Lost(key=job.assignment.key, reason="stopped", detail="", pid=job.pid)


def _unheard(state: str, body: bytes) -> None:
    """Take a state that nobody wants to know of."""
