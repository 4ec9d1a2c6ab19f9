"""One queue with a worker of Celery's and one of ours, both of one genuine app, and a client in the test."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.processes import Proc, Procs, wait_until
from tests.site import imported

__all__ = ["CELERYS", "OURS", "Fleet"]

CELERYS, OURS = "celerys@fleet", "ours@fleet"
NAME = "fleetproj"
#: Its tasks are not shared: several fleets of one process would give every other app two of each name.
PROJECT = '''
import time
from celery import Celery

app = Celery({name!r}, broker={url!r}, backend={backend!r})
app.conf.update(
    control_exchange={namespace!r},
    event_exchange={namespace!r} + "ev",
    task_default_queue={namespace!r},
    worker_pool_restarts=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    result_expires=600,
)


@app.task(rate_limit="1000/s", shared=False)
def add(x, y):
    return x + y


@app.task(shared=False)
def fail():
    raise ValueError("no")


@app.task(shared=False)
def sleep(seconds):
    time.sleep(seconds)


@app.task(shared=False)
def notes(file, line):
    with open(file, "a") as out:
        out.write(line + "\\n")
'''


class Fleet:
    """The two workers and a client's app.

    Args:
        namespace: of queues, remote control and events: nobody else has it on this broker.

    Attributes:
        tasks: the project's module, imported here.
    """

    def __init__(self, procs: Procs, folder: Path, url: str, backend: str, namespace: str) -> None:
        self.procs = procs
        self.folder = folder
        self.namespace = namespace
        self._bin = Path(sys.executable).parent
        text = PROJECT.format(name=NAME, url=url, backend=backend, namespace=namespace)
        (folder / f"{NAME}.py").write_text(text)
        self.tasks = imported(folder / f"{NAME}.py")
        self.app = self.tasks.app

    def begin(self) -> None:
        """Start both workers, and wait until they are ready."""
        self.celerys = self.start_worker(CELERYS)
        self.ours = self.start_worker(OURS)
        wait_until(lambda: self.celerys.output().count(" ready.") or not self.celerys.alive(), 60)
        self.celerys.wait_line(" ready.")
        self.ours.wait_line("is ready", 60)

    def start_worker(self, node: str) -> Proc:
        """Start one of the two."""
        argv = ["-A", NAME, "worker"] if node == CELERYS else ["worker", "-A", NAME]
        program = "celery" if node == CELERYS else "emq-compat"
        options = ["-E", "-c", "2", "-n", node, "-l", "info"]
        return self.procs.start(self._bin / program, *argv, *options, cwd=self.folder)

    def close(self) -> None:
        """Delete what the broker would keep, and end the client's connections."""
        with self.app.connection() as connection:
            for queue in (self.namespace, f"{self.namespace}x"):
                with connection.channel() as channel:
                    channel.queue_delete(queue)
        self.app.close()

    def inspect(self, timeout: float = 10.0) -> Any:
        """An inspection that ends as soon as both have answered."""
        return self.app.control.inspect(timeout=timeout, limit=2)

    def control(self, method: str, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Call one of control's methods, and return both answers."""
        found = getattr(self.app.control, method)(
            *arguments, reply=True, **{"timeout": 10.0, "limit": 2, **options}
        )
        return {node: answer for one in found for node, answer in one.items()}

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command line of this environment in the project's folder: ``celery inspect ping`` …"""
        return subprocess.run(
            [self._bin / argv[0], "-A", NAME, *argv[1:]],
            cwd=self.folder, text=True, capture_output=True, timeout=60,
        )  # fmt: skip

    def start(self, *argv: str) -> Proc:
        """Start a command line of this environment in the project's folder."""
        return self.procs.start(self._bin / argv[0], "-A", NAME, *argv[1:], cwd=self.folder)

    @contextmanager
    def events(self) -> Iterator[list[dict[str, Any]]]:
        """The events that come during the block, taken by Celery's receiver."""
        heard: list[dict[str, Any]] = []
        ready = threading.Event()
        with self.app.connection() as connection:
            receiver = self.app.events.Receiver(connection, handlers={"*": heard.append})
            original = receiver.on_consume_ready

            def on_ready(*args: Any, **kwargs: Any) -> None:
                original(*args, **kwargs)
                ready.set()

            receiver.on_consume_ready = on_ready
            thread = threading.Thread(target=receiver.capture)
            thread.start()
            try:
                assert ready.wait(30)
                yield heard
            finally:
                receiver.should_stop = True
                thread.join(30)
                assert not thread.is_alive()

    def on_both(self, make: Callable[[], Any], timeout_s: float = 60.0) -> dict[str, Any]:
        """Publish until both workers have taken one; returns node → the result of one that it took."""
        with self.events() as heard:
            made: dict[str, Any] = {}
            found: dict[str, Any] = {}

            def both() -> bool:
                for event in list(heard):
                    if event["type"] == "task-received" and event["uuid"] in made:
                        found.setdefault(event["hostname"], made[event["uuid"]])
                if len(found) < 2 and len(made) < 200:
                    one = make()
                    made[one.id] = one
                return len(found) == 2

            wait_until(both, timeout_s, what="a task at each worker", interval_s=0.1)
        return found

