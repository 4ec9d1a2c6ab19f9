"""Around a task's body: the handlers that a task class may define, and autoretry_for."""

from __future__ import annotations

import logging
import random
import traceback as tracebacks
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from emq_compat.coroutines.settle import settle
from emq_compat.shim.exceptions import Ignore, Reject, Retry
from emq_compat.shim.states import FAILURE, RETRY, SUCCESS

if TYPE_CHECKING:
    from emq_compat.shim.current import Frame

__all__ = ["ExceptionInfo", "Handlers", "call_handled", "retry_automatically"]

logger = logging.getLogger("emq_compat.task")


class ExceptionInfo:
    """What handlers get as ``einfo``: the exception, its type, and its traceback as an object and as text."""

    def __init__(self, exception: BaseException) -> None:
        self.exception = exception
        self.type: type[BaseException] = type(exception)
        self.tb: TracebackType | None = exception.__traceback__
        self.internal = False

    @property
    def traceback(self) -> str:
        """The formatted traceback."""
        return "".join(tracebacks.format_exception(self.type, self.exception, self.tb))

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<ExceptionInfo: {self.exception!r}>"


class Handlers:
    """The methods of a task class that are called around its body, in the process that runs it.

    Each may be an ``async def``.
    """

    def before_start(self, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Called before the body, by whoever runs it; what it raises fails the task."""

    def on_success(
        self, retval: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Called when the body has returned."""

    def on_failure(
        self,
        exc: BaseException,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: ExceptionInfo,
    ) -> Any:
        """Called when the body has raised; not when the process was lost."""

    def on_retry(
        self,
        exc: BaseException,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: ExceptionInfo,
    ) -> Any:
        """Called when the body has asked for a retry."""

    def after_return(
        self,
        status: str,
        retval: Any,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: ExceptionInfo | None,
    ) -> Any:
        """Called last, whatever happened; ``retval`` is the value or the exception."""

    @classmethod
    def any_defined(cls) -> bool:
        """Return whether a task class defines one of them."""
        own = (name for name, value in vars(Handlers).items() if isinstance(value, FunctionType))
        return any(getattr(cls, name) is not getattr(Handlers, name) for name in own)


def call_handled(
    frame: Frame,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    body: Callable[[Frame, Sequence[Any], Mapping[str, Any]], Any],
) -> Any:
    """Call the body of a task with handlers; returns and raises what the body does.

    ``before_start`` belongs to the body: what it raises fails the task. What another handler raises is logged
    and changes nothing: the task has ended then.
    """
    task, call = frame.task, (frame.request.id or "", args, kwargs)
    try:
        settle(task.before_start(*call))
        value = body(frame, args, kwargs)
    except Retry as exc:
        info = ExceptionInfo(exc.exc or exc)
        _tell(task.on_retry, info.exception, *call, info)
        _tell(task.after_return, RETRY, exc, *call, info)
        raise
    except (Ignore, Reject):
        raise
    except BaseException as exc:
        info = ExceptionInfo(exc)
        _tell(task.on_failure, exc, *call, info)
        _tell(task.after_return, FAILURE, exc, *call, info)
        raise
    _tell(task.on_success, value, *call)
    _tell(task.after_return, SUCCESS, value, *call, None)
    return value


def _tell(handler: Callable[..., Any], *args: Any) -> None:
    try:
        settle(handler(*args))
    except Exception:
        logger.exception("%s of %s failed", handler.__name__, getattr(handler, "__self__", handler))


def retry_automatically(frame: Frame, exc: BaseException) -> NoReturn:
    """Have a task that raised one of its ``autoretry_for`` tried again, or raise ``exc``.

    ``retry_kwargs`` are arguments of ``retry``. With ``retry_backoff`` (True, or a factor of at least 1) the
    pause is factor × 2 ** retries seconds, at most ``retry_backoff_max``; ``retry_jitter`` takes a random
    part of it. A ``max_retries`` that the body gave to ``retry`` itself wins over that of ``retry_kwargs``.
    """
    task = frame.task
    if isinstance(exc, (Retry, Ignore, Reject, *task.dont_autoretry_for)):
        raise exc
    options = dict(task.retry_kwargs)
    if task.retry_backoff:
        factor = max(1, int(task.retry_backoff))
        pause = int(min(task.retry_backoff_max, factor * 2**frame.request.retries))
        options["countdown"] = random.randrange(pause + 1) if task.retry_jitter else pause
    if frame.max_retries is not None:
        options["max_retries"] = frame.max_retries
    # Raises: Retry, or exc itself where it was tried often enough.
    raise task.retry(**{"exc": exc, **options})
