"""``celery.app.trace``: running a task in place, as a worker would, for tools that do so themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from emq_compat.shim.eager import run_here
from emq_compat.shim.handlers import ExceptionInfo
from emq_compat.shim.states import SUCCESS
from emq_compat.shim.surface.saferepr import saferepr

__all__ = ["TraceInfo", "build_tracer", "trace_ok_t", "trace_task"]


class trace_ok_t(NamedTuple):  # noqa: N801 - Celery's name
    """What came of a run: the value or ExceptionInfo, a TraceInfo or None, seconds, the value's repr."""

    retval: Any
    info: TraceInfo | None
    runtime: float
    retstr: str


class TraceInfo:
    """A run that didn't succeed: its state, and the exception."""

    __slots__ = ("retval", "state")

    def __init__(self, state: str, retval: Any = None) -> None:
        self.state = state
        self.retval = retval


def build_tracer(
    name: str, task: Any, *args: Any, propagate: bool = False, **kwargs: Any
) -> Callable[..., trace_ok_t]:
    """Return a function ``(uuid, args, kwargs, request=None)`` that runs a task here.

    Handlers, signals, callbacks and retries (at once) are those of ``task.apply()``; results aren't stored.
    Celery's further arguments have no effect.

    Args:
        name: the task's name, which it has anyway.
        propagate: raise what the task raises.
    """

    def trace(
        uuid: str, args: Sequence[Any], kwargs: Mapping[str, Any], request: Mapping[str, Any] | None = None
    ) -> trace_ok_t:
        begun = time.monotonic()
        ended = run_here(
            task, args or (), kwargs or {}, throw=propagate, request={**(request or {}), "id": uuid}
        )
        took_s = time.monotonic() - begun
        if ended.state == SUCCESS:
            return trace_ok_t(ended.result, None, took_s, saferepr(ended.result))
        info = ExceptionInfo(ended.result)
        return trace_ok_t(info, TraceInfo(ended.state, ended.result), took_s, "")

    return trace


def trace_task(
    task: Any,
    uuid: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    request: Mapping[str, Any] | None = None,
    **opts: Any,
) -> trace_ok_t:
    """Run a task here: ``build_tracer(task.name, task, **opts)`` and a call of it."""
    return build_tracer(task.name, task, **opts)(uuid, args, kwargs, request)
