"""What follows from how a task ended: callbacks and the next step of its chain, or errbacks and the end of
what will never run.

All of it is data: messages that are published in the transaction that ends the task. For an end that its
worker never told (a lost process, a revoke …) it is computed from the broker's epilogue, the message with the
reply in it, see ``conclude``.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from emq_compat.failures import failure_of
from emq_compat.headers import GROWN
from emq_compat.message import (
    FAILURE,
    REVOKED,
    SUCCESS,
    Delivery,
    Failure,
    Headers,
    Job,
    Outcome,
    Publish,
)
from emq_compat.shim.canvas.launch import LAUNCH, failing
from emq_compat.shim.canvas.places import as_reference, counted_by_backend, part_header
from emq_compat.shim.canvas.signature import Signature, maybe_signature
from emq_compat.shim.codec import dumps, revive
from emq_compat.shim.current import Frame, frame_var
from emq_compat.shim.exceptions import TaskRevokedError
from emq_compat.shim.exhausting import call_exhausted, why_exhausted
from emq_compat.shim.pipeline import collecting
from emq_compat.shim.remote_error import exception_from
from emq_compat.shim.request import Context, request_of, request_without_arguments
from emq_compat.shim.retention import seconds_kept

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery
    from emq_compat.shim.task import Task

__all__ = [
    "body_failed",
    "collected_into",
    "conclude",
    "failed",
    "failed_here",
    "is_new_style",
    "place_in_chord",
    "succeeded",
    "succeeded_here",
]

logger = logging.getLogger("emq_compat.task")


@contextmanager
def collected_into(frame: Frame | None) -> Iterator[None]:
    """Have what the block publishes be published by the end of a run; at once where no worker runs it."""
    if frame is None or frame.delivery is None:
        yield
        return
    token = frame_var.set(frame)
    try:
        with collecting() as messages:
            yield
    finally:
        frame_var.reset(token)
    for message in messages:
        frame.publish_later(message)


def succeeded(frame: Frame, value: Any) -> None:
    """Have a run that returned ``value`` publish its callbacks and the next step of its chain.

    Raises:
        Exception: one of them can't be published; nothing of it is, and the task has failed with that.
    """
    request = frame.request
    if not (request.callbacks or request._steps or request.chain):
        return
    with collected_into(frame):
        _go_on(frame.task.app, request, value)


def _go_on(app: Celery, request: Context, value: Any) -> None:
    """Publish the callbacks and the next step of the chain of a run that returned ``value``."""
    inherited = inherited_options(app, request)
    for callback in request.callbacks or ():
        maybe_signature(callback, app=app).apply_async((value,), **inherited)
    later: Any
    if request._steps and "chain" not in vars(request):
        following, later = request._steps.next()
        if following.get("subtask_type"):
            later = list(later)  # it belongs to one of the steps that this one is made of
    elif request.chain:
        *later, following = request.chain
    else:
        return
    maybe_signature(following, app=app).apply_async((value,), chain=later, **inherited)


def inherited_options(app: Celery, request: Context) -> dict[str, Any]:
    """Return the options that a run gives to what follows it."""
    options: dict[str, Any] = {"parent_id": request.id, "root_id": request.root_id or request.id}
    if app.conf.task_inherit_parent_priority and request.delivery_info:
        options["priority"] = request.delivery_info.get("priority")
    if request.reply_to and app.over_kombu:
        options["reply_to"] = request.reply_to  # who began it all waits for the last result
    return options


def failed(
    app: Celery,
    request: Context,
    queue: str,
    *,
    state: str,
    exc: BaseException,
    failure: Failure,
    before_errbacks: Callable[[Sequence[Publish]], None] | None = None,
) -> list[Publish]:
    """Return what is to be published after a run that didn't succeed, and call its errbacks.

    Args:
        request: the run's.
        queue: any queue of the broker, for the messages that are ends and not calls.
        state: FAILURE, REVOKED, IGNORED or REJECTED. Errbacks belong to the first only. What would have come
            later ends as FAILURE, too, with the same exception, or else as REVOKED: nobody waits for it in
            vain, and the chords that it is a part of fail.
        before_errbacks: is called, where there are errbacks, with the ends of what would have come later.
    """
    ends = FAILURE if state == FAILURE else REVOKED
    reason = failure
    if state not in (FAILURE, REVOKED):
        reason = failure_of(TaskRevokedError(f"the task {request.id} in front of it was {state.lower()}"))
    end = _End(app, state=ends, failure=reason, cause=request.id or "", queue=queue)
    settled: list[Publish] = []
    held = request.args[-1] if request.task == LAUNCH and request.args else None
    for step in (*(() if held is None else (held,)), *reversed(request.chain or ())):
        end.of_all(step, settled.append)
    called = [(errback, request) for errback in request.errbacks or ()]
    if held is not None:
        for task, errbacks in failing(held):
            called += [(errback, _as_request(task, request)) for errback in errbacks]
    if state != FAILURE or not called:
        return settled
    if before_errbacks is not None:
        before_errbacks(settled)
    with collecting() as messages:
        for errback, failing_request in called:
            _call(app, errback, failing_request, exc, failure.traceback)
    return [*messages, *settled]


def _call(app: Celery, errback: Any, request: Context, exc: BaseException, traceback: str) -> None:
    """Call an errback: with (request, exc, traceback) here, or, of the old style, as a task with the id."""
    sig = maybe_signature(errback, app=app)
    task = app.tasks.get(sig.task) if not sig.subtask_type else None
    if task is not None and is_new_style(task, sig):
        # It isn't carried any further: its arguments are called with as they were given.
        sig.args, sig.kwargs = tuple(revive(list(sig.args))), revive(sig.kwargs)
        try:
            sig(request, exc, traceback)
        except Exception:
            logger.exception("errback %r raised an exception", sig.task)
        return
    try:
        sig.apply_async((request.id,), parent_id=request.id, root_id=request.root_id or request.id)
    except Exception:
        logger.exception("errback %r can't be published", sig.task)


def succeeded_here(app: Celery, request: Context, value: Any) -> None:
    """Run the callbacks of a run in place (task.apply), in place."""
    for callback in request.callbacks or ():
        maybe_signature(callback, app=app).apply((value,))


def failed_here(app: Celery, request: Context, exc: BaseException, traceback: str) -> None:
    """Call the errbacks of a run in place, those of the old style as runs in place."""
    for errback in request.errbacks or ():
        sig = maybe_signature(errback, app=app)
        task = app.tasks.get(sig.task) if not sig.subtask_type else None
        try:
            if task is not None and is_new_style(task, sig):
                sig(request, exc, traceback)
            else:
                sig.apply((request.id,))
        except Exception:
            logger.exception("errback %r raised an exception", sig.task)


def is_new_style(task: Task[..., Any], sig: Signature) -> bool:
    """Return whether ``sig`` of a task is an errback that is called with (request, exc, traceback).

    By Celery's rule it takes more than one argument beside those that the signature has already, and isn't
    bound: bound tasks are called as tasks, with the failed one's id, so that they can be retried.
    """
    if inspect.ismethod(task.run):
        return False
    try:
        parameters = inspect.signature(task.run).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return True
    stored = 0 if sig.immutable else len(sig.args) + sum(p.name in sig.kwargs for p in positional)
    return len(positional) - stored > 1


def _as_request(task: Mapping[str, Any], launcher: Context) -> Context:
    """Return what an errback is told of a task that never began."""
    options = task["options"]
    return Context(
        id=options.get("task_id"),
        task=task["task"],
        args=task["args"],
        kwargs=task["kwargs"],
        root_id=options.get("root_id") or launcher.root_id,
        parent_id=options.get("parent_id") or launcher.parent_id,
        group=options.get("group_id"),
        group_index=options.get("group_index"),
        errbacks=options.get("link_error"),
        delivery_info=launcher.delivery_info,
        called_directly=False,
    )


class _End:
    """The end of tasks that never begin, as messages that are outcomes (Headers.settled)."""

    def __init__(self, app: Celery, *, state: str, failure: Failure, cause: str, queue: str) -> None:
        """``cause`` is the task that failed: a chord's error names it."""
        self.app = app
        self.state = state
        self.queue = queue
        self.payload = Outcome(state=state, failure=failure, extra={"cause": cause}).encode().body

    def of_all(
        self, sig: Mapping[str, Any], publish: Callable[[Publish], object], *, counted: bool = True
    ) -> None:
        """Settle the tasks of a signature, or its dict, that has its ids.

        ``counted`` is False inside a header whose chord never came to be: its parts are parts of nothing.
        """
        kind, kwargs, options = sig.get("subtask_type"), sig.get("kwargs") or {}, sig.get("options") or {}
        if kind in ("chain", "group"):
            for task in kwargs.get("tasks") or ():
                self.of_all(task, publish, counted=counted)
        elif kind == "chord":
            header = kwargs.get("header") or ()
            for task in [header] if isinstance(header, dict) else header:
                self.of_all(task, publish, counted=False)
            if kwargs.get("body") is not None:
                self.of_all(kwargs["body"], publish, counted=counted)
        elif options.get("task_id"):
            publish(self._of(sig["task"], options, counted))
        for step in reversed(options.get("chain") or ()):
            self.of_all(step, publish, counted=counted)

    def _of(self, name: str, options: Mapping[str, Any], counted: bool) -> Publish:
        chord = options.get("chord") if counted else None
        chord = as_reference(chord, options.get("task_id"), options.get("group_index"))
        payload = self.payload
        if counted_by_backend(chord):
            part = {"callback": chord, "group": options.get("group_id"), "index": options.get("group_index")}
            payload = dumps({**json.loads(payload), "part": part}).encode()
        no_result = options.get("ignore_result")
        if no_result is None and (task := self.app.tasks.get(name)) is not None:
            no_result = task.ignore_result
        return Publish(
            queue=self.queue,
            headers=Headers(
                guarantee=True,
                task_id=options["task_id"],
                task=name,
                settled=self.state,
                chord=part_header(chord),
                no_result=bool(no_result),
                keep_s=seconds_kept(self.app.conf),
            ),
            payload=payload,
        )


def body_failed(
    app: Celery,
    body: Mapping[str, Any],
    exc: BaseException,
    *,
    part: Context,
    before_errbacks: Callable[[Sequence[Publish]], None],
) -> list[Publish]:
    """Return what is to be published when a chord that no broker counts has failed; call its errbacks.

    Args:
        body: the chord's body, which never begins.
        part: the part that the chord failed by.
        before_errbacks: is called with the ends of what will never begin.
    """
    failure = failure_of(exc)
    end = _End(app, state=FAILURE, failure=failure, cause=part.id or "", queue="")
    settled: list[Publish] = []
    end.of_all(body, settled.append)
    before_errbacks(settled)
    with collecting() as messages:
        for task, errbacks in failing(body):
            for errback in errbacks:
                _call(app, errback, _as_request(task, part), exc, failure.traceback)
    return list(messages)


def place_in_chord(request: Context) -> dict[str, Any]:
    """Return the reference of a part that a run adds to its chord: behind its own place."""
    own = request.chord
    count = request.__dict__["_added_to_chord"] = request.get("_added_to_chord", 0) + 1
    # A retry adds its own.
    place = GROWN + 1000 * (request.retries or 0) + count
    return {**own, "index": f"{own['index'].rstrip('+')}.{place}+"}


def conclude(
    app: Celery, delivery: Delivery, heard: Callable[[Context], None] | None = None
) -> Outcome:
    """Return what an epilogue comes to: what the task's worker would have published after that reply.

    ``heard`` is called with the request of the run that ended.

    Raises:
        MessageError: it is none.
    """
    document = json.loads(delivery.payload)
    _, options, reply = document
    job = Job.from_options(options)
    name = delivery.headers.task or str(job.celery.get("task") or "")
    try:
        request = request_of(name, job, delivery, app.hostname, accept=app.conf.accept_content)
    except Exception as exc:  # noqa: BLE001 - what can't be read, from whatever serializer
        logger.warning("%s: its arguments can't be read: %s", name, exc)
        request = request_without_arguments(name, job, delivery, app.hostname)
    request.id = request.correlation_id = job.celery.get("id") or request.id
    if heard is not None:
        heard(request)
    state = str(reply.get("state") or FAILURE)
    if state == SUCCESS:
        # It has ended as another one did, whose unique key it has.
        with collecting() as calls:
            _go_on(app, request, revive(reply.get("value"), app.conf.accept_content))
        return Outcome(state=SUCCESS, follow_ups=tuple(calls), no_result=True)
    error = reply.get("error")
    if not isinstance(error, dict):
        text = str(error or reply.get("value") or state)
        kind = TaskRevokedError if state == REVOKED else Exception
        error = {"type": kind.__name__, "module": kind.__module__, "args": [text], "message": text}
    traceback = str(reply.get("traceback") or "")
    failure = Failure(
        type=str(error.get("type") or "Exception"),
        module=str(error.get("module") or ""),
        args=_listed(error.get("args")),
        message=str(error.get("message") or ""),
        traceback=traceback,
    )
    cause = exception_from(error, traceback)
    messages = failed(app, request, delivery.queue, state=state, exc=cause, failure=failure)
    task = app.tasks.get(name)
    if (reason := why_exhausted(task, request, reply)) is not None:
        with collecting() as calls:
            call_exhausted(app, task, request, cause, failure, reason)
        messages += calls
    return Outcome(state=SUCCESS, follow_ups=tuple(messages), no_result=True)


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []
