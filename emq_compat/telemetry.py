"""OpenTelemetry: a span for each publish and each run of a shim task, joined across processes.

The names, kinds and attributes are those of OpenTelemetry's own instrumentation of Celery
(``apply_async/NAME``, ``run/NAME``, ``celery.action`` …), so that what a project has drawn of its traces
stays right when it drops Celery. A genuine Celery app needs nothing of this:
``opentelemetry-instrumentation-celery`` works in our worker.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextvars import Token
from typing import Any, TypeAlias

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.propagate import extract, inject
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer

from emq_compat import __version__
from emq_compat.shim import signals
from emq_compat.shim.announce import not_published

__all__ = ["EmqInstrumentor"]

_Attached: TypeAlias = "Token[contexts.Context]"

#: What is told of a run's request, by the names of the instrumentation of Celery.
_OF_REQUEST = {
    "correlation_id": "celery.correlation_id",
    "eta": "celery.eta",
    "expires": "celery.expires",
    "hostname": "celery.hostname",
    "id": "messaging.message.id",
    "reply_to": "celery.reply_to",
    "retries": "celery.retries",
}


class EmqInstrumentor(BaseInstrumentor):
    """Begins and ends the spans: ``EmqInstrumentor().instrument()``.

    Args of ``instrument``:
        tracer_provider: where spans go; the global one by default.
        use_span_links: a run is the root of a trace of its own that links to its publish, instead of the
            publish's child. For tasks that wait for hours, or that begin a thousand others.

    ``opentelemetry-instrument`` in front of a command calls it (entry point ``opentelemetry_instrumentor``).
    Arguments and results are never part of a span.
    """

    def instrumentation_dependencies(self) -> Collection[str]:
        """Nothing has to be there besides this package."""
        return ()

    def _instrument(self, **options: Any) -> None:
        tracer = trace.get_tracer("emq_compat.telemetry", __version__, options.get("tracer_provider"))
        self._publishes = _Publishes(tracer)
        self._runs = _Runs(tracer, linked=bool(options.get("use_span_links")))
        for signal, receiver in self._receivers():
            signal.connect(receiver, weak=False)

    def _uninstrument(self, **_: Any) -> None:
        for signal, receiver in self._receivers():
            signal.disconnect(receiver)

    def _receivers(self) -> Iterator[tuple[Any, Any]]:
        yield signals.before_task_publish, self._publishes.begin
        yield signals.after_task_publish, self._publishes.end
        yield not_published, self._publishes.end
        yield signals.task_prerun, self._runs.begin
        yield signals.task_retry, self._runs.note_retry
        yield signals.task_failure, self._runs.note_failure
        yield signals.task_postrun, self._runs.end


class _Publishes:
    """A span from before_task_publish to after_task_publish, or to not_published."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        # By the id of the headers, which are the same dict in all signals of a publish.
        self._open: dict[int, Span] = {}

    def begin(self, *, sender: str, headers: dict[str, Any], routing_key: str, **_: Any) -> None:
        span = self._tracer.start_span(
            f"apply_async/{sender}",
            kind=SpanKind.PRODUCER,
            attributes={
                "celery.action": "apply_async",
                "celery.task_name": sender,
                "messaging.message.id": headers["id"],
                "messaging.destination.name": routing_key,
                "messaging.system": "emq",
            },
        )
        # It isn't the current one while the message is sent: what a publish runs there belongs to its caller.
        inject(headers, trace.set_span_in_context(span))
        self._open[id(headers)] = span

    def end(self, *, headers: Mapping[str, Any], exception: BaseException | None = None, **_: Any) -> None:
        span = self._open.pop(id(headers), None)
        if span is None:
            return
        if exception is not None:
            _record(span, exception)
        span.end()


class _Runs:
    """A span from task_prerun to task_postrun.

    It stays the current one afterwards, where a worker runs the task: what follows from a run (callbacks, the
    next link of a chain) is published then, and its last lines are logged. Each run has a context of its own
    (contextvars), with which that ends.
    """

    def __init__(self, tracer: Tracer, *, linked: bool) -> None:
        self._tracer = tracer
        self._linked = linked
        # By request: a task may run itself again, in place or in another thread.
        self._open: dict[int, tuple[Span, _Attached]] = {}

    def begin(self, *, task: Any, **_: Any) -> None:
        request = task.request
        # What runs in place, eagerly, has nothing that travelled: it is the child of what is current.
        told = extract(request, contexts.get_current(), getter=_OF_A_REQUEST)
        publish = trace.get_current_span(told).get_span_context()
        links = [Link(publish)] if self._linked and publish.is_valid else []
        span = self._tracer.start_span(
            f"run/{task.name}",
            context=contexts.Context() if self._linked else told,
            links=links,
            kind=SpanKind.CONSUMER,
            attributes={
                "celery.action": "run",
                "celery.task_name": task.name,
                "messaging.system": "emq",
                **_attributes(request),
            },
        )
        self._open[id(request)] = span, contexts.attach(trace.set_span_in_context(span, told))

    def note_retry(self, *, request: Any, reason: BaseException, **_: Any) -> None:
        span = self._open.get(id(request), _NO_RUN)[0]
        if span is not None:
            span.set_attribute("celery.retry.reason", str(reason))

    def note_failure(self, *, sender: Any, exception: BaseException, **_: Any) -> None:
        span = self._open.get(id(sender.request), _NO_RUN)[0]
        if span is None or isinstance(exception, tuple(getattr(sender, "throws", ()) or ())):
            return
        _record(span, exception)

    def end(self, *, task: Any, state: str | None, **_: Any) -> None:
        request = task.request
        span, token = self._open.pop(id(request), _NO_RUN)
        if span is None or token is None:
            return
        if state is not None:
            span.set_attribute("celery.state", state)
        span.end()
        if request.is_eager or request.called_directly:
            contexts.detach(token)


class _RequestGetter(Getter[Any]):
    """What has travelled with a message, as propagators ask for it."""

    def get(self, carrier: Any, key: str) -> list[str] | None:
        value = (carrier.headers or {}).get(key)
        return None if value is None else [str(value)]

    def keys(self, carrier: Any) -> list[str]:
        return list(carrier.headers or ())


_NO_RUN: tuple[None, None] = (None, None)
_OF_A_REQUEST = _RequestGetter()


def _record(span: Span, exception: BaseException) -> None:
    """Tell of an exception in a span, as of what ended it."""
    span.record_exception(exception)
    span.set_status(Status(StatusCode.ERROR, f"{type(exception).__name__}: {exception}"))


def _attributes(request: Any) -> dict[str, str | int]:
    told: dict[str, str | int] = {}
    for name, attribute in _OF_REQUEST.items():
        value = getattr(request, name, None)
        if value not in (None, ""):
            told[attribute] = value if isinstance(value, int) else str(value)
    queue = (request.delivery_info or {}).get("routing_key")
    if queue:
        told["messaging.destination.name"] = str(queue)
    return told
