"""Genuine Celery's own clients and workers on our broker, and beside a worker of the shim."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celery
import pytest
from celery import chain, group
from celery.events import EventReceiver
from kombu import Connection
from kombu.utils.json import dumps

from emq_compat.client import Client
from tests.broker_process import Broker
from tests.processes import Proc, Procs, unused_port, wait_until

pytestmark = pytest.mark.integration

TASKS = """
import os, time
from {celery} import Celery

app = Celery("proj", broker={broker!r}, backend={backend!r})
app.conf.update(
    broker_connection_retry_on_startup=True, worker_cancel_long_running_tasks_on_connection_loss=True
)

@app.task(name="proj.add")
def add(x, y):
    return x + y

@app.task(name="proj.total")
def total(values):
    return sum(values)

@app.task(name="proj.flaky", bind=True, max_retries=3)
def flaky(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)
    return self.request.retries

@app.task(name="proj.note", bind=True)
def note(self, path, text):
    with open(path, "a") as out:
        out.write(f"{{text}} {{self.request.id}} {{self.request.retries}}\\n")

@app.task(name="proj.slow", bind=True, acks_late=True, reject_on_worker_lost=True)
def slow(self, path, seconds):
    again = self.request.delivery_info["redelivered"]
    with open(path, "a") as out:
        out.write(f"{{os.getpid()}} {{again}}\\n")
    time.sleep(0 if again else seconds)
    return "done"
"""


class Place:
    """A broker, and projects for workers and clients of it."""

    def __init__(self, folder: Path, procs: Procs) -> None:
        self.folder = folder
        self.procs = procs
        self.broker = Broker(procs, unused_port, folder / "data")
        (folder / "results").mkdir()
        self.app = self.project("theirs", "celery")
        self.project("ours", "emq_compat.celery_shim")

    def project(self, module: str, package: str) -> Any:
        """Write a project; return its app, for a genuine one."""
        backend = f"file://{self.folder / 'results'}" if package == "celery" else None
        text = TASKS.format(celery=package, broker=self.broker.url, backend=backend)
        if package == "celery":
            text = text.replace("app.task(", "app.task(shared=False, ")  # this process has several apps
        (self.folder / f"{module}.py").write_text(text)
        if package != "celery":
            return None
        made: dict[str, Any] = {"__name__": module}
        exec(compile(text, f"{module}.py", "exec"), made)
        return made["app"]

    def celery_worker(self, *options: str, name: str = "one") -> Proc:
        """Start a worker of Celery's own."""
        program = Path(sys.executable).with_name("celery")
        return self.procs.start(
            *(program, "-A", "theirs", "worker", "-n", f"{name}@here", "-l", "info", *options),
            cwd=self.folder,
            ready=f"{name}@here ready.",
            timeout_s=60,
            may_orphan=True,
            env={"C_FORCE_ROOT": "1"},
        )

    def task(self, name: str) -> Any:
        return self.app.tasks[f"proj.{name}"]


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Place]:
    procs = Procs(folder)
    try:
        place = Place(folder, procs)
        yield place
        place.app.close()
        place.broker.client.close()
    finally:
        procs.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A broker with one worker of Celery's own."""
    with opened(tmp_path_factory.mktemp("place")) as made:
        made.broker.start("--memory", "--dead-after", "3")
        made.celery_worker("-c", "2", "-E")
        yield made


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Place]:
    """A broker of the test's own, not started yet."""
    folder = tmp_path / "place"
    folder.mkdir()
    with opened(folder) as made:
        yield made


def test_workflows(place: Place) -> None:
    """Tasks, chains, groups, chords and retries run with client and worker on our broker."""
    add, total = place.task("add"), place.task("total")
    assert 3 == add.delay(1, 2).get(timeout=30)
    assert 10 == chain(add.s(1, 2), add.s(3), add.s(4)).delay().get(timeout=30)
    assert [2, 4] == group(add.s(1, 1), add.s(2, 2)).apply_async().get(timeout=30)
    assert 2 == place.task("flaky").delay().get(timeout=30)
    assert 6 == total.delay([1, 2, 3]).get(timeout=30)


def test_eta(place: Place, tmp_path: Path) -> None:
    """What has an eta waits in the broker, and comes when it is due."""
    result = place.task("note").apply_async((str(tmp_path / "out"), "late"), countdown=1)
    [row] = [row for row in place.broker.client.ask("queues") if row["name"] == "celery"]
    assert 1 == row["delayed"]
    assert not place.app.control.inspect(timeout=1).scheduled()["one@here"]
    result.get(timeout=30)


def test_expired(place: Place) -> None:
    """What has expired before anybody took it is stored as revoked by the worker of Celery's."""
    result = place.task("add").apply_async((1, 2), countdown=1, expires=0.5)
    with pytest.raises(celery.exceptions.TaskRevokedError):
        result.get(timeout=30)


def test_remote_control(place: Place) -> None:
    """Commands reach a worker of Celery's by its mailbox, and the answers come back."""
    control = place.app.control
    assert [{"one@here": {"ok": "pong"}}] == [
        answer for answer in control.ping(timeout=2) if "one@here" in answer
    ]
    [queue] = control.inspect(timeout=2).active_queues()["one@here"]
    assert "celery" == queue["name"]
    control.add_consumer("more", destination=["one@here"], reply=True, timeout=5)
    assert 5 == place.task("add").apply_async((2, 3), queue="more").get(timeout=30)
    control.cancel_consumer("more", destination=["one@here"], reply=True, timeout=5)


def test_events(place: Place) -> None:
    """An event receiver hears what a worker of Celery's tells, and so does a subscriber of the topic."""
    heard: list[str] = []
    subscription = Client(place.broker.url).subscribe(["celeryev.task."])
    subscription.open()
    with Connection(place.broker.url) as connection:
        receiver = EventReceiver(connection, app=place.app, handlers={"*": lambda e: heard.append(e["type"])})
        ready = threading.Event()

        def capture() -> None:
            with receiver.consumer_context(limit=None, timeout=None, wakeup=False) as (own, _, _):
                ready.set()
                while "task-succeeded" not in heard:
                    own.drain_events(timeout=20)

        capturing = threading.Thread(target=capture)
        capturing.start()
        assert ready.wait(10)
        place.task("add").delay(1, 2).get(timeout=30)
        capturing.join(30)
    assert {"task-received", "task-started", "task-succeeded"} <= set(heard)
    told: set[str] = set()
    while "task-succeeded" not in told:
        message = subscription.take(time.monotonic() + 10)
        assert message is not None
        events = json.loads(message.payload)  # a list of those that were sent together
        told |= {event["type"] for event in (events if isinstance(events, list) else [events])}
    subscription.close()


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_other_pools(alone: Place, pool: str) -> None:
    """Celery's other pools, which acknowledge in other ways, run tasks, too, and leave nothing behind."""
    alone.broker.start("--memory")
    worker = alone.celery_worker("-P", pool, "-c", "2")
    results = [alone.task("add").delay(n, n) for n in range(20)]
    assert [2 * n for n in range(20)] == [result.get(timeout=60) for result in results]
    assert 0 == worker.stop()
    [row] = [row for row in alone.broker.client.ask("queues") if row["name"] == "celery"]
    assert (0, 0) == (row["waiting"], row["in_flight"])


def test_to_a_worker_of_the_shim(alone: Place, tmp_path: Path) -> None:
    """What genuine Celery publishes over `emq://` is run by a worker of a shim app, retries and eta too."""
    alone.broker.start()
    alone.procs.emq("worker", "-A", "ours", "-c", "1", cwd=alone.folder, ready="ready", timeout_s=60)
    out = tmp_path / "out"
    note, add = alone.task("note"), alone.task("add")
    first = note.delay(str(out), "first")
    second = chain(add.si(1, 2), note.si(str(out), "second").set(countdown=0.2)).apply_async()
    wait_until(lambda: out.exists() and len(out.read_text().splitlines()) == 2, 30)
    assert [f"first {first.id} 0", f"second {second.id} 0"] == out.read_text().splitlines()


def test_worker_killed(alone: Place, tmp_path: Path) -> None:
    """What a killed worker of Celery's ran, acknowledging late, runs on another one."""
    alone.broker.start("--dead-after", "3")
    out = tmp_path / "out"
    first = alone.celery_worker("-c", "1", name="one")
    result = alone.task("slow").delay(str(out), 100)
    wait_until(lambda: out.exists() and out.read_text(), 30)
    alone.celery_worker("-c", "1", name="two")
    os.killpg(first.pid, signal.SIGKILL)
    assert "done" == result.get(timeout=60)
    assert ["False", "True"] == [line.split()[1] for line in out.read_text().splitlines()]


@pytest.mark.faults
def test_broker_killed(alone: Place) -> None:
    """A worker of Celery's takes up its work again after each kill of the broker; no task is lost."""
    broker = alone.broker
    broker.start("--dead-after", "2")
    alone.celery_worker("-c", "2")
    results = []
    policy = {"max_retries": 200, "interval_start": 0.02, "interval_max": 0.1}
    for kill in range(3):
        for n in range(30):
            results.append(alone.task("add").apply_async((n, kill), retry_policy=policy))
        assert broker.proc is not None
        broker.proc.kill()
        broker.start("--dead-after", "2")
    for n, result in enumerate(results):
        assert n % 30 + n // 30 == result.get(timeout=60)


def test_message_as_it_was(alone: Place) -> None:
    """A task's message that passes through the broker is the one that Celery sent."""
    alone.broker.start("--memory")
    sent: list[tuple[Any, Any, Any]] = []

    def remember(body: Any, headers: Any, properties: Any, **more: Any) -> None:
        sent.append((body, dict(headers), dict(properties)))

    celery.signals.before_task_publish.connect(remember)
    try:
        signature = alone.task("add").s(1, y=2).set(
            priority=3, expires=3600, headers={"mine": "ü"}, time_limit=5, reply_to="somewhere"
        )
        (signature | alone.task("add").s(4)).apply_async(link_error=alone.task("total").s())
    finally:
        celery.signals.before_task_publish.disconnect(remember)
    [(body, headers, properties)] = sent
    with Connection(alone.broker.url) as connection:
        message = connection.default_channel.basic_get("celery")
        assert json.loads(dumps(body)) == message.payload
        assert headers == {key: value for key, value in message.headers.items() if key in headers}
        told = {key: message.properties.get(key) for key in ("correlation_id", "reply_to", "priority")}
        assert {key: properties.get(key, 3) for key in told} == told
        message.ack()




def test_purge(alone: Place) -> None:
    """Purging takes all that waits, and leaves the queue empty."""
    alone.broker.start("--memory")
    for _ in range(3):
        alone.task("add").delay(1, 2)
    alone.task("add").apply_async((1, 2), countdown=60)
    assert 4 == alone.app.control.purge()
    assert 0 == alone.app.control.purge()
    assert 0 == alone.broker.waiting("celery")
