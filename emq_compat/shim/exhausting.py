"""What is done when a task is not tried any more: ``on_retries_exhausted`` and ``link_exhausted``.

Signatures are messages of the transaction that ends the task, so they are published once, with it or not at
all. A method is called in the worker that ran the last try, as ``on_failure`` is; where that worker was lost,
by the one that is given the end of the task.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from emq_compat.coroutines.settle import settle
from emq_compat.message import Failure
from emq_compat.shim.canvas.signature import maybe_signature
from emq_compat.shim.codec import jsonable
from emq_compat.shim.exceptions import EncodeError
from emq_compat.shim.handlers import ExceptionInfo

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery
    from emq_compat.shim.request import Context
    from emq_compat.shim.task import Task

__all__ = ["REDELIVERIES", "RETRIES", "call_exhausted", "why_exhausted"]

logger = logging.getLogger("emq_compat.task")

#: Why there is no further try: it has asked for as many as it may; it was lost as often as it may be; it was
#: lost in its last try.
RETRIES: Final = "retries"
REDELIVERIES: Final = "redeliveries"
_LOST: Final = "lost in the last try"


def call_exhausted(
    app: Celery,
    task: Task[..., Any] | None,
    request: Context,
    exc: BaseException,
    failure: Failure,
    reason: str,
) -> None:
    """Call the task's method, and publish the signatures of the task and of the message.

    What goes wrong with one of them is logged: the task has ended all the same.
    """
    called: list[Any] = list(request.get("exhausted") or ())
    own = None if task is None else task.on_retries_exhausted
    if own is not None:
        called += own if isinstance(own, (list, tuple)) else [own]
    if not called:
        return
    told: dict[str, Any] | None = None
    for one in called:
        try:
            sig = _signature(app, one)
            if sig is None:
                arguments = (exc, request.id, request.args or (), request.kwargs or {})
                settle(one(*arguments, ExceptionInfo(exc)))
                continue
            if told is None:
                told = _told(request, failure, reason)
            origin = {"parent_id": request.id, "root_id": request.root_id or request.id}
            try:
                sig.apply_async((told,), **origin)
            except EncodeError:  # arguments that came pickled, and a callback that is sent as JSON
                sig.apply_async((_in_json(told),), **origin)
        except Exception:
            logger.exception("%r, called because %s is not tried any more, failed", one, request.id)


def why_exhausted(task: Task[..., Any] | None, request: Context, reply: Mapping[str, Any]) -> str | None:
    """Return why an end that the task's worker never told is that of its last try; None: it isn't."""
    said = reply.get("exhausted")
    if said:
        return str(said)
    error = reply.get("error")
    if task is None or not isinstance(error, dict) or error.get("type") != "WorkerLostError":
        return None
    limit = task.max_retries
    return _LOST if request.retries and limit is not None and request.retries >= limit else None


def _signature(app: Celery, one: Any) -> Any:
    """Return what is to be published; None: it is a function to be called."""
    if isinstance(one, str):
        return app.signature(one)
    if isinstance(one, Mapping):
        return maybe_signature(one, app=app)
    if inspect.isroutine(one) or not hasattr(one, "apply_async"):
        return None
    return one.s()


def _told(request: Context, failure: Failure, reason: str) -> dict[str, Any]:
    """Return the argument of what is published."""
    return {
        "id": request.id,
        "task": request.task,
        "args": list(request.args or ()),
        "kwargs": dict(request.kwargs or {}),
        "retries": request.retries or 0,
        "reason": reason,
        "exception": {"type": failure.type, "module": failure.module, "message": failure.message},
        "traceback": failure.traceback,
    }


def _in_json(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is told with the text of each of the call's arguments that JSON can't hold."""
    args, kwargs = told["args"], told["kwargs"]
    return {
        **told,
        "args": [_value(value) for value in args],
        "kwargs": {str(name): _value(value) for name, value in kwargs.items()},
    }


def _value(value: Any) -> Any:
    try:
        return jsonable(value)
    except EncodeError:
        return repr(value)
