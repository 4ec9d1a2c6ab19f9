"""Around a task's body: the handlers that its class defines, the signals, and autoretry_for."""

from __future__ import annotations

import logging
import random
import time
import traceback as tracebacks
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from emq_compat.coroutines.settle import settle
from emq_compat.pool.slot import Stopped
from emq_compat.shim.carrying import result_text
from emq_compat.shim.exceptions import Ignore, Reject, Retry
from emq_compat.shim.signals import task_failure, task_postrun, task_prerun, task_retry, task_success
from emq_compat.shim.states import FAILURE, IGNORED, REJECTED, RETRY, SUCCESS

if TYPE_CHECKING:
    from emq_compat.shim.current import Frame
    from emq_compat.shim.task import Task

__all__ = [
    "ExceptionInfo",
    "Told",
    "anybody_listens",
    "call_handled",
    "retry_automatically",
]

logger = logging.getLogger("celery.app.trace")


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


def anybody_listens(task: Task[..., Any]) -> bool:
    """Return whether a run of the task is to be told: to handlers of its class, or to receivers."""
    return bool(
        task._has_handlers
        or task_prerun.receivers
        or task_postrun.receivers
        or task_success.receivers
        or task_failure.receivers
        or task_retry.receivers
    )


class Told:
    """A run that handlers and signals are told of, in Celery's order.

    ``with Told(…) as run: run.begin(); run.value = <the body>``: the body may be awaited, too. task_prerun
    comes first and task_postrun last, whatever happens; between them before_start, the body, and what it came
    to: on_success and task_success, on_failure and task_failure, or on_retry and task_retry; then
    after_return.

    ``before_start`` belongs to the body: what it raises fails the task. What another handler raises is logged
    and changes nothing: the task has ended then.
    """

    def __init__(self, frame: Frame, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.value: Any = None
        self._task = frame.task
        self._request = frame.request
        self._call = (frame.request.id or "", args, kwargs)
        self._state: str | None = None
        self._began = time.monotonic()

    def __enter__(self) -> Told:
        if task_prerun.receivers:
            task, (task_id, args, kwargs) = self._task, self._call
            task_prerun.send(sender=task, task_id=task_id, task=task, args=args, kwargs=kwargs)
        return self

    def begin(self) -> None:
        """Call the task's ``before_start``."""
        settle(self._task.before_start(*self._call))

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            if exc is None:
                self._returned()
            elif isinstance(exc, Retry):
                self.value = exc
                self._retried(exc)
            elif isinstance(exc, (Ignore, Reject)):
                self.value = exc
                self._state = IGNORED if isinstance(exc, Ignore) else REJECTED
                if isinstance(exc, Reject) and not exc.requeue and not self._request.is_eager:
                    self._tell_failure(exc, ExceptionInfo(exc))
            elif not isinstance(exc, Stopped):  # of which the worker's parent tells
                self.value = exc
                self._failed(exc)
        finally:
            if task_postrun.receivers:
                task_id, args, kwargs = self._call
                task_postrun.send(
                    sender=self._task,
                    task_id=task_id,
                    task=self._task,
                    args=args,
                    kwargs=kwargs,
                    retval=self.value,
                    state=self._state,
                )

    def _returned(self) -> None:
        self._state = SUCCESS
        _tell(self._task.on_success, self.value, *self._call)
        if task_success.receivers:
            runtime_s = time.monotonic() - self._began
            task_success.send(sender=self._task, result=self.value, runtime=runtime_s)
        _tell(self._task.after_return, SUCCESS, self.value, *self._call, None)

    def _retried(self, exc: Retry) -> None:
        self._state = RETRY
        info = ExceptionInfo(exc.exc or exc)
        _tell(self._task.on_retry, info.exception, *self._call, info)
        if task_retry.receivers:
            task_retry.send(sender=self._task, request=self._request, reason=exc, einfo=info)
        _tell(self._task.after_return, RETRY, exc, *self._call, info)

    def _failed(self, exc: BaseException) -> None:
        self._state = FAILURE
        info = ExceptionInfo(exc)
        _tell(self._task.on_failure, exc, *self._call, info)
        self._tell_failure(exc, info)
        _tell(self._task.after_return, FAILURE, exc, *self._call, info)

    def _tell_failure(self, exc: BaseException, info: ExceptionInfo) -> None:
        if task_failure.receivers:
            task_id, args, kwargs = self._call
            task_failure.send(
                sender=self._task,
                task_id=task_id,
                exception=exc,
                args=args,
                kwargs=kwargs,
                traceback=info.tb,
                einfo=info,
            )


def call_handled(
    frame: Frame,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    body: Callable[[Frame, Sequence[Any], Mapping[str, Any]], Any],
) -> Any:
    """Call the body of a task whose run is told (see Told); returns and raises what the body does."""
    with Told(frame, args, kwargs) as run:
        run.begin()
        value = body(frame, args, kwargs)
        if frame.delivery is not None:
            # A value that can't be carried is a failure, and nobody is told else.
            result_text(frame.task, value)
        run.value = value
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
