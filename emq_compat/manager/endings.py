"""How the jobs of a job manager end: what the pool tells, eventmq's responses, and revokes."""

from __future__ import annotations

import json
import logging
import signal
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from emq_compat.errors import ConfigurationError
from emq_compat.manager.inflight import JobInFlight
from emq_compat.manager.life import Life
from emq_compat.manager.losses import Losses, lost_too_often, reply_to_lost, revoked
from emq_compat.manager.messages import state_in
from emq_compat.manager.revokes import RevokesTold
from emq_compat.manager.signals import Stage
from emq_compat.message import REQUEUED, REVOKED, SUCCESS, Reply
from emq_compat.pool.base import SOFTENS, Begun, Finished, Lost, PoolBroken, PoolEvent, Updated
from emq_compat.run import about
from emq_compat.upstream.base import Upstream

__all__ = ["Endings"]

logger = logging.getLogger("emq_compat.jobmanager")

_CALLBACKS = frozenset(
    {"premature_death", "worker_death", "worker_done", "worker_done_with_reply", "worker_ready"}
)
#: Processes whose jobs are counted, unless more live: children that are replaced often would have no end.
PIDS_MAX = 32


class Endings(Life):
    """Takes in what the pool tells and answers the jobs.

    Attributes:
        pid_distribution: pid → jobs completed by that process, of those that live and the last ones.
        runs_by_task: name of each registered task → runs that began.
        outgoing: the (first) upstream.
    """

    pid_distribution: dict[int, int]
    runs_by_task: dict[str, int]
    outgoing: Upstream
    #: None of eventmq's members is overridden: a shorter path leads to the same end.
    _quick: bool
    _revoked: set[str]
    _revokes_told: RevokesTold
    _losses: Losses

    @abstractmethod
    def send_ready(self) -> None:
        """Tell the broker that one more job can be taken."""

    def check_worker_health(self) -> None:
        """Find dead processes in the pool and have them replaced.

        The loop learns of a death at once, by pidfd; this is for those who don't want to wait for the loop.
        """
        for event in self.pool.step((), time.monotonic()):
            self._on_pool_event(event)

    def _on_pool_event(self, event: PoolEvent) -> None:
        kind = type(event)
        if kind is Finished:
            assert isinstance(event, Finished)
            job = self.jobs_in_flight.get(event.key[0])
            if job is None:
                return
            self._placement.credit.note(job.delivery.headers.task, event.runtime_s)
            if self.watch is not None:
                self.watch.ended(job.delivery, event.reply.state, event.runtime_s)
            if event.reply.state == REVOKED:  # expired, or revoked by the child that was to run it
                self.program.onlooker.unattended(job.delivery, event.reply)
            else:
                self.program.onlooker.ended(job.delivery, event.reply)
            if self._quick:
                self._count_for(event.pid)
                self._answer(job, event.reply)
            else:
                job.reply = event.reply
                self._respond(job, event.pid, death=False)
        elif kind is Begun:
            assert isinstance(event, Begun)
            job = self.jobs_in_flight.get(event.key[0])
            if job is not None:
                job.pid = event.pid
                if not job.began_at:
                    self.program.onlooker.began(job.delivery)
                    if self.watch is not None:
                        self.watch.began(job.delivery)
                job.began_at = time.time()
                if (task := job.delivery.headers.task) in self.runs_by_task:
                    self.runs_by_task[task] += 1
                job.upstream.began(job.keys)
        elif isinstance(event, Updated):
            job = self.jobs_in_flight.get(event.key[0])
            if job is not None:
                job.upstream.update(job.keys[-1], event.state, event.body)
        elif isinstance(event, Lost):
            self._on_lost(event)
        elif isinstance(event, PoolBroken):
            logger.critical("the pool can't go on: %s", event.detail)
            self._exit_code = 1
            self._pool_broken = True
            self.shut_down()

    def _on_lost(self, lost: Lost) -> None:
        job = self.jobs_in_flight.get(lost.key[0])
        if job is None:
            return
        if self.watch is not None:
            self.watch.lost(job.delivery, lost.reason)
        headers = job.delivery.headers
        by_eventmq = not headers.task  # the shim's messages have a timeout, too, for stock workers
        reply = reply_to_lost(
            lost, job.delivery, job.policy, job.assignment.limit_s, expired_by_eventmq=by_eventmq
        )
        if reply.state == REQUEUED and not headers.concludes and (limit := job.upstream.max_losses):
            losses = self._losses.note(job.delivery.msgid)
            if losses > limit:
                reply = lost_too_often(lost, job.delivery, losses, limit)
        name = headers.task or "-"
        if lost.reason == "terminated":
            by = f" by {signal.Signals(job.signum).name}" if job.signum else ""
            logger.info(
                "Task %s[%s] revoked (terminated%s)",
                name,
                job.task_id,
                by,
                extra=about(job.delivery, REVOKED),
            )
        else:
            why = f"{lost.reason}, {lost.detail}" if lost.detail else lost.reason
            logger.error(
                "Task %s[%s] lost (%s): %s",
                name,
                job.task_id,
                why,
                reply.state,
                extra=about(job.delivery, reply.state),
            )
        if self._quick:
            self._end(job, reply)
            return
        self.program.onlooker.unattended(job.delivery, reply, signum=job.signum)
        job.reply = reply
        self._respond(job, lost.pid, death=True)
        self.handle_response(
            {"callback": "worker_death", "msgid": None, "return": "DEATH", "pid": lost.pid, "death": True}
        )

    def _respond(self, job: JobInFlight, pid: int, *, death: bool) -> None:
        """Say what became of a job in eventmq's way."""
        assert job.reply is not None
        self.handle_response(
            {
                "callback": "worker_done_with_reply" if _wants_reply(job) else "worker_done",
                "msgid": job.delivery.msgid,
                "return": json.loads(job.reply.body),
                "pid": pid,
                "death": death,
            }
        )

    def handle_response(self, resp: Mapping[str, Any]) -> None:
        """Act on what a process of the pool said.

        Args:
            resp: ``callback``, the name of the method that is called with ``(return, msgid, death, pid)``;
                ``msgid``; ``return``, the reply ``{"value": …}`` or ``"DEATH"``; ``pid``; ``death``, true
                when the process is gone.

        Raises:
            ConfigurationError: the callback is none of this class's.
        """
        callback, msgid = resp["callback"], resp["msgid"]
        if callback not in _CALLBACKS:
            raise ConfigurationError(f"{callback!r} is no callback of a job manager")
        getattr(self, callback)(resp["return"], msgid, resp["death"], resp["pid"])
        job = self.jobs_in_flight.get(msgid) if msgid else None
        if job is not None:
            self._forget(job)
            if job.unanswered:
                self._reply_to(
                    job, job.reply or Reply(state=SUCCESS, body=json.dumps(resp["return"]).encode())
                )
        if not resp["death"] and msgid:
            self._count_for(resp["pid"])

    def _count_for(self, pid: int) -> None:
        """Count a job that this process has completed."""
        counts = self.pid_distribution
        if pid not in counts and len(counts) >= PIDS_MAX:
            living = self.pool.pids()
            gone = next((one for one in counts if one not in living), None)
            if gone is not None:
                del counts[gone]
        counts[pid] = counts.get(pid, 0) + 1

    def worker_done(self, reply: Any, msgid: str, death: bool, pid: int) -> None:
        """A job ended whose value nobody asked for: there is room for one more."""
        if self._stage is Stage.RUNNING and not death:
            self.send_ready()

    def worker_done_with_reply(self, reply: Any, msgid: str, death: bool, pid: int) -> None:
        """A job ended, and its broker waits for the reply; there is room for one more."""
        try:
            text = json.dumps(reply)
        except (TypeError, ValueError) as exc:
            text = json.dumps({"value": str(exc)})
        self.send_reply(text, msgid)
        self.worker_done(reply, msgid, death, pid)

    def worker_ready(self, reply: Any, msgid: str | None, death: bool, pid: int) -> None:
        """A process is ready for its first job."""
        self.send_ready()

    def worker_death(self, reply: Any, msgid: str | None, death: bool, pid: int) -> None:
        """A process is gone. The pool replaces it; what it ran has been answered."""
        logger.debug("process %s is gone", pid)

    def premature_death(self, reply: Any, msgid: str | None, death: bool = True, pid: int = 0) -> None:
        """A process was gone before it ran anything."""
        logger.debug("process %s was gone before it ran anything", pid)

    def send_reply(self, reply: Any, msgid: str) -> None:
        """Answer a job.

        Args:
            reply: JSON text (``{"value": …}``), or an object that becomes it.
            msgid: of the REQUEST.
        """
        body = (
            reply
            if isinstance(reply, bytes)
            else (reply if isinstance(reply, str) else json.dumps(reply)).encode()
        )
        job = self.jobs_in_flight.get(msgid)
        if job is None:
            self.outgoing.reply((msgid, 0), Reply(state=state_in(body), body=body))
        elif job.reply is not None:
            self._reply_to(job, replace(job.reply, body=body))
        else:
            self._reply_to(job, Reply(state=state_in(body), body=body))

    def _answer(self, job: JobInFlight, reply: Reply) -> None:
        """Reply to a job and forget it."""
        if self._forget(job):
            for key in job.keys:
                job.upstream.reply(key, reply)

    def _reply_to(self, job: JobInFlight, reply: Reply) -> None:
        job.unanswered = False
        for key in job.keys:
            job.upstream.reply(key, reply)

    def _forget(self, job: JobInFlight) -> bool:
        if self._revoked:
            self._revoked.discard(job.task_id)
        return self._placement.forget(job)

    def revoke(
        self, ids: Sequence[str], *, terminate: bool = False, signum: int = signal.SIGTERM
    ) -> dict[str, str]:
        """Revoke jobs that this job manager holds; with ``terminate`` also those that run.

        Returns:
            Task id → ``revoked``, ``terminating``, ``running`` (it goes on) or ``unknown`` (not here). Of
            what an earlier revoke has just ended: what that returned.
        """
        wanted = dict.fromkeys(ids, "unknown")
        waiting = False
        for job in list(self.jobs_in_flight.values()):
            if job.task_id not in wanted:
                continue
            if not job.began_at:
                self._revoked.add(job.task_id)
                wanted[job.task_id] = "revoked"
                waiting = True
            elif terminate and self._terminate(job, signum):
                wanted[job.task_id] = "terminating"
            else:
                wanted[job.task_id] = "running"
        if waiting:
            self._give_back_revoked(wanted, terminate, signum)
        for task_id, what in wanted.items():
            if what in ("revoked", "terminating"):
                self._revokes_told.note(task_id, what)
            elif what == "unknown" or terminate:  # gone, or still going
                wanted[task_id] = self._revokes_told.get(task_id) or what
        return wanted

    def _give_back_revoked(self, wanted: dict[str, str], terminate: bool, signum: int) -> None:
        """Take back what waits, end what was revoked, and give the rest to the pool again."""
        for job in self._placement.take_back():
            if job.task_id in self._revoked:
                self._end(job, revoked("revoked"))
            else:
                self._placement.take_in(job)
        for job in list(self.jobs_in_flight.values()):
            if job.task_id in self._revoked:  # it began in this very moment
                self._revoked.discard(job.task_id)
                ended = terminate and self._terminate(job, signum)
                wanted[job.task_id] = "terminating" if ended else "running"

    def _terminate(self, job: JobInFlight, signum: int) -> bool:
        if signum == SOFTENS == job.signum:
            return True  # it is told once: what it does to tidy up is not cut short
        job.signum = signum
        return self.pool.terminate(job.assignment.key, signum)


def _wants_reply(job: JobInFlight) -> bool:
    # Our broker learns by the REPLY that a job ended; a stock router only ever passes it on to who asked.
    return job.upstream.takes_back or job.delivery.headers.reply_requested
