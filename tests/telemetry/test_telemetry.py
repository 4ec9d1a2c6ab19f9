"""Spans of publishes and runs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from emq_compat.celery_shim import Celery, chain, chord
from emq_compat.errors import BrokerRefused
from emq_compat.message import Publish
from emq_compat.shim import signals
from emq_compat.shim.announce import not_published
from emq_compat.shim.exceptions import EncodeError
from emq_compat.telemetry import EmqInstrumentor
from emq_compat.testing.worker import start_worker

pytestmark = pytest.mark.integration


class Spans:
    """What was exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def all(self) -> list[ReadableSpan]:
        """All but those of the ping by which a worker in a thread is awaited."""
        return [span for span in self.exporter.get_finished_spans() if "ping" not in span.name]

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span


@pytest.fixture
def spans() -> Iterator[Spans]:
    """Spans of an instrumented process."""
    made = Spans()
    EmqInstrumentor().instrument(tracer_provider=made.provider)
    yield made
    EmqInstrumentor().uninstrument()


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def test_a_run_is_its_publishs_child(app: Celery, spans: Spans) -> None:
    """One trace has the caller's span, the publish and the run, and what the task itself does."""

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        with spans.provider.get_tracer("t").start_as_current_span("inside"):
            return x + y

    with start_worker(app):
        with spans.provider.get_tracer("t").start_as_current_span("caller"):
            result = add.delay(2, 3)
        assert 5 == result.get(timeout=10)

    caller, publish, run, inside = map(spans.one, ("caller", "apply_async/add", "run/add", "inside"))
    assert (SpanKind.PRODUCER, SpanKind.CONSUMER) == (publish.kind, run.kind)
    ids = [span.context.span_id for span in (caller, publish, run)]
    assert [None, *ids] == [parent_of(span) for span in (caller, publish, run, inside)]
    assert {caller.context.trace_id} == {span.context.trace_id for span in spans.all()}
    assert {
        "celery.action": "run",
        "celery.state": "SUCCESS",
        "celery.task_name": "add",
        "messaging.message.id": result.id,
        "messaging.destination.name": "celery",
        "messaging.system": "emq",
    }.items() <= dict(run.attributes or {}).items()
    assert result.id == (publish.attributes or {})["messaging.message.id"]


def test_a_workflow_is_one_trace(app: Celery, spans: Spans) -> None:
    """Each link of a chain, the parts of a chord and its body stand in the trace of who began it."""

    @app.task(name="one")
    def one(*_: Any) -> int:
        return 1

    @app.task(name="total")
    def total(values: list[int]) -> int:
        return sum(values)

    with start_worker(app):
        with spans.provider.get_tracer("t").start_as_current_span("caller"):
            result = chain(one.s(), chord([one.s(), one.s()], total.s()), one.s()).delay()
        assert 1 == result.get(timeout=10)

    assert 1 == len({span.context.trace_id for span in spans.all()})
    by_id = {span.context.span_id: span.name for span in spans.all()}
    assert Counter(
        {
            ("apply_async/one", "caller"): 1,
            ("run/one", "apply_async/one"): 4,
            ("apply_async/one", "run/one"): 2,
            ("apply_async/total", "run/one"): 1,
            ("run/total", "apply_async/total"): 1,
            ("apply_async/one", "run/total"): 1,
            ("caller", None): 1,
        }
    ) == Counter((span.name, by_id.get(parent_of(span) or 0)) for span in spans.all())


def test_an_error_is_told(app: Celery, spans: Spans) -> None:
    """A failure's exception stands in its span; one that is expected is no error; a retry says why."""

    @app.task(name="boom", throws=(KeyError,))
    def boom(exc: str) -> None:
        raise KeyError("x") if exc == "KeyError" else ValueError("no")

    @app.task(name="again", bind=True)
    def again(self: Any) -> None:
        if not self.request.retries:
            raise self.retry(countdown=0, exc=ValueError("not yet"))

    with start_worker(app):
        for kind in ("ValueError", "KeyError"):
            boom.delay(kind).get(timeout=10, propagate=False)
        again.delay().get(timeout=10)

    failed, thrown = spans.named("run/boom")
    assert (StatusCode.ERROR, "ValueError: no") == (failed.status.status_code, failed.status.description)
    assert ["exception"] == [event.name for event in failed.events]
    assert (StatusCode.UNSET, ()) == (thrown.status.status_code, thrown.events)
    first, second = spans.named("run/again")
    assert "not yet" in str((first.attributes or {})["celery.retry.reason"])
    assert (0, 1) == tuple((span.attributes or {}).get("celery.retries", 0) for span in (first, second))
    assert first.context.trace_id == second.context.trace_id


def test_coroutines_keep_their_spans_apart(app: Celery, spans: Spans) -> None:
    """Tasks that take turns in one loop have each its own current span."""
    seen = []
    inside = []
    all_inside = asyncio.Event()

    @app.task(name="waits")
    async def waits(n: int) -> None:
        before = trace.get_current_span()
        inside.append(n)
        if len(inside) == 8:
            all_inside.set()
        await asyncio.wait_for(all_inside.wait(), 10)
        seen.append(before.get_span_context() == trace.get_current_span().get_span_context())

    with start_worker(app, pool="asyncio", concurrency=8):
        for result in [waits.delay(n) for n in range(8)]:
            result.get(timeout=10)

    assert [True] * 8 == seen
    assert 8 == len({span.context.span_id for span in spans.named("run/waits")})
    assert not trace.get_current_span().get_span_context().is_valid


def test_links_instead_of_children(app: Celery) -> None:
    """With use_span_links a run is a trace of its own that says where it was published."""
    spans = Spans()
    EmqInstrumentor().instrument(tracer_provider=spans.provider, use_span_links=True)
    try:

        @app.task(name="f")
        def f() -> None:
            pass

        with start_worker(app):
            f.delay().get(timeout=10)
    finally:
        EmqInstrumentor().uninstrument()

    publish, run = spans.one("apply_async/f"), spans.one("run/f")
    assert None is parent_of(run)
    assert publish.context.trace_id != run.context.trace_id
    assert [publish.context.span_id] == [link.context.span_id for link in run.links]


def test_a_publish_that_fails_is_an_error(
    app: Celery, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its span ends with what was raised, whether the broker or what a receiver put in was at fault."""

    @app.task(name="f")
    def f() -> None:
        pass

    def put_in(headers: dict[str, Any], **_: Any) -> None:
        headers["own"] = object()

    def publish(message: Publish) -> None:
        raise BrokerRefused("no")

    monkeypatch.setattr(app.client, "publish", publish)
    with pytest.raises(BrokerRefused):
        f.delay()
    signals.before_task_publish.connect(put_in)
    try:
        with pytest.raises(EncodeError):
            f.delay()
    finally:
        signals.before_task_publish.disconnect(put_in)

    told = [str(span.status.description).partition(":")[0] for span in spans.named("apply_async/f")]
    assert ["BrokerRefused", "EncodeError"] == told


def test_a_publish_that_joins_another_ends_its_span(app: Celery, spans: Spans) -> None:
    """A unique task that is there already is published by nobody, which is no error."""

    @app.task(name="f", unique_for=60)
    def f() -> None:
        pass

    assert f.delay() == f.delay()

    ends = [span.status.status_code for span in spans.named("apply_async/f")]
    assert [StatusCode.UNSET] * 2 == ends


def test_a_run_inside_a_run(app: Celery, spans: Spans) -> None:
    """A task that runs another in place is its parent, and is the current one again behind it."""
    current: list[str] = []

    @app.task(name="inner")
    def inner() -> None:
        current.append(trace.get_current_span().name)  # type: ignore[attr-defined]

    @app.task(name="outer")
    def outer() -> None:
        inner.apply()
        current.append(trace.get_current_span().name)  # type: ignore[attr-defined]

    with start_worker(app):
        outer.delay().get(timeout=10)

    assert ["run/inner", "run/outer"] == current
    assert spans.one("run/outer").context.span_id == parent_of(spans.one("run/inner"))


def test_uninstrumented(app: Celery, spans: Spans) -> None:
    """Nothing listens afterwards."""
    EmqInstrumentor().uninstrument()

    listened = (signals.task_prerun, signals.before_task_publish, not_published)
    assert [] == [signal for signal in listened if signal.receivers]


def test_who_isnt_instrumented_breaks_nothing(make_app: Callable[..., Celery], spans: Spans) -> None:
    """A run without a publish's context begins a trace."""
    app = make_app()

    @app.task(name="f")
    def f() -> None:
        pass

    f.apply()

    assert None is parent_of(spans.one("run/f"))


def test_opentelemetry_finds_it() -> None:
    """``opentelemetry-instrument`` loads it by its entry point."""
    (found,) = entry_points(group="opentelemetry_instrumentor", name="emq_compat")
    assert EmqInstrumentor is found.load()
