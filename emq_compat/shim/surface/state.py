"""``celery._state``: the current app and the running task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from emq_compat.shim import current
from emq_compat.shim.current import set_default_app
from emq_compat.shim.surface.apps import default_app

__all__ = [
    "connect_on_app_finalize",
    "default_app",
    "get_current_app",
    "get_current_task",
    "get_current_worker_task",
    "set_default_app",
]

F = TypeVar("F", bound=Callable[..., object])

get_current_app = current.get_app


def connect_on_app_finalize(callback: F) -> F:
    """Have a function called with each app that is finalized from now on; usable as a decorator."""
    current.finalizers.append(callback)
    return callback


def get_current_task() -> Any:
    """Return the task that is running here, or None."""
    frame = current.frame_var.get()
    return frame.task if frame is not None else None


def get_current_worker_task() -> Any:
    """Return the outermost task that is running here: what the worker runs, not what that called; or None."""
    frame = current.frame_var.get()
    while frame is not None and frame.previous is not None:
        frame = frame.previous
    return frame.task if frame is not None else None
