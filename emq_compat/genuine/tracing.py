"""One run of a genuine task, by Celery's own tracer: from a Delivery to a Reply.

What the tracer does (states, retries, callbacks, chords, errors, hooks, signals) is Celery's. Here stands
what comes before (the request, made of our message) and after (what the job manager is told: acknowledged,
rejected, put back). What the tracer stores and publishes goes its own way, or becomes part of the Reply: see
capture.py.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from celery import states
from celery.app import trace
from celery.app.task import Context
from celery.app.trace import setup_worker_optimizations, task_has_custom
from celery.exceptions import Reject, TaskRevokedError
from celery.worker.strategy import proto1_to_proto2
from kombu.compression import decompress
from kombu.serialization import loads, prepare_accept_content
from kombu.utils.json import object_hook

from emq_compat.celery_message import message_of
from emq_compat.coroutines.settle import settle
from emq_compat.errors import EmqError
from emq_compat.failures import failure_of
from emq_compat.genuine.capture import Capture, capturing, current
from emq_compat.genuine.chord_claims import outlive
from emq_compat.message import (
    FAILURE,
    IGNORED,
    REJECTED,
    REQUEUED,
    RETRY,
    SUCCESS,
    Delivery,
    Headers,
    Job,
    Outcome,
    Publish,
    Reply,
)
from emq_compat.pool.slot import Stopped
from emq_compat.run import Report
from emq_compat.shim.packing import MARKER, unpack

__all__ = ["Tracing", "exception_of", "request_of", "unreadable"]

logger = logging.getLogger("celery.worker.request")


class Tracing:
    """Runs the tasks of one app in this process.

    Args:
        app: a celery.Celery, finalized.
        hostname: the node name.
        captures: whether broker and result backend are both ours, so that ends are captured.
        tells: whether task events are sent, asked at each end.
    """

    def __init__(
        self, app: Any, hostname: str, *, captures: bool, tells: Callable[[], bool] = lambda: False
    ) -> None:
        self.app = app
        self.hostname = hostname
        self._captures = captures
        self._tells = tells
        self._accept = prepare_accept_content(app.conf.accept_content)
        self._tracers: dict[str, Callable[..., Any]] = {}

    def prepare(self) -> None:
        """Do what Celery does in a process that is to run tasks, and make each task's tracer."""
        setup_worker_optimizations(self.app, self.hostname)
        outlive(self.app.backend)
        for name in self.app.tasks:
            self._tracer(name)

    def _tracer(self, name: str) -> Callable[..., Any]:
        """Return a task's tracer; raises KeyError (Celery's NotRegistered) where there is no such task."""
        tracer = self._tracers.get(name)
        if tracer is None:
            task = self.app.tasks[name]
            with _body_noted(task):
                tracer = trace.build_tracer(name, task, self.app.loader, self.hostname, app=self.app)
            task.__trace__ = self._tracers[name] = tracer
        return tracer

    def run(self, delivery: Delivery, report: Report) -> Reply:
        """Run a delivery of a registered task.

        Raises:
            MessageError: the payload is no ``run`` request.
            NotRegistered (Celery's): there is no such task.
            ContentDisallowed, DecodeError (kombu's): the arguments are not accepted, or can't be read.
            Stopped: the pool ends the run, and tells of it.
        """
        job = Job.decode(delivery.payload)
        name = delivery.headers.task or str(job.celery.get("task") or f"{job.path}.{job.callable}")
        tracer = self._tracer(name)
        task = self.app.tasks[name]
        try:
            request = request_of(job, delivery, self.hostname, self._accept)
        except EmqError:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever a serializer raises
            logger.error("Task %s: its arguments can't be read: %s", name, exc)
            return self._failed(task, unreadable(job, delivery, self.hostname), exc)
        expires = delivery.headers.expires
        if expires and time.time() > expires:
            return self._expired(task, request)
        args, kwargs = request["args"], request["kwargs"]
        value: Any
        capture = Capture(request["id"], report) if self._captures else None
        with capturing(capture):
            try:
                _, info, runtime, shown = tracer(request["id"], args, kwargs, request)
                state, value = (SUCCESS, None) if info is None else (str(info.state), info.retval)
            except (Stopped, Reject):
                raise
            except BaseException as exc:  # noqa: BLE001 - a SystemExit ends its task and no more
                if capture is not None:
                    capture.body_ended = True
                state, value, runtime, shown = FAILURE, exc, None, ""
                self._handle_failure(task, request, exc)
            if state == states.REJECTED and not value.requeue:
                # It never runs again: who waits for it is told, as by Celery.
                self._handle_failure(task, request, value)
        return self._reply(task, state, value, capture, delivery, (runtime, shown))

    def fail(self, delivery: Delivery, exc: BaseException) -> Reply:
        """Have Celery store a failure that its tracer has no part in, and do what follows from it.

        Raises:
            MessageError: the payload is no ``run`` request.
        """
        job = Job.decode(delivery.payload)
        request = self._as_far_as_readable(job, delivery)
        context = Context(request, called_directly=False)
        backend, stores = self._store_of(str(request["task"]), context)
        capture = Capture(request["id"]) if self._captures else None
        if capture is not None:
            capture.body_ended = True
        with capturing(capture), _logged(f"Task {request['task']}[{context.id}]: its failure"):
            backend.mark_as_failure(context.id, exc, request=context, store_result=stores)
        return _ended(FAILURE, capture, exc)

    def _as_far_as_readable(self, job: Job, delivery: Delivery) -> dict[str, Any]:
        """Return the request of a run; where its arguments can't be read, without them."""
        try:
            return request_of(job, delivery, self.hostname, self._accept)
        except Exception:  # noqa: BLE001 - its arguments may be what was wrong
            return unreadable(job, delivery, self.hostname)

    def _store_of(self, name: str, context: Context) -> tuple[Any, bool]:
        """Return the result backend of a task, registered here or not, and whether errors are stored."""
        task = self.app.tasks.get(name)
        if task is None:
            return self.app.backend, not context.ignore_result
        return task.backend, not context.ignore_result or task.store_errors_even_if_ignored

    def _failed(self, task: Any, request: dict[str, Any], exc: BaseException) -> Reply:
        """Return the Reply of a run that failed before the tracer had it."""
        capture = Capture(request["id"]) if self._captures else None
        if capture is not None:
            capture.body_ended = True
        with capturing(capture):
            self._handle_failure(task, request, exc)
        return _ended(FAILURE, capture, exc)

    def _expired(self, task: Any, request: dict[str, Any]) -> Reply:
        """Return the Reply of a run that came too late."""
        context = Context(request, called_directly=False)
        facts = {"id": context.id, "name": task.name, "state": states.REVOKED}
        logger.info("Task %s[%s] expired", task.name, context.id, extra={"data": facts})
        stores = not context.ignore_result or task.store_errors_even_if_ignored
        capture = Capture(request["id"]) if self._captures else None
        if capture is not None:
            capture.body_ended = True
        with capturing(capture), _logged(f"Task {task.name}[{context.id}]: its expiry"):
            task.backend.mark_as_revoked(context.id, "expired", request=context, store_result=stores)
        return _ended(states.REVOKED, capture, TaskRevokedError("expired"))

    @staticmethod
    def _handle_failure(task: Any, request: dict[str, Any], exc: BaseException) -> None:
        """Have Celery store a failure, tell signals of it, and call errbacks."""
        context = Context(request, called_directly=False)
        task.request_stack.push(context)
        try:
            raise exc
        except BaseException:  # noqa: BLE001 - it is raised for its traceback
            with _logged(f"Task {task.name}[{context.id}]: its failure"):
                trace.TraceInfo(states.FAILURE, exc).handle_error_state(task, context)
        finally:
            task.request_stack.pop()

    def _reply(
        self,
        task: Any,
        state: str,
        value: Any,
        capture: Capture | None,
        delivery: Delivery,
        success: tuple[float | None, str],
    ) -> Reply:
        if state == states.REJECTED:
            if value.requeue:
                return _ended(REQUEUED, None, value)
            return _put_aside(_ended(FAILURE, capture, value), delivery)
        if state == states.IGNORED:
            return _ended(IGNORED, capture, None)
        told = self._told(state, value, success) if self._tells() else ""
        reply = _ended(state, capture, value if state in (FAILURE, RETRY) else None, told)
        if state == FAILURE and task.acks_late and not _acks_on_failure(task):
            return _put_aside(reply, delivery)
        return reply

    @staticmethod
    def _told(state: str, value: Any, success: tuple[float | None, str]) -> str:
        """Return what the event of an end tells, as JSON."""
        if state == SUCCESS:
            return json.dumps({"result": success[1], "runtime": success[0]})
        failure = failure_of(getattr(value, "exc", None) or value)
        return json.dumps({"exception": failure.shown, "traceback": failure.traceback})

    def conclude(self, delivery: Delivery) -> Reply:
        """Do what follows from an end without the task's word: an epilogue (Headers.epilogue).

        Raises:
            MessageError: it is none.
        """
        _, options, reply = json.loads(delivery.payload)
        job = Job.from_options(options)
        name = delivery.headers.task or str(job.celery.get("task") or "")
        state = str(reply.get("state") or FAILURE)
        if state not in (states.FAILURE, states.REVOKED, states.RETRY):
            return _ended(SUCCESS, None, None)
        request = self._as_far_as_readable(job, delivery)
        request["id"] = job.celery.get("id") or request["id"]
        context = Context(request, called_directly=False)
        backend, stores = self._store_of(name, context)
        error = reply.get("error")
        capture = Capture(request["id"]) if self._captures else None
        if capture is not None:
            capture.body_ended = True
        with capturing(capture), _logged(f"Task {name}[{context.id}]: what follows from its end"):
            if state == states.REVOKED:
                why = error.get("message") if isinstance(error, Mapping) else error or reply.get("value")
                backend.mark_as_revoked(
                    context.id, str(why or "revoked"), request=context, store_result=stores
                )
            elif state == states.FAILURE:
                backend.mark_as_failure(
                    context.id,
                    exception_of(error, reply),
                    reply.get("traceback") or None,
                    request=context,
                    store_result=stores,
                )
            else:
                backend.mark_as_retry(
                    context.id, exception_of(error, reply), reply.get("traceback") or None, request=context
                )
        follow_ups = () if capture is None else tuple(capture.follow_ups)
        return Outcome(state=SUCCESS, follow_ups=follow_ups, no_result=True).encode()


def exception_of(error: Any, reply: Mapping[str, Any]) -> BaseException:
    """Return the exception that an end's reply JSON tells of, as Celery's class of that name."""
    from celery import exceptions  # noqa: PLC0415 - for failures only

    if not isinstance(error, Mapping):
        return Exception(str(error or reply.get("value") or "unknown"))
    name, args = str(error.get("type") or "Exception"), error.get("args")
    kind = getattr(exceptions, name, None)
    if isinstance(kind, type) and issubclass(kind, BaseException):
        with suppress(Exception):
            return kind(*args) if isinstance(args, list) and args else kind(str(error.get("message") or ""))
    return Exception(f"{name}: {error.get('message') or ''}")


def request_of(job: Job, delivery: Delivery, hostname: str, accept: Any) -> dict[str, Any]:
    """Return the request of a run, as Celery's worker hands it to the tracer, arguments in it.

    ``accept`` are the content types that may be read.

    Raises:
        ContentDisallowed, DecodeError (kombu's): the arguments are not accepted, or can't be read.
    """
    celery = job.celery
    wire = celery.get("wire")
    if isinstance(wire, dict) and "packed" not in celery and "body" not in wire:
        headers, properties = dict(wire["headers"]), wire.get("properties") or {}
        args, kwargs = job.args, job.kwargs
        embed: Mapping[str, Any] = wire.get("embed") or {
            key: celery.get(key) for key in ("callbacks", "errbacks", "chain", "chord")
        }
        if b'"__type__"' in delivery.payload:
            headers, properties, args, kwargs, embed = (
                _revived(part, accept) for part in (headers, properties, args, kwargs, embed)
            )
    else:
        headers, properties, (args, kwargs, embed) = _read(delivery, job, accept)
    request: dict[str, Any] = headers
    request.update(
        properties=properties,
        reply_to=properties.get("reply_to"),
        correlation_id=properties.get("correlation_id"),
        hostname=hostname,
        delivery_info={
            "exchange": "",
            "routing_key": delivery.queue,
            "priority": properties.get("priority", delivery.headers.priority),
            "redelivered": delivery.headers.redelivered,
        },
        is_eager=False,
        args=list(args),
        kwargs=dict(kwargs),
    )
    request.update(embed or {})
    return request


def unreadable(job: Job, delivery: Delivery, hostname: str) -> dict[str, Any]:
    """Return a request without the arguments, which can't be read."""
    celery = job.celery
    task_id = delivery.headers.task_id or celery.get("id") or delivery.msgid
    return {
        "id": task_id,
        "task": delivery.headers.task or celery.get("task"),
        "args": (),
        "kwargs": {},
        "hostname": hostname,
        "root_id": celery.get("root_id") or task_id,
        "parent_id": celery.get("parent_id"),
        "delivery_info": {"exchange": "", "routing_key": delivery.queue, "priority": 0, "redelivered": False},
        "properties": {},
    }


def _read(
    delivery: Delivery, job: Job, accept: Any
) -> tuple[dict[str, Any], Mapping[str, Any], tuple[Any, Any, Any]]:
    """Return headers, properties and (args, kwargs, embed) of a message that isn't plain protocol 2."""
    payload = delivery.payload
    if delivery.headers.concludes:
        payload = job.encode()
    message = message_of(delivery.headers, payload, accept=accept)
    plain: Any = message.body
    if compression := message.headers.get("compression"):
        plain = decompress(plain, str(compression))
    body = loads(plain, message.content_type, message.content_encoding, accept=accept)
    if isinstance(body, dict):
        (args, kwargs, embed), headers, _, _ = proto1_to_proto2(message, body)
        return headers, message.properties, (args, kwargs, embed)
    return dict(message.headers), message.properties, tuple(body)


def _revived(value: Any, accept: Any) -> Any:
    """Return decoded JSON as kombu would have decoded it, and what a chord's parts gave packed, unpacked."""
    if isinstance(value, dict):
        if value.get("__type__") == MARKER and isinstance(value.get("__value__"), dict):
            return unpack(value["__value__"], accept)
        return object_hook({key: _revived(item, accept) for key, item in value.items()})
    return [_revived(item, accept) for item in value] if isinstance(value, list) else value


def _ended(state: str, capture: Capture | None, exc: BaseException | None, told: str = "") -> Reply:
    """Return the Reply of an end; without a Capture the result is where Celery has stored it."""
    if capture is None:
        failure = None if exc is None else failure_of(exc)
        reply = Outcome(state=state, failure=failure, no_result=True).encode()
        return Reply(state=state, body=reply.body, no_result=True, told=told)
    follow_ups = tuple(capture.follow_ups)
    if capture.body is None:
        reply = Outcome(state=state, failure=None if exc is None else failure_of(exc)).encode()
        # Nothing was stored: the result is ignored, or Ignore was raised.
        return Reply(state=state, body=reply.body, follow_ups=follow_ups, no_result=True, told=told)
    return Reply(state=state, body=capture.body, follow_ups=follow_ups, told=told, keep_s=capture.keep_s)


def _put_aside(reply: Reply, delivery: Delivery) -> Reply:
    """Return a failure that is kept, and whose message is a dead letter: Reject, acks_on_failure=False."""
    headers = delivery.headers
    settled = Headers(
        task_id=headers.task_id,
        task=headers.task,
        settled=FAILURE,
        chord=headers.chord.rstrip("+"),
        no_result=reply.no_result,
        keep_s=headers.keep_s if reply.keep_s is None else reply.keep_s,
    )
    end = Publish(queue=delivery.queue, headers=settled, payload=reply.body)
    follow_ups = reply.follow_ups if reply.no_result else (end, *reply.follow_ups)
    return replace(reply, state=REJECTED, follow_ups=follow_ups)


def _acks_on_failure(task: Any) -> bool:
    """Whether a late-acked message is acknowledged though its task failed (the names differ by version)."""
    own = getattr(task, "acks_on_failure", None)
    return bool(task.acks_on_failure_or_timeout if own is None else own)


@contextmanager
def _logged(what: str) -> Iterator[None]:
    """Have what goes wrong inside of the block logged: the end of a task is told whatever comes."""
    try:
        yield
    except Exception:
        logger.exception("%s can't be told", what)


# The body of a task, and its end.


@contextmanager
def _body_noted(task: Any) -> Iterator[None]:
    """Have the tracer that is built inside of the block call a body that tells its Capture when it ends."""
    original = getattr(task, "_orig_run", None)
    if inspect.iscoroutinefunction(original):
        task._orig_run = _settled(original)  # where autoretry_for looks at what it raises
    if task_has_custom(task, "__call__"):
        kind = type(task)
        if not hasattr(kind.__call__, "_emq_noted"):
            kind.__call__ = _noted(kind.__call__)
        yield
        return
    own = {"run": task.__dict__["run"]} if "run" in task.__dict__ else {}
    task.run = _noted(task.run)
    try:
        yield
    finally:
        del task.run
        task.__dict__.update(own)


def _settled(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        return settle(function(*args, **kwargs))

    return run


def _noted(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a body that runs a coroutine to its end, and notes when the outermost one has ended."""

    @functools.wraps(call)
    def body(*args: Any, **kwargs: Any) -> Any:
        capture = current()
        if capture is None or capture.in_body:
            return settle(call(*args, **kwargs))
        capture.in_body = True
        try:
            return settle(call(*args, **kwargs))
        finally:
            capture.body_ended = True

    body._emq_noted = True  # type: ignore[attr-defined]
    return body
