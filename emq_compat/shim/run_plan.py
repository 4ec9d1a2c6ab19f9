"""RunPlan: what is the same in every run of one task here, so that no run looks it up again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emq_compat.shim.packing import is_plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emq_compat.shim.app import Celery
    from emq_compat.shim.backend import Backend
    from emq_compat.shim.task import Task

__all__ = ["RunPlan", "run_plan_of"]


class RunPlan:
    """What a task's attributes and one version of the app's settings say of each of its runs.

    Attributes:
        accept: the setting accept_content.
        store: where the worker puts its results; None: the broker keeps them.
        extended: what result_extended adds is told, too.
        related: the group and the parent are told; result stores other than the broker want them.
        ignore_result, track_started: the task's.
        limits: its own hard and soft limit in seconds; None: it has none.
        plain_result: the value travels as JSON, not packed (result_serializer, result_compression).
    """

    __slots__ = (
        "accept", "app", "extended", "ignore_result", "limits", "plain_result", "related", "store",
        "track_started", "version",
    )  # fmt: skip

    def __init__(self, task: Task[..., Any], app: Celery) -> None:
        conf = app.conf
        backend: Backend = task.backend or app.backend
        self.app = app
        self.version = conf.version
        self.accept: Sequence[str] = conf.accept_content
        self.store = None if backend.kept_by_broker else backend
        self.extended = bool(conf.result_extended)
        self.related = self.extended or self.store is not None
        self.ignore_result = bool(task.ignore_result)
        self.track_started = bool(task.track_started)
        self.limits = (task.time_limit, task.soft_time_limit)
        self.plain_result = is_plain(conf.result_serializer, conf.result_compression)


def run_plan_of(task: Task[..., Any], app: Celery) -> RunPlan:
    """Return the task's plan; it is made anew after a change of the settings, or of one of its attributes."""
    plan = task._run_plan
    if plan is None or plan.version != app.conf.version or plan.app is not app:
        plan = task.__dict__["_run_plan"] = RunPlan(task, app)
    return plan
