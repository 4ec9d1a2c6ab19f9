"""Running a task's body: from a request to an Outcome."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emq_compat.coroutines.settle import settle
from emq_compat.failures import failure_of
from emq_compat.message import (
    FAILURE,
    IGNORED,
    REJECTED,
    REQUEUED,
    RETRY,
    SUCCESS,
    Delivery,
    Failure,
    Headers,
    Outcome,
    Publish,
)
from emq_compat.pool.slot import Stopped
from emq_compat.run import Report, about
from emq_compat.shim.canvas.launch import LAUNCH
from emq_compat.shim.codec import dumps, jsonable
from emq_compat.shim.current import Frame, frame_var, told_here
from emq_compat.shim.exceptions import Ignore, Reject, Retry
from emq_compat.shim.exhausting import RETRIES, call_exhausted
from emq_compat.shim.flow import collected_into, failed, succeeded
from emq_compat.shim.handlers import anybody_listens, call_handled, retry_automatically
from emq_compat.shim.keeping import Keeper
from emq_compat.shim.loggers import HELD, flush_held
from emq_compat.shim.results.members import told_of
from emq_compat.shim.run_plan import run_plan_of
from emq_compat.stored import StoredResult

if TYPE_CHECKING:
    from emq_compat.shim.request import Context
    from emq_compat.shim.task import Task

__all__ = ["call", "execute"]

logger = logging.getLogger("celery.app.trace")


def call(frame: Frame, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call the task's body inside its frame; returns and raises what the body does."""
    task = frame.task
    token = frame_var.set(frame)
    try:
        if anybody_listens(task):
            return call_handled(frame, args, kwargs, _body)
        return _body(frame, args, kwargs)
    finally:
        if HELD:
            flush_held()
        frame_var.reset(token)


def _body(frame: Frame, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    task = frame.task
    try:
        value = task(*args, **kwargs) if task._custom_call else task.run(*args, **kwargs)
        return _settled(frame, value) if hasattr(type(value), "__await__") else value
    except tuple(task.autoretry_for) as exc:
        retry_automatically(frame, exc)


def _settled(frame: Frame, awaitable: Any) -> Any:
    """Return what the coroutine of an ``async def`` task comes to, run as the app's framework wants it."""
    run = frame.task.app.of_fixups("settle")
    return settle(awaitable) if run is None else run(awaitable, eager=frame.request.is_eager)


def execute(task: Task[..., Any], request: Context, delivery: Delivery, report: Report) -> Outcome:
    """Run a task for a delivery. Whatever its body raises is an Outcome, SystemExit and the like included.

    What the reply says beside that (date_done, children …) is in the Outcome's ``extra``.

    Raises:
        Stopped: the pool ends the run, and tells of it.
    """
    limits = run_plan_of(task, task.app).limits
    request.timelimit = [*limits] if request.timelimit is None else _limits(request.timelimit, limits)
    frame = Frame(
        task,
        request,
        delivery=delivery,
        report=report,
        previous=frame_var.get(),
        entered=not task._custom_call,
    )
    try:
        value = call(frame, request.args or (), request.kwargs or {})
    except Retry as exc:
        failure = failure_of(exc.exc or exc, jsonable=jsonable)
        logger.info(
            "Task %s[%s] retry: %s",
            task.name,
            request.id,
            failure.message,
            extra=about(delivery, RETRY, task.name),
        )
        extra = told_of(task, request, final=False)
        return Outcome(state=RETRY, failure=failure, follow_ups=frame.published(), extra=extra)
    except Ignore as exc:
        logger.info("Task %s[%s] ignored", task.name, request.id, extra=about(delivery, IGNORED, task.name))
        if not frame.follow_ups:  # else something else goes on in its place
            _end(frame, IGNORED, exc, failure_of(exc, jsonable=jsonable))
        if frame.said is not None:
            frame.publish_later(_said(frame, *frame.said))
        return Outcome(state=IGNORED, follow_ups=frame.published())
    except Reject as exc:
        failure = failure_of(exc, jsonable=jsonable)
        kind = "requeue" if exc.requeue else "dead-letter"
        logger.warning(
            "Task %s[%s] rejected (%s): %s",
            task.name,
            request.id,
            kind,
            failure.message,
            extra=about(delivery, REJECTED, task.name),
        )
        if exc.requeue:
            return Outcome(state=REQUEUED, failure=failure)
        _end(frame, FAILURE, exc, failure)
        return Outcome(
            state=REJECTED, failure=failure, follow_ups=frame.published(), extra=told_of(task, request)
        )
    except Stopped:
        raise
    except BaseException as exc:  # noqa: BLE001 - around user code: a SystemExit ends its task and no more
        failure = failure_of(exc, jsonable=jsonable)
        if isinstance(exc, tuple(task.throws)):
            told = f"{failure.type}: {failure.message}"
            logger.info(
                "Task %s[%s] raised expected: %s",
                task.name,
                request.id,
                told,
                extra=about(delivery, FAILURE, task.name),
            )
            _end(frame, FAILURE, exc, failure)
            return Outcome(
                state=FAILURE, failure=failure, follow_ups=frame.published(), extra=told_of(task, request)
            )
        # The safe text, not exc_info: what can't be printed must not break the log, too.
        logger.error(
            "Task %s[%s] raised unexpected: %s: %s\n%s",
            task.name,
            request.id,
            failure.type,
            failure.message,
            failure.traceback,
            extra=about(delivery, FAILURE, task.name, traceback=failure.traceback),
        )
        _end(frame, FAILURE, exc, failure)
        return Outcome(
            state=FAILURE, failure=failure, follow_ups=frame.published(), extra=told_of(task, request)
        )
    if request.callbacks or request._steps or request.chain:
        try:
            succeeded(frame, value)
        except Exception as exc:
            logger.exception("Task %s[%s]: what follows can't be published", task.name, request.id)
            failure = failure_of(exc, jsonable=jsonable)
            _end(frame, FAILURE, exc, failure)
            extra = told_of(task, request)
            return Outcome(state=FAILURE, failure=failure, follow_ups=frame.published(), extra=extra)
    return Outcome(state=SUCCESS, value=value, follow_ups=frame.published(), extra=told_of(task, request))


def _limits(said: Sequence[float | None], own: Sequence[float | None]) -> list[float | None]:
    """Return [hard, soft] of a run, in seconds: the message's, and what it doesn't say the task's own."""
    (hard, soft), (own_hard, own_soft) = said, own
    return [own_hard if hard is None else hard, own_soft if soft is None else soft]


def _end(frame: Frame, state: str, exc: BaseException, failure: Failure) -> None:
    """Have a run that didn't succeed publish what follows from that."""
    request = frame.request
    if frame.exhausted and state == FAILURE:
        with collected_into(frame):
            call_exhausted(frame.task.app, frame.task, request, exc, failure, RETRIES)
    if not (request.errbacks or request.chain or request.task == LAUNCH):
        return
    assert frame.delivery is not None
    queue = frame.delivery.queue
    task, keeper = frame.task, frame.report

    def keep(ends: Sequence[Publish]) -> None:
        """Have errbacks that look at the task's result find it, though its REPLY hasn't left."""
        ignored = request.ignore_result and not task.store_errors_even_if_ignored
        outcome = Outcome(
            state=FAILURE,
            failure=failure,
            follow_ups=tuple(ends),
            extra=told_of(task, request),
            no_result=ignored,
        )
        if isinstance(keeper, Keeper):
            keeper.keep_failure(outcome)
        elif request.id is not None and not ignored:
            told_here.set({request.id: StoredResult(FAILURE, body=outcome.encode().body)})

    token = told_here.set(told_here.get())
    try:
        messages = failed(
            task.app, request, queue, state=state, exc=exc, failure=failure, before_errbacks=keep
        )
    finally:
        told_here.reset(token)
    for message in messages:
        frame.publish_later(message)


def _said(frame: Frame, state: str, meta: Any) -> Publish:
    """Return the outcome that a run told of itself by update_state before it raised Ignore."""
    assert frame.delivery is not None
    headers = frame.delivery.headers
    told = {"value": meta, "state": state, **told_of(frame.task, frame.request)}
    return Publish(
        queue=frame.delivery.queue,
        headers=Headers(
            guarantee=True,
            task_id=headers.task_id,
            task=headers.task,
            settled=state,
            chord=headers.chord.rstrip("+"),
            no_result=headers.no_result,
            keep_s=headers.keep_s,
        ),
        payload=dumps(told).encode(),
    )
