"""Celery's API on emq-compat: ``from emq_compat.celery_shim import Celery, shared_task``.

A task is registered under its name (Celery's rules: ``module.function``, or ``name=``), and our workers find
it by that. The message names an importable path, too, by which a stock eventmq job manager calls the same
task: which path a task has, and what happens where there is none, stands in ``emq_compat/shim/paths.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from emq_compat.errors import NotPublished, QueueFull
from emq_compat.ids import new_id
from emq_compat.shim import current, exceptions, later, states
from emq_compat.shim.app import Celery
from emq_compat.shim.declare import shared_task
from emq_compat.shim.exceptions import (
    EncodeError,
    Ignore,
    MaxRetriesExceededError,
    NotRegistered,
    OperationalError,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from emq_compat.shim.public_modules import register
from emq_compat.shim.task import Task

if TYPE_CHECKING:
    from emq_compat.shim.alias.finder import install
    from emq_compat.shim.canvas.kinds import (
        Signature,
        StampingVisitor,
        chain,
        chord,
        chunks,
        group,
        maybe_signature,
        signature,
        subtask,
        xmap,
        xstarmap,
    )
    from emq_compat.shim.request import Context
    from emq_compat.shim.result import AsyncResult, EagerResult, GroupResult

__all__ = [
    "AsyncResult",
    "Celery",
    "Context",
    "EagerResult",
    "EncodeError",
    "GroupResult",
    "Ignore",
    "MaxRetriesExceededError",
    "NotPublished",
    "NotRegistered",
    "OperationalError",
    "QueueFull",
    "Reject",
    "Retry",
    "Signature",
    "SoftTimeLimitExceeded",
    "StampingVisitor",
    "Task",
    "TaskRevokedError",
    "TimeLimitExceeded",
    "WorkerLostError",
    "chain",
    "chord",
    "chunks",
    "current_app",
    "current_task",
    "exceptions",
    "group",
    "install",
    "maybe_signature",
    "shared_task",
    "signature",
    "states",
    "subtask",
    "task",
    "uuid",
    "xmap",
    "xstarmap",
]

#: Celery's modules are found below this one: ``from emq_compat.celery_shim.signals import task_prerun``.
__path__: list[str] = []
register()

#: Stands for the app that is current when it is used, made here where there is none.
current_app = cast(Celery, current.CurrentApp())
#: Stands for the task that is running here; falsy where none is.
current_task: Any = current.CurrentTask()
#: The same as ``shared_task``, for a project that has no app in hand.
task = shared_task
#: Returns a new task id.
uuid = new_id


if not TYPE_CHECKING:  # the names that are imported above for type checkers only

    def __getattr__(name: str) -> Any:
        """Load workflows, results and the alias when they are first asked for."""
        if name in __all__:
            value = getattr(later, "signature" if name == "subtask" else name)
        elif name.startswith("__") and name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        else:  # the rest of what `import celery` has: its modules (`celery_shim.signals`), its version
            value = getattr(later.alias_module("celery"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
