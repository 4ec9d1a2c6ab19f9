"""OpenTelemetry's and Sentry's instrumentations of Celery, with a genuine app over our broker."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.broker_process import Broker
from tests.processes import Procs, unused_port, wait_until

pytestmark = pytest.mark.integration

PROJECT = """
import json, os
from celery import Celery, chain, signals

app = Celery("seen", broker=os.environ["BROKER"], backend=os.environ["BROKER"])


@app.task
def add(x, y):
    return x + y


@app.task
def boom():
    raise ValueError("no")
"""

SPANS = """
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor


def line(span):
    told = {"name": span.name, "trace": span.context.trace_id, "id": span.context.span_id,
            "parent": span.parent and span.parent.span_id, "status": span.status.status_code.name}
    return json.dumps(told) + "\\n"


def begin(**_):
    provider = TracerProvider()
    out = open(os.environ["SEEN"], "a", buffering=1)
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=out, formatter=line)))
    CeleryInstrumentor().instrument(tracer_provider=provider)


# As its documentation says: in each process that runs tasks, after the fork.
signals.worker_process_init.connect(begin, weak=False)
if os.environ.get("CALLER"):
    begin()
"""

SENTRY = """
import sentry_sdk
from sentry_sdk.integrations.celery import CeleryIntegration


def keep(event, hint):
    told = {"kind": event.get("type", "event"), "transaction": event.get("transaction"),
            "trace": event["contexts"]["trace"]["trace_id"],
            "exception": [value["type"] for value in event.get("exception", {}).get("values", ())]}
    with open(os.environ["SEEN"], "a") as out:
        out.write(json.dumps(told) + "\\n")


sentry_sdk.init(dsn="http://key@127.0.0.1:1/1", traces_sample_rate=1.0,
                before_send=keep, before_send_transaction=keep,
                integrations=[CeleryIntegration(propagate_traces=True)],
                default_integrations=False)
"""

CALLER = """
from seen_project import add, boom, chain
assert 20 == chain(add.s(1, 2), add.s(17)).delay().get(timeout=30)
boom.delay().get(timeout=30, propagate=False)
"""


@pytest.fixture
def seen(procs: Procs, tmp_path: Path, request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """What an instrumented project's caller and worker have told, line by line."""
    broker = Broker(procs, unused_port, tmp_path / "data")
    broker.start()
    file = tmp_path / "seen"
    file.touch()
    (tmp_path / "seen_project.py").write_text(PROJECT + request.param)
    env = {"BROKER": broker.url, "SEEN": str(file)}
    emq = Path(sys.executable).parent / "emq-compat"
    worker = ("worker", "-A", "seen_project", "-c", "1")
    procs.start(emq, *worker, cwd=tmp_path, env=env, ready=" is ready")
    caller = procs.start(sys.executable, "-c", CALLER, cwd=tmp_path, env={**env, "CALLER": "1"})
    assert 0 == caller.wait(60), caller.tail()

    def told() -> list[dict[str, Any]]:
        return [json.loads(line) for line in file.read_text().splitlines()]

    wait_until(lambda: [line for line in told() if "boom" in str(line)], what="the failing task is told of")
    return told()


@pytest.mark.parametrize("seen", [SPANS], indirect=True)
def test_opentelemetry(seen: list[dict[str, Any]]) -> None:
    """A run's parent is its publish, a chain is one trace, and a failure is told as one."""
    by_id = {span["id"]: span for span in seen}
    first, second = (span for span in seen if span["name"] == "run/seen_project.add")
    assert first["trace"] == second["trace"]
    for run in (first, second):
        assert "apply_async/seen_project.add" == by_id[run["parent"]]["name"]
    assert first["id"] == by_id[second["parent"]]["parent"]
    (failed,) = (span for span in seen if span["name"] == "run/seen_project.boom")
    assert "ERROR" == failed["status"]


@pytest.mark.parametrize("seen", [SENTRY], indirect=True)
def test_sentry(seen: list[dict[str, Any]]) -> None:
    """Each run is a transaction, a failure an event with its exception, and a chain keeps its trace."""
    runs = [told for told in seen if told["transaction"] == "seen_project.add"]
    assert ["transaction"] * 2 == [run["kind"] for run in runs]
    assert 1 == len({run["trace"] for run in runs})
    assert [["ValueError"]] == [told["exception"] for told in seen if told["kind"] == "event"]
