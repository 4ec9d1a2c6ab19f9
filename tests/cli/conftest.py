"""A project with its broker and worker, and the command line as a person runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.cli.screen import Screen
from tests.processes import Proc, Procs

COMMAND = Path(sys.executable).with_name("emq-compat")
COMMAND_S = 60.0

APP = """
import os, signal, time
from emq_compat.celery_shim import Celery

app = Celery("proj", broker={url!r})


@app.task
def add(x, y):
    return x + y


@app.task
def fail(text):
    raise ValueError(text)


@app.task(queue="slow")
def sleep(seconds):
    time.sleep(seconds)
    return seconds


@app.task(queue="slow")
def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""

FUNCTIONS = """
def double(x):
    return 2 * x


class Greeter:
    def greet(self, name="you"):
        return "hello " + name
"""


class Site:
    """A project's folder, its broker, and what is started beside it."""

    def __init__(self, folder: Path, procs: Procs, free_port: Callable[[], int]) -> None:
        self.folder = folder
        self.procs = procs
        self.ports = [free_port() for _ in range(3)]
        frontend, backend, _ = self.ports
        self.url = f"emq://127.0.0.1:{frontend}?worker_port={backend}"
        (folder / "proj.py").write_text(APP.format(url=self.url))
        (folder / "functions.py").write_text(FUNCTIONS)

    def start_broker(self, *options: str) -> Proc:
        """A broker at the site's address, in memory unless it is told otherwise."""
        frontend, backend, admin = (f"tcp://127.0.0.1:{port}" for port in self.ports)
        sockets = ("--frontend", frontend, "--backend", backend, "--admin", admin)
        argv = (*sockets, *(options or ("--memory",)))
        return self.procs.emq("broker", *argv, ready="clients tcp:", cwd=self.folder)

    def start_worker(self, *options: str) -> Proc:
        """A worker of the site's app."""
        argv = ("worker", "-A", "proj", "-l", "info", "-c", "2", "-Q", "celery,slow", *options)
        return self.procs.emq(*argv, ready="ready", cwd=self.folder, timeout_s=40)

    def start_jobmanager(self, *options: str) -> Proc:
        """A job manager that runs the site's plain functions."""
        argv = ("jobmanager", "-b", self.url, "--allow", "functions.*", *options)
        return self.procs.emq(*argv, cwd=self.folder, env={"PYTHONPATH": str(self.folder)})

    def emq(self, *argv: str, stdin: str = "", status: int = 0, env: Mapping[str, str] | None = None) -> str:
        """What `emq-compat ARGV` prints; with another ``status`` than 0, on standard error."""
        done = self.run(*argv, stdin=stdin, env=env)
        assert status == done.returncode, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if status == 0 else done.stderr

    def run(
        self, *argv: str, stdin: str = "", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `emq-compat ARGV` in the site's folder."""
        return subprocess.run(
            [COMMAND, *argv],
            cwd=self.folder,
            env={**os.environ, **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
        )


@pytest.fixture
def site(tmp_path: Path, procs: Procs, free_port: Callable[[], int]) -> Site:
    """A project whose app names a broker that isn't started yet."""
    folder = tmp_path / "site"
    folder.mkdir()
    return Site(folder, procs, free_port)


@pytest.fixture
def on_screen(site: Site) -> Iterator[Callable[..., Screen]]:
    """Runs `emq-compat ARGV` in the site's folder, on a terminal of its own."""
    found: list[Screen] = []

    def run(*argv: str, **env: str) -> Screen:
        found.append(Screen(COMMAND, *argv, folder=site.folder, **env))
        return found[-1]

    yield run
    for screen in found:
        screen.close()
