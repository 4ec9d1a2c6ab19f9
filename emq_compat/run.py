"""The ``run`` subcommand: path, callable, class_args → a call → an Outcome.

Nothing here knows a socket, a process or Celery. An object that wants more than a plain call (a shim task, a
genuine Celery task) has a method ``__emq_run__(job, delivery, report) -> Outcome``; everything else is called
with the job's arguments, and what it returns is the value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from emq_compat.message import Delivery, Job, Outcome, Reply

__all__ = ["Program", "Runnable", "TaskPolicy"]


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

    Limits are in seconds; None: no limit.
    """

    acks_late: bool = False
    reject_on_worker_lost: bool = False
    limit_s: float | None = None
    soft_limit_s: float | None = None


class Program(Protocol):
    """What a job manager runs: a Celery-style app, or the importable paths that a site allows.

    Attributes:
        name: for the banner and logs.
        policies: task name → policy, of every registered task; None: any allowed path (a plain job manager).
        default_policy: for a delivery whose task name is not in ``policies``.
        default_queue: the queue listened on when the command line names none.
        soft_limit_exceeded: the exception raised inside a task at its soft limit.
        rebuild: an importable ``module:callable`` and its string arguments that make this program again in a new
            process (spawn); None: it can't be.
    """

    name: str
    policies: Mapping[str, TaskPolicy] | None
    default_policy: TaskPolicy
    default_queue: str
    soft_limit_exceeded: type[BaseException]
    rebuild: tuple[str, tuple[str, ...]] | None

    def work(self, delivery: Delivery, report: Report) -> Reply:
        """Run one delivery; never raises an Exception (a bad payload, a refused path, a failing task are Replies)."""
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
