"""A shim worker on Redis, asked and heard by a shim app; its connections are cut meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from emq_compat.ids import new_id
from emq_compat.shim import current
from tests.processes import Proc, Procs, procs_in, wait_until
from tests.proxy import Proxy
from tests.site import imported

pytestmark = pytest.mark.integration

NAME = "kombuproj"
NODE = "one@here"
PROJECT = '''
import time
from emq_compat.celery_shim import Celery

app = Celery({name!r}, broker={url!r}, backend={backend!r}, set_as_current=False)
app.conf.update(
    control_exchange={namespace!r},
    event_exchange={namespace!r} + "ev",
    task_default_queue={namespace!r},
    task_send_sent_event=True,
)


@app.task(track_started=True)
def sleep(seconds):
    time.sleep(seconds)
    return seconds
'''


class Place:
    """A project, its worker behind a proxy, and its app here."""

    def __init__(self, folder: Path, procs: Procs, url: str, backend: str, proxy: Proxy) -> None:
        self.namespace = f"t{new_id()[-10:]}"
        self.folder = folder
        self.proxy = proxy
        path = folder / f"{NAME}.py"
        names = {"name": NAME, "url": url, "backend": backend, "namespace": self.namespace}
        path.write_text(PROJECT.format(**names))
        parts = urlsplit(url)
        behind = url.replace(f":{parts.port}", f":{proxy.port}")
        argv = ("worker", "-A", NAME, "-b", behind, "-E", "-c", "2", "-n", NODE, "-l", "info")
        self.worker: Proc = procs.emq(*argv, cwd=folder, ready="is ready", timeout_s=60)
        self.tasks = imported(path)
        self.app = self.tasks.app

    def run(self, *argv: str) -> str:
        """The output of a command line."""
        program = Path(sys.executable).with_name("emq-compat")
        done = subprocess.run(
            [program, "-A", NAME, *argv], cwd=self.folder, text=True, capture_output=True, timeout=60
        )
        assert 0 == done.returncode, done.stderr
        return done.stdout

    @contextmanager
    def events(self) -> Iterator[list[dict[str, Any]]]:
        """The events that come during the block."""
        heard: list[dict[str, Any]] = []
        with self.app.connection() as connection:
            receiver = self.app.events.Receiver(connection, handlers={"*": heard.append})
            receiver.queue.declare()
            thread = threading.Thread(target=receiver.capture)
            thread.start()
            try:
                yield heard
            finally:
                receiver.should_stop = True
                thread.join(30)
                assert not thread.is_alive()
                receiver.close()

    def close(self) -> None:
        with self.app.connection() as connection, connection.channel() as channel:
            channel.queue_delete(self.namespace)
        self.app.close()
        sys.modules.pop(NAME, None)
        current.set_default_app(None)


@pytest.fixture(scope="module", params=["redis"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    backend = request.getfixturevalue("redis_url")
    url = request.getfixturevalue(f"{request.param}_url")
    folder = tmp_path_factory.mktemp("place")
    with procs_in(folder) as procs, Proxy(urlsplit(url).port) as proxy:
        made = Place(folder, procs, url, backend, proxy)
        yield made
        made.close()
        made.worker.stop()


def test_asking(place: Place) -> None:
    """app.control, its inspections and the command lines work as on our broker."""
    control = place.app.control
    assert [{NODE: {"ok": "pong"}}] == control.ping(timeout=10, limit=1)
    inspect = control.inspect(timeout=10, limit=1)
    assert [f"{NAME}.sleep"] == inspect.registered()[NODE]
    assert [{NODE: {"ok": "pool will grow"}}] == control.pool_grow(reply=True, timeout=10, limit=1)
    assert 3 == inspect.stats()[NODE]["pool"]["max-concurrency"]
    assert {NODE: {"ok": "pong"}} == json.loads(place.run("inspect", "-j", "-t", "2", "ping"))
    assert f"{NODE}: OK" in place.run("control", "-t", "2", "heartbeat")
    status = json.loads(place.run("status", "-j", "-t", "2"))
    assert [NODE] == [worker["name"] for worker in status["workers"]]
    assert [{"name": place.namespace, "waiting": 0}] == status["queues"]


def test_events_and_terminating(place: Place) -> None:
    """The events of a task come from who sent it and from who ran it; it is shown, and ended by a revoke."""
    with place.events() as heard:
        task = place.tasks.sleep.delay(600)
        wait_until(lambda: task.state == "STARTED", 30, what="a task that runs")
        (shown,) = place.app.control.inspect(timeout=10, limit=1).active()[NODE]
        assert (task.id, [600]) == (shown["id"], shown["args"])
        place.app.control.revoke(task.id, terminate=True, signal="KILL")
        wait_until(lambda: task.state == "REVOKED", 30, what="the end of the task")
        expected = {"task-sent", "task-received", "task-started", "task-revoked"}

        def of_task() -> set[str]:
            return {event["type"] for event in list(heard) if event.get("uuid") == task.id}

        wait_until(lambda: expected <= of_task(), 30, what="the task's events")


def test_after_a_cut(place: Place) -> None:
    """A worker whose connection was cut hears commands and tells events again, and says that it is online."""
    place.app.control.revoke("kept", reply=True, timeout=10, limit=1)
    with place.events() as heard:
        place.proxy.cut()
        wait_until(
            lambda: any(event["type"] == "worker-online" for event in list(heard)), 60, what="worker-online"
        )
        wait_until(lambda: place.app.control.ping(timeout=2, limit=1), 60, what="an answer")
    assert "kept" in place.app.control.inspect(timeout=10, limit=1).revoked()[NODE]
    assert 0 == place.tasks.sleep.delay(0).get(timeout=30)


def test_nobody_there(place: Place) -> None:
    """Where no worker is meant, the answers are none, and the command line ends with 69."""
    assert [] == place.app.control.ping(destination=["nobody@here"], timeout=0.3)
    program = Path(sys.executable).with_name("emq-compat")
    argv = [program, "-A", NAME, "inspect", "-d", "nobody@here", "-t", "0.3", "ping"]
    done = subprocess.run(argv, cwd=place.folder, text=True, capture_output=True, timeout=60)
    assert 69 == done.returncode
