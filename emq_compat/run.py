"""What a job manager runs: the contract. Nothing here knows a socket, a process or Celery."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from emq_compat.message import Delivery, Job, Outcome, Reply
from emq_compat.terms import NOTHING_SHARED, Shares

__all__ = ["Onlooker", "Program", "Report", "Runnable", "TaskPolicy", "about"]


def about(
    delivery: Delivery,
    state: str,
    task: str = "",
    runtime_s: float | None = None,
    *,
    traceback: str | None = None,
) -> dict[str, Any]:
    """Return the ``extra`` of a log line about a task: its facts, for logs in JSON (json_lines.py).

    ``traceback`` is the one that the message ends with.
    """
    headers = delivery.headers
    data: dict[str, Any] = {
        "id": headers.task_id or delivery.msgid,
        "name": task or headers.task or None,
        "queue": delivery.queue,
        "state": state,
    }
    if runtime_s is not None:
        data["runtime"] = round(runtime_s, 6)
    if traceback:
        data["traceback"] = traceback
    return {"data": data}


class Report(Protocol):
    """Tells a state that isn't final of the running job."""

    def __call__(self, state: str, body: bytes) -> None: ...


@runtime_checkable
class Runnable(Protocol):
    """An object that turns a job into an Outcome by itself."""

    def __emq_run__(self, job: Job, delivery: Delivery, report: Report) -> Outcome: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPolicy:
    """What a job manager must know of a task without running it (Celery's task attributes of these names).

    Limits are in seconds; None: no limit. ``interval_s`` is the time between two runs on one worker (its
    rate limit); ``shares`` is what its messages share over all workers. ``lost_retry_s``: a run whose process
    was lost is tried again after so many seconds, as often as ``max_retries`` allows (None: without end);
    None: it isn't (retry_on_worker_lost).
    """

    acks_late: bool = False
    reject_on_worker_lost: bool = False
    lost_retry_s: float | None = None
    max_retries: int | None = None
    limit_s: float | None = None
    soft_limit_s: float | None = None
    interval_s: float | None = None
    shares: Shares = NOTHING_SHARED
    acks_on_timeout: bool = True


class Onlooker:
    """Is told, in the job manager's process and from its loop, what happens to it; does nothing by itself.

    A method must return soon, because nothing else happens meanwhile, and must not raise.

    Attributes:
        received_log: where each job that is taken in is noted.
    """

    received_log = logging.getLogger("emq_compat.jobmanager")

    @property
    def hears_ends(self) -> bool:
        """Whether ``unattended`` is to be called for what the broker ended before any worker had it, too."""
        return False

    @property
    def namespace(self) -> str:
        """The namespace of Celery's remote control whose commands are run (``commanded``); empty: none."""
        return ""

    def before_child(self) -> None:
        """Called before each child process; the first time nothing has been forked yet."""

    def ready(self) -> None:
        """Called once: a broker has taken this worker in, and it accepts work."""

    def connected(self, manager: Any, announce: Callable[[str, bytes], bool] | None, *, anew: bool) -> None:
        """Called whenever a broker has taken this worker in; not ``anew``: the connection stood meanwhile.

        ``announce(topic, payload)`` tells the topic's subscribers, and returns False where it can't; None:
        this broker knows no topics.
        """

    def disconnected(self) -> None:
        """Called when the broker is silent or gone."""

    def turn(self, manager: Any, now: float) -> float:
        """Called in each turn of the loop; returns the monotonic time of the next call at the latest."""
        return math.inf

    def leaving(self, manager: Any) -> None:
        """Called at the end, when nothing runs any more, before the brokers are left."""

    def heartbeat_sent(self) -> None:
        """Called after each heartbeat to a broker."""

    def received(self, delivery: Delivery) -> None:
        """Called for each job that is taken in."""

    def began(self, delivery: Delivery) -> None:
        """Called when a job begins to run."""

    def ended(self, delivery: Delivery, reply: Reply) -> None:
        """Called when a job's process has replied, unless ``unattended`` is."""

    def unattended(self, delivery: Delivery, reply: Reply, *, signum: int | None = None) -> None:
        """Called when a job ends, or goes back, without a word of its task: lost, over its limit, revoked.

        ``signum`` is the signal by which it was terminated.
        """

    def asked(self, manager: Any, verb: str, arguments: Mapping[str, Any]) -> Any:
        """Called for a question of remote control that the job manager doesn't know; returns the answer.

        Raises:
            LookupError: this doesn't know it either.
            Exception: the error that is answered.
        """
        raise LookupError(f"the verb {verb!r} is unknown")

    def commanded(self, manager: Any, method: str, arguments: Mapping[str, Any]) -> Any:
        """Called for a command of Celery's remote control; returns the answer in the shape of Celery's.

        Raises:
            LookupError: there is no such command.
            Exception: the error that is answered.
        """
        raise LookupError(method)

    def send_task_events(self, manager: Any, wanted: bool) -> bool:
        """Send events of tasks from now on, or no more; returns whether that is a change."""
        return False

    def stats(self, told: dict[str, Any]) -> dict[str, Any]:
        """Return what remote control's ``stats`` answers: what the job manager tells, and more."""
        return told

    def shutting_down(self, cause: str, how: str, exit_code: int) -> None:
        """Called when the end begins (``Warm``), and when it is hurried (``Cold``).

        ``cause`` is the name of the signal that asked for it; empty: something else did.
        """

    def shut_down(self) -> None:
        """Called last: all children are gone, and all replies have left."""


class Program(Protocol):
    """What a job manager runs: a Celery-style app, or the importable paths that a site allows.

    Attributes:
        name: for the banner and logs.
        policies: task name → policy, of every registered task; None: any allowed path (a plain job manager).
        default_policy: for a delivery whose task name is not in ``policies``.
        default_queue: the queue listened on when the command line names none.
        soft_limit_exceeded: the exception raised inside a task at its soft limit.
        rebuild: an importable ``module:callable`` and its string arguments that make this program again in a
            new process (spawn); None: it can't be.
        onlooker: what wants to know of the job manager's life.
    """

    @property
    def name(self) -> str: ...
    @property
    def policies(self) -> Mapping[str, TaskPolicy] | None: ...
    @property
    def default_policy(self) -> TaskPolicy: ...
    @property
    def default_queue(self) -> str: ...
    @property
    def soft_limit_exceeded(self) -> type[BaseException]: ...
    @property
    def rebuild(self) -> tuple[str, tuple[str, ...]] | None: ...
    @property
    def onlooker(self) -> Onlooker: ...

    def work(self, delivery: Delivery, report: Report) -> Reply:
        """Run one delivery and log how it ended.

        Never raises: a bad payload, a refused path, a failing task are Replies. A delivery whose headers say
        ``concludes`` is no job but the end of one (Headers.epilogue).
        """
        ...

    def worker_init(self) -> None:
        """Called once in the parent, before anything is forked."""
        ...

    def child_init(self) -> None:
        """Called in each process that runs tasks, at its start."""
        ...

    def child_exit(self) -> None:
        """Called in each process that runs tasks, at its orderly end."""
        ...
