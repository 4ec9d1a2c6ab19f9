"""Tasks per second of our worker, and of Celery's own, on one broker of kombu's where tasks already wait.

usage: brokers.py [-n N] [-r ROUNDS] [--celery PYTHON] [-b URL]...

PYTHON is the interpreter of an environment that has celery[redis] and this project; without it that of
`make test` (.celery-venv) is taken. The brokers are a redis-server that is started here, and each URL
(amqp://…: the queue `bench-brokers` is used). A genuine Celery app publishes N tasks that do nothing while
the worker, of two children, is stopped; the time counts from its SIGCONT to the last execution. The table
gives the medians of the rounds, in which the workers take turns, in tasks per second.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from _site import free_ports, running

TASKS = """
import os
from celery import Celery

app = Celery("bench_tasks", broker=os.environ["BROKER"])
app.conf.update(task_ignore_result=True, task_default_queue="bench-brokers")
runs = os.open(os.environ["RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@app.task
def count():
    os.write(runs, b"x")
"""

PUBLISH = "import sys, bench_tasks\nfor _ in range(int(sys.argv[1])): bench_tasks.count.delay()\n"
PURGE = "import bench_tasks\nbench_tasks.app.control.purge()\n"
WORKERS = {
    "celery": ("celery", "-A", "bench_tasks", "worker", "-c", "2", "-l", "warning"),
    "ours": ("emq-compat", "worker", "-A", "bench_tasks", "-c", "2", "-l", "warning"),
}


def wait_for(runs: Path, count: int, timeout_s: float) -> None:
    """Wait until so many tasks have run."""
    deadline = time.monotonic() + timeout_s
    while runs.stat().st_size < count:
        if time.monotonic() > deadline:
            raise SystemExit(f"only {runs.stat().st_size} of {count} tasks ran within {timeout_s:g} s")
        time.sleep(0.002)


def drained_per_s(kind: str, python: Path, broker: str, folder: Path, count: int) -> float:
    """Tasks per second of one worker, from its SIGCONT on."""
    runs = folder / "runs"
    runs.write_bytes(b"")
    env = {**os.environ, "BROKER": broker, "RUNS": str(runs)}

    def ask(program: str, *arguments: str) -> None:
        subprocess.run([python, "-c", program, *arguments], env=env, cwd=folder, check=True)

    ask(PURGE)
    command, *options = WORKERS[kind]
    with running([str(python.with_name(command)), *options], folder, env) as worker:
        ask(PUBLISH, "1")
        wait_for(runs, 1, 60)
        os.killpg(worker.pid, signal.SIGSTOP)
        ask(PUBLISH, str(count))
        began = time.perf_counter()
        os.killpg(worker.pid, signal.SIGCONT)
        wait_for(runs, 1 + count, 60 + count / 50)
        return count / (time.perf_counter() - began)


def main() -> None:
    """Run both workers on each broker, in turns, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=5000, help="tasks")
    parser.add_argument("-r", "--rounds", type=int, default=3)
    parser.add_argument("--celery", metavar="PYTHON", type=Path, help="an interpreter that has celery[redis]")
    parser.add_argument("-b", "--broker", action="append", default=[], metavar="URL")
    options = parser.parse_args()
    python = options.celery or Path(__file__).parents[1] / ".celery-venv" / "bin" / "python"
    if not python.exists():
        print(f"nothing to measure: no {python}; `make test` makes it, or give --celery PYTHON")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bench_tasks.py").write_text(TASKS)
        [port] = free_ports(1)
        redis = (
            "redis-server",
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        )
        brokers = {url.partition(":")[0]: url for url in options.broker}
        if shutil.which("redis-server") is None:
            measure(python, brokers, folder, options.n, options.rounds)
            return
        with running(redis, folder):
            brokers = {"redis": f"redis://127.0.0.1:{port}/0", **brokers}
            measure(python, brokers, folder, options.n, options.rounds)


def measure(python: Path, brokers: dict[str, str], folder: Path, count: int, rounds: int) -> None:
    """Print a line for each broker."""
    for name, url in brokers.items():
        rates: dict[str, list[float]] = {kind: [] for kind in WORKERS}
        for _ in range(rounds):
            for kind, found in rates.items():
                found.append(drained_per_s(kind, python.absolute(), url, folder, count))
        medians = {kind: statistics.median(found) for kind, found in rates.items()}
        shown = ", ".join(
            f"{kind} {medians[kind]:.0f} tasks/s ({min(found):.0f} to {max(found):.0f})"
            for kind, found in rates.items()
        )
        print(f"{name}, {count} tasks: {shown}; ratio {medians['ours'] / medians['celery']:.2f}", flush=True)


if __name__ == "__main__":
    main()
