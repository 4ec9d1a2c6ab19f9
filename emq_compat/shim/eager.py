"""Running a task here, as a worker would: ``task.apply()`` and the setting task_always_eager."""

from __future__ import annotations

import traceback as tracebacks
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emq_compat.failures import failure_of
from emq_compat.message import new_id
from emq_compat.shim import states
from emq_compat.shim.current import Frame, frame_var
from emq_compat.shim.exceptions import Ignore, Reject, Retry
from emq_compat.shim.execution import call
from emq_compat.shim.exhausting import RETRIES, call_exhausted
from emq_compat.shim.flow import failed_here, succeeded_here
from emq_compat.shim.request import Context
from emq_compat.shim.result import EagerResult

if TYPE_CHECKING:
    from emq_compat.shim.task import Task

__all__ = ["run_here"]


def run_here(
    task: Task[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    throw: bool,
    request: Mapping[str, Any],
) -> EagerResult[Any]:
    """Run a task with a request, and again at once as often as it asks for a retry.

    Args:
        throw: raise what the task raises, in place of returning it as the result.
        request: attributes of the request; ``id`` and ``retries`` may be among them.
    """
    task_id = request.get("id") or new_id()
    tries = request.get("retries") or 0
    around = frame_var.get()
    parent = around.request if around is not None and around.request.id is not None else None
    args, kwargs = tuple(args), dict(kwargs)
    while True:
        context = Context(
            {
                **request,
                "id": task_id,
                "task": task.name,
                "args": args,
                "kwargs": kwargs,
                "retries": tries,
                "called_directly": False,
                "is_eager": True,
                "parent_id": parent.id if parent is not None else None,
                "root_id": (parent.root_id if parent is not None else None) or task_id,
                "correlation_id": task_id,
                "hostname": task.app.hostname,
            }
        )
        frame = Frame(task, context, previous=around, entered=not task._custom_call)
        try:
            value = call(frame, args, kwargs)
        except Retry as exc:
            if exc.sig is None:  # raised by hand: there is nothing to be tried again
                return EagerResult(task_id, exc.exc or exc, states.RETRY, _text(exc), task.name)
            args, kwargs = exc.sig
            tries += 1
        except Ignore as exc:
            return EagerResult(task_id, exc, states.IGNORED, name=task.name)
        except Reject as exc:
            return EagerResult(task_id, exc, states.REJECTED, name=task.name)
        except Exception as exc:
            if task.store_errors_even_if_ignored or not context.ignore_result:
                _keep(task, context, exc, states.FAILURE)
            if frame.exhausted:
                call_exhausted(task.app, task, context, exc, failure_of(exc), RETRIES)
            if throw:
                raise
            failed_here(task.app, context, exc, _text(exc))
            return EagerResult(task_id, exc, states.FAILURE, _text(exc), task.name)
        else:
            if not context.ignore_result:
                _keep(task, context, value, states.SUCCESS)
            succeeded_here(task.app, context, value)
            return EagerResult(task_id, value, states.SUCCESS, name=task.name)


def _keep(task: Task[..., Any], context: Context, value: Any, state: str) -> None:
    """Store what a run here came to, where store_eager_result (or its setting) asks for it."""
    if task.store_eager_result:
        text = _text(value) if isinstance(value, BaseException) else None
        task._store().store_result(context.id, value, state, traceback=text, request=context)


def _text(exc: BaseException) -> str:
    return "".join(tracebacks.format_exception(type(exc), exc, exc.__traceback__))
