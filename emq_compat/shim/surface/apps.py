"""``celery.app``: functions about the apps of this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emq_compat.shim import current
from emq_compat.shim.app import Celery
from emq_compat.shim.bug_report import bug_report
from emq_compat.shim.pickling import AppPickler
from emq_compat.shim.surface.local import Proxy

__all__ = [
    "AppPickler",
    "app_or_default",
    "bugreport",
    "default_app",
    "disable_trace",
    "enable_trace",
    "pop_current_task",
    "push_current_task",
]

_traced: Callable[[], None] | None = None

default_app: Any = Proxy(current.get_app)
#: The current app's tasks (``celery.registry.tasks``).
tasks: Any = Proxy(lambda: current.get_app().tasks)


def app_or_default(app: Celery | None = None) -> Celery:
    """Return the app, or the current one instead of None; while traced the latter is an error.

    Raises:
        RuntimeError: ``enable_trace`` was called, and no app is given.
    """
    if app is None and _traced is not None:
        _traced()
    return app if app is not None else current.get_app()


def enable_trace() -> None:
    """From now on ``app_or_default()`` without an app is an error, to find where one was forgotten."""
    global _traced

    def refuse() -> None:
        raise RuntimeError("app_or_default() was called without an app")

    _traced = refuse


def disable_trace() -> None:
    """Undo ``enable_trace``."""
    global _traced
    _traced = None


def push_current_task(task: Any) -> None:
    """Make a task the current one: as if it ran here, with an empty request."""
    before = current.frame_var.get()
    current.frame_var.set(current.Frame(task, task.request_stack.top or _context(), previous=before))


def pop_current_task() -> Any:
    """Undo the last ``push_current_task``; returns its task."""
    frame = current.frame_var.get()
    if frame is None:
        return None
    current.frame_var.set(frame.previous)
    return frame.task


def _context() -> Any:
    from emq_compat.shim.request import Context  # noqa: PLC0415 - only here

    return Context()


def send_task(name: str, *args: Any, **kwargs: Any) -> Any:
    """Publish a call of a task by its name, with the current app (``celery.execute.send_task``)."""
    return current.get_app().send_task(name, *args, **kwargs)


def bugreport(app: Celery | None = None) -> str:
    """Return versions and what was set, secrets masked, as text."""
    return bug_report(app_or_default(app))


def maybe_patch_concurrency(*args: Any, **kwargs: Any) -> None:
    """Do nothing: there are no gevent and eventlet pools here, so nothing has to be patched early."""
