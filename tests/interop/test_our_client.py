"""Our client, and tasks of the Celery-style API, through a stock router to a stock job manager."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from emq_compat.client import Client
from emq_compat.errors import OperationalError
from emq_compat.message import Headers, Job, Publish
from tests.interop.conftest import Notes, OurJobManager, StockRouter
from tests.processes import Procs
from tests.stock.peers import ROOT, Stock

pytestmark = [pytest.mark.interop]

PROJECT = """
import os

from emq_compat.celery_shim import Celery, shared_task

app = Celery("shimproj", broker=os.environ["SHIM_BROKER"])


@app.task
def note(path, text, *, times=1):
    for n in range(times):
        with open(path, "a") as file:
            file.write(f"{text}\\n")
    return times


@app.task(bind=True)
def bound(self, path):
    return note(path, self.name)


@shared_task
def shared(path):
    return note(path, "shared")


class Tasks:
    @app.task
    def method(path):
        return note(path, "method")


class ClassBased(app.Task):
    name = "shimproj.class_based"

    def run(self, path):
        return note(path, "class-based")


class_based = app.register_task(ClassBased())
"""


@pytest.fixture
def project(write: Callable[[str, str], Path]) -> Path:
    """The folder of a project of the Celery-style API."""
    return write("project/shimproj.py", PROJECT).parent


def test_a_plain_job_runs(router: StockRouter, stock: Stock, notes: Notes) -> None:
    """publish and publish_all return once sent; every job runs once; no header of ours reaches the router."""
    proc = router.start()
    stock.jobmanager(broker=router.endpoint("backend"), jobs=2)
    job = Job(path="stock_tasks", callable="note", args=(notes.path, "one"))
    headers = Headers(task_id="id, with: blanks", task="timeout:0.5,reply-requested", priority=9)
    with Client(router.url) as client:
        client.publish(Publish(queue="default", headers=headers, payload=job.encode()))
        client.publish_all(
            Publish(
                queue="default",
                headers=headers,
                payload=Job(path="stock_tasks", callable="note", args=(notes.path, str(n))).encode(),
            )
            for n in range(8)
        )
    notes.wait(9)
    assert {1} == set(notes.counts().values())
    assert "'default', '', '[\"run\"" in proc.output()
    assert "timeout" not in proc.output()
    assert {} == router.shown("status")["waiting_messages_by_queue"]


@pytest.mark.parametrize("ours", [False, True], ids=["stock job manager", "our job manager"])
def test_a_shim_task_runs(
    router: StockRouter,
    stock: Stock,
    our_jobmanager: OurJobManager,
    procs: Procs,
    project: Path,
    notes: Notes,
    ours: bool,
) -> None:
    """delay() returns once sent; a job manager that was told of no app imports the task and calls it."""
    proc = router.start()
    if ours:
        backend = router.endpoint("backend")
        allow = '["shimproj*", "emq_compat.shim.paths*"]'
        our_jobmanager(backend, path=(project,), env={"SHIM_BROKER": router.url}, ALLOW=allow)
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SHIM_BROKER", router.url)
            stock.jobmanager(broker=router.endpoint("backend"), jobs=2, path=(ROOT, project))
    producer = procs.python(
        "-c",
        f"""
import time
import shimproj
from emq_compat.celery_shim import Celery
path = {notes.path!r}
shimproj.app.conf.task_default_queue = "default"
results = [
    shimproj.note.delay(path, "plain"),
    shimproj.note.apply_async((path, "twice"), {{"times": 2}}, priority=9, time_limit=30),
    shimproj.bound.delay(path),
    shimproj.shared.delay(path),
    shimproj.Tasks.method.delay(path),
    shimproj.class_based.delay(path),
]
began = time.monotonic()
for result in results:
    try:
        result.get()
    except Exception as exc:
        print(type(exc).__name__, exc)
assert time.monotonic() - began < 1
for options in ({{"countdown": 1}}, {{"expires": 9}}):
    try:
        shimproj.note.apply_async((path, "never"), **options)
    except Exception as exc:
        print(type(exc).__name__, exc)
""",
        env={"SHIM_BROKER": router.url, "PYTHONPATH": str(project)},
        name="producer",
    )
    assert 0 == producer.wait(), producer.output()
    assert 6 == producer.output().count("result_backend")
    assert 2 == producer.output().count("can't do")
    notes.wait(6)
    expected = {"plain": 1, "twice": 2, "shimproj.bound": 1, "shared": 1, "method": 1, "class-based": 1}
    assert expected == notes.counts()
    assert "Traceback" not in proc.output()


def test_a_stock_router_that_is_taken_for_ours(router: StockRouter) -> None:
    """Nothing answers the HELLO: within the time limit an error says what to write; the router lives."""
    proc = router.start()
    url = router.url.replace("&stock=1", "")
    began = time.monotonic()
    message = Publish(queue="q", headers=Headers(), payload=Job(path="m", callable="f").encode())
    with Client(url, timeout_s=1.0) as client:
        with pytest.raises(OperationalError, match=r"\?stock=1"):
            client.publish(message)
        with pytest.raises(OperationalError, match=r"\?stock=1"):
            client.ask("stats")
    assert time.monotonic() - began < 5
    assert {} == router.shown("status")["waiting_messages_by_queue"]
    assert "Traceback" not in proc.output()


def test_nothing_is_asked_of_a_stock_router(router: StockRouter) -> None:
    """Questions and waits fail at once, naming result_backend, whether the router is there or not."""
    began = time.monotonic()
    with Client(router.url) as client:
        with pytest.raises(OperationalError, match="result_backend"):
            client.ask("stats")
        with pytest.raises(OperationalError, match="result_backend"):
            client.wait(["id"], None)
    assert time.monotonic() - began < 1
