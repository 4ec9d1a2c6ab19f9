"""One queue of our broker, a stock job manager and ours at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from emq_compat.message import Headers, Job, Publish, new_id
from tests.broker_process import Broker
from tests.interop.conftest import Notes, OurJobManager, shown
from tests.interop.test_our_client import PROJECT
from tests.processes import Procs, wait_until
from tests.stock.peers import ROOT, Stock

pytestmark = [pytest.mark.interop]


def _message(function: str, *args: object, **headers: object) -> Publish:
    job = Job(path="stock_tasks", callable=function, args=args)
    head = Headers(**{"task_id": new_id(), "task": f"stock_tasks.{function}", **headers})  # type: ignore[arg-type]
    return Publish(queue="default", headers=head, payload=job.encode())


def test_both_take_work(
    broker: Broker, stock: Stock, our_jobmanager: OurJobManager, notes: Notes
) -> None:
    """Each job runs once, some here and some there, and every result is stored."""
    broker.start()
    stock.jobmanager(broker=broker.endpoint("backend"), jobs=2)
    our_jobmanager(broker.endpoint("backend"), jobs=2)
    wait_until(lambda: sum(w["credit"] > 0 for w in broker.client.ask("workers")) == 2, what="both ready")
    messages = [_message("note_runner", notes.path, 0.2) for _ in range(30)]
    broker.client.publish_all(messages)
    ids = [message.headers.task_id for message in messages]
    results = dict(broker.client.wait(ids, 60))
    assert {"SUCCESS"} == {result.state for result in results.values()}
    assert {"stock", "ours"} == {result.reply["value"] for result in results.values()}
    assert 30 == len(notes.lines())


def test_time_and_priority_are_kept_by_the_broker(broker: Broker, stock: Stock, notes: Notes) -> None:
    """A stock job manager gets the more urgent first, nothing before its eta, and nothing that expired."""
    broker.start()
    now = time.time()
    broker.client.publish_all(
        [
            _message("note_time", notes.path, "low", priority=1),
            _message("note_time", notes.path, "expired", expires=now + 0.01, priority=9),
            _message("note_time", notes.path, "high", priority=9),
            _message("note_time", notes.path, "later", eta=now + 3.0, priority=9),
            _message("note_time", notes.path, "middle", priority=5, expires=now + 600),
        ]
    )
    stock.jobmanager(broker=broker.endpoint("backend"), jobs=1)
    notes.wait(4)
    ran = [(text, float(at)) for text, at in (line.split() for line in notes.lines())]
    assert ["high", "middle", "low", "later"] == [text for text, _ in ran]
    assert now + 3.0 <= ran[-1][1] < now + 12.0


def test_a_celery_style_app_is_served_by_both(
    broker: Broker,
    stock: Stock,
    procs: Procs,
    notes: Notes,
    write: Callable[[str, str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A task that our worker has registered runs in a stock job manager, too; get() returns either's."""
    broker.start()
    project = write("project/shimproj.py", PROJECT).parent
    monkeypatch.setenv("SHIM_BROKER", broker.url)
    backend = broker.endpoint("backend")
    stock.jobmanager(broker=backend, jobs=2, queues=((10, "celery"),), path=(ROOT, project))
    env = {"PYTHONPATH": str(project)}
    procs.emq("worker", "-A", "shimproj", "-c", "2", env=env, ready="is ready, connected to")
    wait_until(lambda: sum(w["credit"] > 0 for w in broker.client.ask("workers")) == 2, what="both ready")
    producer = procs.python(
        "-c",
        f"""
import shimproj
results = [shimproj.note.delay({notes.path!r}, str(n), times=n % 3) for n in range(20)]
results += [shimproj.bound.delay({notes.path!r}), shimproj.Tasks.method.delay({notes.path!r})]
print([result.get(timeout=60) for result in results])
""",
        name="producer",
        env=env,
    )
    assert 0 == producer.wait(60), producer.output()
    assert str([*(n % 3 for n in range(20)), 1, 1]) in producer.output()
    expected = {str(n): n % 3 for n in range(20) if n % 3} | {"shimproj.bound": 1, "method": 1}
    assert expected == notes.counts()
    finished = shown(stock, broker.endpoint("admin"), "status")["processed_messages_by_worker"]
    assert 22 == sum(finished.values())
    assert 2 == sum(count > 0 for count in finished.values())
