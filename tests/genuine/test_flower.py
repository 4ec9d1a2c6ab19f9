"""Flower, from PyPI, on a genuine app: what its pages show of our worker, and what its buttons do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker_process import Broker
from tests.browser import Browser, browser
from tests.processes import Procs, procs_in, unused_port, wait_until
from tests.site import imported

pytestmark = pytest.mark.integration

NAME = "flowerproj"
PROJECT = '''
import time
from celery import Celery

app = Celery("flowerproj", broker={url!r}, backend={url!r})
app.conf.task_send_sent_event = True


@app.task
def add(x, y):
    return x + y


@app.task
def fail(text):
    raise ValueError(text)


@app.task
def sleep(seconds):
    time.sleep(seconds)


@app.task(bind=True)
def again(self):
    raise self.retry(countdown=600)
'''


class Garden:
    """A project with its broker, our worker and Flower, and a browser that looks at it.

    Attributes:
        node: the worker's name.
        tasks: the project's module.
    """

    def __init__(self, procs: Procs, folder: Path, window: Browser) -> None:
        self.window = window
        self.node = "rose@garden"
        broker = Broker(procs, unused_port, folder / "data")
        (folder / f"{NAME}.py").write_text(PROJECT.format(url=broker.url))
        broker.start()
        broker.client.close()
        port = unused_port()
        self._url = f"http://127.0.0.1:{port}"
        worker = ("worker", "-A", NAME, "-E", "-c", "2", "-n", self.node, "-l", "info")
        procs.emq(*worker, cwd=folder, ready="is ready", timeout_s=60)
        procs.start(
            Path(sys.executable).with_name("celery"),
            *("-A", NAME, "flower", "--address=127.0.0.1", f"--port={port}"),
            cwd=folder,
            env={"FLOWER_UNAUTHENTICATED_API": "true"},
            ready="Visit me at",
            timeout_s=60,
        )
        self.tasks = imported(folder / f"{NAME}.py")

    def show(self, path: str, *texts: str) -> str:
        """Open one of Flower's pages, and load it again until all of these stand there; returns its text."""
        self.window.open(self._url + path)
        return self.window.wait_for(*texts, again=True)


@pytest.fixture(scope="module")
def garden(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Garden]:
    folder = tmp_path_factory.mktemp("garden")
    with procs_in(folder) as procs, browser(folder) as window:
        made = Garden(procs, folder, window)
        made.show("/workers", made.node, "Online")
        yield made
        made.tasks.app.close()
        sys.modules.pop(NAME, None)


def test_the_worker_is_online(garden: Garden) -> None:
    """The page of workers has ours, with what it has done."""
    garden.tasks.add.delay(1, 2).get(timeout=30)
    text = garden.show("/workers", garden.node, "Online", "SUCCEEDED")
    row = text[text.index(garden.node) :].splitlines()
    assert row[1].startswith("Online 0 ")
    garden.window.shot("workers")


def test_tasks_have_their_states_and_runtimes(garden: Garden) -> None:
    """A task's page has arguments, result, runtime and worker; a failed one the error, and the list both."""
    succeeded, failed = garden.tasks.add.delay(2, 3), garden.tasks.fail.delay("wilted")
    text = garden.show(f"/task/{succeeded.id}", "SUCCESS", "Runtime")
    for told in (f"{NAME}.add", "(2, 3)", "5", garden.node, "ms", "Received", "Started", "Succeeded"):
        assert told in text
    garden.window.shot("task")
    assert "wilted" in garden.show(f"/task/{failed.id}", "FAILURE", "ValueError", "Traceback")
    text = garden.show("/tasks", succeeded.id, failed.id)
    rows = {words[1]: words for line in text.splitlines() if len(words := line.split()) > 4}
    assert [f"{NAME}.add", succeeded.id, "SUCCESS"] == rows[succeeded.id][:3]
    assert "ms" == rows[succeeded.id][-1]
    assert [f"{NAME}.fail", failed.id, "FAILURE"] == rows[failed.id][:3]
    garden.window.shot("tasks")


def test_terminating_and_revoking(garden: Garden) -> None:
    """Running tasks are ended by Flower's button, and one that waits for its retry is revoked by it."""
    retried = garden.tasks.again.delay()
    garden.show(f"/task/{retried.id}", "RETRY", "Revoke")
    garden.window.click("#task-revoke")
    garden.window.wait_for("Revoked")
    wait_until(lambda: retried.state == "REVOKED", 30, what="the state of the result")
    garden.show(f"/task/{retried.id}", "REVOKED")
    running = [garden.tasks.sleep.delay(600) for _ in range(2)]
    waiting = garden.tasks.add.delay(0, 0)
    for task in running:
        garden.show(f"/task/{task.id}", "STARTED", "Terminate")
        garden.window.click("#task-terminate")
        garden.window.wait_for("Revoked")
        garden.show(f"/task/{task.id}", "REVOKED")
    wait_until(lambda: all(task.state == "REVOKED" for task in running), what="the states of the results")
    assert 0 == waiting.get(timeout=30)


def test_the_pool_grows_and_shrinks(garden: Garden) -> None:
    """The buttons of the worker's page make its pool larger and smaller."""
    garden.show(f"/worker/{garden.node}", "Max concurrency 2", "Grow")
    garden.window.click("#worker-pool-grow")
    garden.window.wait_for("Growing")
    garden.show(f"/worker/{garden.node}?refresh=1", "Max concurrency 3")
    garden.window.shot("worker")
    garden.window.click("#worker-pool-shrink")
    garden.window.wait_for("Shrinking")
    garden.show(f"/worker/{garden.node}?refresh=1", "Max concurrency 2")
