"""Real brokers and workers, ours or Celery's on Redis, with what they cost the machine: for the benchmarks.

Linux only where it says so: CPU time and wake-ups are read from /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

__all__ = [
    "TASKS", "Cost", "Site", "free_ports", "offer_celery", "ours", "pss_mb", "running", "theirs", "tree",
    "until",
]  # fmt: skip

TASKS = """
import os

if os.environ["BENCH_WHICH"] == "emq":
    from emq_compat.celery_shim import Celery
else:
    from celery import Celery

app = Celery("bench_tasks", broker=os.environ["BENCH_BROKER"], backend=os.environ["BENCH_BACKEND"] or None)
app.conf.task_default_queue = "bench"


@app.task
def echo(value):
    return value


@app.task
def length(value):
    return len(value)


@app.task(ignore_result=True)
def count():
    fd = os.open(os.environ["BENCH_COUNT"], os.O_WRONLY | os.O_APPEND)
    os.write(fd, b".")
    os.close(fd)
"""

BIN = Path(sys.executable).parent


class Site(NamedTuple):
    """A system that runs: how an app and its worker reach it.

    Attributes:
        env: for processes that use the app ``bench_tasks``.
        folder: their working directory.
        worker: the command of a worker with two children, without further options.
        python: the interpreter that has the system.
        broker: the broker's process.
    """

    env: dict[str, str]
    folder: Path
    worker: list[str]
    python: str
    broker: subprocess.Popen[bytes]


def offer_celery(parser: argparse.ArgumentParser) -> None:
    """Have a program take ``--celery PYTHON``."""
    parser.add_argument(
        "--celery", metavar="PYTHON", type=os.path.abspath, help="an interpreter that has celery[redis]"
    )


def free_ports(n: int) -> list[int]:
    """Ports of 127.0.0.1 that are free now, from below those that outgoing connections are given."""
    ports: set[int] = set()
    while len(ports) < n:
        port = random.randrange(12_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.add(port)
    return list(ports)


@contextmanager
def running(
    argv: Sequence[str], folder: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in its own session for as long as the block lasts; SIGTERM, then SIGKILL to all of it."""
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(argv, env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGCONT)  # a measurement that failed left it stopped
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def ours(durability: str = "full", *, memory: bool = False) -> Iterator[Site]:
    """A broker of ours."""
    front, back, admin = free_ports(3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        emq = str(BIN / "emq-compat")
        kept = ["--memory"] if memory else ["--data", f"{folder}/data", "--durability", durability]
        argv = [
            emq, "broker", *kept, "-l", "warning", "--frontend", f"tcp://127.0.0.1:{front}",
            "--backend", f"tcp://127.0.0.1:{back}", "--admin", f"tcp://127.0.0.1:{admin}",
        ]  # fmt: skip
        url = f"emq://127.0.0.1:{front}?worker_port={back}"
        worker = [emq, "worker", "-A", "bench_tasks", "-l", "warning", "-c", "2"]
        with running(argv, folder) as broker:
            yield Site(_env("emq", url, "", folder), folder, worker, sys.executable, broker)


@contextmanager
def theirs(python: str) -> Iterator[Site]:
    """A Redis for Celery, that writes an append-only file (fsync each second)."""
    [port] = free_ports(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        argv = [
            "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes",
            "--dir", str(folder),
        ]  # fmt: skip
        url = f"redis://127.0.0.1:{port}/0"
        worker = [python, "-m", "celery", "-A", "bench_tasks", "worker", "-l", "warning", "-c", "2"]
        with running(argv, folder) as broker:
            yield Site(_env("celery", url, url, folder), folder, worker, python, broker)


def _env(which: str, broker: str, backend: str, folder: Path) -> dict[str, str]:
    (folder / "bench_tasks.py").write_text(TASKS)
    counted = folder / "count"
    counted.write_bytes(b"")
    told = {"BENCH_WHICH": which, "BENCH_BROKER": broker, "BENCH_BACKEND": backend}
    return {**os.environ, **told, "BENCH_COUNT": str(counted), "PYTHONPATH": str(folder)}


def until(true: Callable[[], object], timeout_s: float, what: str, *, pause_s: float = 0.002) -> None:
    """Wait for it; raises SystemExit, naming ``what``, when it takes too long."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {timeout_s:g} s: {what}")
        time.sleep(pause_s)


def tree(pid: int) -> list[psutil.Process]:
    """A process and its descendants."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def pss_mb(pid: int) -> float:
    """MB of a process and its descendants; what they share is counted once (Linux: PSS)."""
    return sum(process.memory_full_info().pss for process in tree(pid)) / 1e6


class Cost(NamedTuple):
    """What a process and its descendants have used since their start (Linux: /proc).

    Attributes:
        cpu_s: CPU time of all their threads.
        wakes: how often one of their threads was put back to work after it had waited.
    """

    cpu_s: float
    wakes: int

    @classmethod
    def of(cls, pid: int) -> Cost:
        """Read it now."""
        cpu_ns = wakes = 0
        for process in tree(pid):
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                cpu_ns += int((task / "schedstat").read_text().split()[0])
                for line in (task / "status").read_text().splitlines():
                    if line.startswith("voluntary_ctxt_switches:"):
                        wakes += int(line.split()[1])
        return cls(cpu_ns / 1e9, wakes)

    def since(self, before: Cost) -> Cost:
        """What was used between ``before`` and this."""
        return Cost(self.cpu_s - before.cpu_s, self.wakes - before.wakes)
