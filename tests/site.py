"""A whole site for end-to-end tests: a project with tasks, a broker, workers, and what the tasks noted.

    def test_a_task_runs(site: Site) -> None:
        site.start_broker()
        site.start_worker("-c", "2", "-P", "threads")
        assert "x" == site.tasks.ping.delay("x").get(timeout=10)
        assert 1 == site.count("ping x")

The fixture is ``site`` of tests/conftest.py.
"""

from __future__ import annotations

import importlib.util
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from emq_compat.client import Client
from tests.broker_process import Broker
from tests.processes import Proc, Procs, wait_until

#: The pools that every case is to hold in.
POOLS = ("prefork", "threads", "solo", "asyncio")

NAME = "siteproj"

PROJECT = '''
import os, time
from emq_compat.celery_shim import Celery

app = Celery({name!r}, broker={url!r})


def note(line):
    """One line in the file of runs, with one system call."""
    fd = os.open({runs!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, (line + "\\n").encode())
    finally:
        os.close(fd)


def _sleep(seconds, mark):
    note(f"start {{mark}} {{os.getpid()}}")
    time.sleep(seconds)
    note(f"end {{mark}}")
    return mark


@app.task
def ping(mark):
    note(f"ping {{mark}}")
    return mark


@app.task
def sleep(seconds, mark="sleep"):
    return _sleep(seconds, mark)


@app.task(acks_late=True)
def sleep_late(seconds, mark="late"):
    return _sleep(seconds, mark)


@app.task(track_started=True)
def sleep_tracked(seconds, mark="tracked"):
    return _sleep(seconds, mark)


@app.task(acks_late=True, track_started=True)
def sleep_late_tracked(seconds, mark="late tracked"):
    return _sleep(seconds, mark)


@app.task(bind=True)
def whereabouts(self):
    return [os.getpid(), self.request.hostname]


@app.task
def fail(text):
    raise ValueError(text)


@app.task(ignore_result=True)
def empty():
    pass
'''


def imported(path: Path) -> Any:
    """Import a project's module here; returns it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # task names are looked up there
    spec.loader.exec_module(module)
    return module


class Site:
    """One project folder with its broker and workers.

    Attributes:
        folder: holds the project's module and what the processes write.
        url: the broker's address, which the project's app names.
    """

    def __init__(self, folder: Path, procs: Procs, free_port: Callable[[], int]) -> None:
        self.folder = folder
        self.procs = procs
        self._broker = Broker(procs, free_port, folder / "data")
        self.ports = self._broker.ports
        self.url = self._broker.url
        self.workers: list[Proc] = []
        self._runs = folder / "runs"
        self._runs.touch()
        self._tasks: ModuleType | None = None
        self.write_project()

    @property
    def broker(self) -> Proc | None:
        """The broker's process, once it was started."""
        return self._broker.proc

    def address(self, frontend: int = 0, backend: int = 0) -> str:
        """The broker's address, or that of a proxy at these ports in front of it."""
        return self._broker.address(frontend, backend)

    # The project.

    def write_project(self, more: str = "") -> None:
        """Write the project's module: the tasks above, and the Python text ``more`` behind them."""
        text = PROJECT.format(name=NAME, url=self.url, runs=str(self._runs))
        (self.folder / f"{NAME}.py").write_text(text + more)

    @property
    def tasks(self) -> Any:
        """The project's module, imported here: ``site.tasks.ping.delay("x")``."""
        if self._tasks is None:
            self._tasks = imported(self.folder / f"{NAME}.py")
        return self._tasks

    def runs(self) -> list[str]:
        """The lines that tasks have noted: ``ping MARK``, ``start MARK PID``, ``end MARK``."""
        return self._runs.read_text().splitlines()

    def count(self, beginning: str) -> int:
        """How many of these lines begin so (whole words)."""
        return sum(f"{line} ".startswith(f"{beginning} ") for line in self.runs())

    def wait_runs(self, beginning: str, count: int = 1, timeout_s: float = 30.0) -> None:
        """Wait until so many lines begin so."""
        wait_until(
            lambda: self.count(beginning) >= count, timeout_s, what=f"{count} × {beginning!r} in the runs"
        )

    # Processes. They are ended by the fixture; kill or stop them by their Proc's methods.

    def start_broker(self, *options: str) -> Proc:
        """Start the broker on its folder (again, after it was killed), and wait until it listens."""
        return self._broker.start(*options)

    def start_worker(self, *options: str, ready: str | None = "is ready", **more: object) -> Proc:
        """Start a worker of the project (``-c 2`` and a name of its own unless told); wait for ``ready``."""
        argv = ["worker", "-A", NAME, *options]
        if "-c" not in options:
            argv += ["-c", "2"]
        if "-n" not in options:
            argv += ["-n", f"w{len(self.workers)}@%h"]
        if "-l" not in options:
            argv += ["-l", "info"]
        worker = self.procs.emq(*argv, cwd=self.folder, ready=ready, timeout_s=60, **more)
        self.workers.append(worker)
        return worker

    # The broker, asked.

    @property
    def client(self) -> Client:
        """A connection to the broker."""
        return self._broker.client

    def queue(self, name: str = "celery") -> dict[str, Any]:
        """What the broker says of a queue: waiting, delayed, in_flight, workers …; zeros of one unknown."""
        for row in self.client.ask("queues"):
            if row["name"] == name:
                return dict(row)
        return {"name": name, "waiting": 0, "delayed": 0, "in_flight": 0, "oldest_s": 0, "workers": 0}

    def close(self) -> None:
        """End the workers, which a broker that is still there makes quick; forget the project's module."""
        self._end_workers()
        self.client.close()
        if self._tasks is not None:
            self._tasks.app.close()
            sys.modules.pop(NAME, None)


    def _end_workers(self) -> None:
        living = [worker for worker in self.workers if worker.alive()]
        if self.broker is None or not self.broker.alive():
            return
        for worker in living:
            worker.send_signal(signal.SIGTERM)
        try:
            wait_until(lambda: not any(worker.alive() for worker in living), timeout_s=2)
        except TimeoutError:
            for worker in living:  # what still runs there, or can't be given back, has no end to wait for
                if worker.alive():
                    worker.kill()


@contextmanager
def open_site(tmp_path: Path, procs: Procs, free_port: Callable[[], int]) -> Iterator[Site]:
    """A site in a folder of its own."""
    folder = tmp_path / "site"
    folder.mkdir()
    made = Site(folder, procs, free_port)
    try:
        yield made
    finally:
        made.close()
