"""`make demo`: starts a broker and a worker, runs the tasks of tasks.py, prints what came back, ends both."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
EMQ_COMPAT = Path(sys.executable).with_name("emq-compat")


def started(folder: Path, name: str, *argv: str) -> subprocess.Popen[bytes]:
    """Start an emq-compat command; its log goes to a file in `folder`."""
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen([EMQ_COMPAT, *argv], cwd=HERE, stdout=log, stderr=log)


def wait_for(folder: Path, name: str, process: subprocess.Popen[bytes], text: str, count: int = 1) -> None:
    """Wait until `text` stands in the log."""
    log, deadline = folder / f"{name}.log", time.monotonic() + 30
    while log.read_text().count(text) < count:
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"the {name} did not start:\n{log.read_text()}")
        time.sleep(0.02)


@contextlib.contextmanager
def ended(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """End all of them, the youngest first, when the block is left."""
    try:
        yield
    finally:
        for process in reversed(processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def show(task: str, state: str, seconds: float, result: object) -> None:
    """Print one line of the table."""
    print(f"  {task:<34} {state:<8} {seconds:6.2f} s   {result}", flush=True)


def run(folder: Path) -> None:
    """The demonstration; everything that it makes is in `folder`."""
    os.environ["EMQ_BROKER_ADDR"] = f"emq+ipc://{folder}/sockets"
    broker_argv = ("broker", "--ipc", f"{folder}/sockets", "--data", f"{folder}/data")
    processes: list[subprocess.Popen[bytes]] = []
    with ended(processes):
        begun = time.monotonic()
        processes.append(started(folder, "broker", *broker_argv))
        wait_for(folder, "broker", processes[0], "clients ipc://")
        processes.append(started(folder, "worker", "worker", "-A", "tasks", "-c", "2"))
        wait_for(folder, "worker", processes[1], "ready")
        print(f"a broker and a worker with 2 processes are up after {time.monotonic() - begun:.1f} s\n")

        import tasks

        stdlib = sysconfig.get_path("stdlib")
        calls = [
            ("count_primes(2_000_000)", tasks.count_primes.delay(2_000_000)),
            ("checksum(standard library)", tasks.checksum.delay(stdlib)),
            ("divide(1, 0)", tasks.divide.delay(1, 0)),
            ("fetch_rate('EUR')", tasks.fetch_rate.delay("EUR")),
            ("remind('tea', in 2 s)", tasks.remind.apply_async(("tea", time.time() + 2), countdown=2)),
        ]
        published = time.monotonic()
        print(f"  {'task':<34} {'state':<8} {'took':>8}   result")
        for task, result in calls:
            try:
                value = result.get(timeout=30)
            except ZeroDivisionError as exc:
                value = f"{type(exc).__name__}: {exc}"
            show(task, result.state, time.monotonic() - published, value)

        print("\n  kill -9 the broker with 200 tasks on the way, start it again:")
        with tasks.app.pipeline():
            sums = [tasks.add.delay(n, n) for n in range(200)]
        published = time.monotonic()
        processes[0].kill()
        processes[0].wait()
        processes[0] = started(folder, "broker", *broker_argv)
        wait_for(folder, "broker", processes[0], "clients ipc://", 2)
        values = [result.get(timeout=30) for result in sums]
        assert values == [2 * n for n in range(200)]
        show("200 × add(n, n)", "SUCCESS", time.monotonic() - published, f"sum of all: {sum(values)}")
        tasks.app.close()
    print("\nbroker and worker have ended")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    with tempfile.TemporaryDirectory(prefix="emq-quickstart-") as name:
        run(Path(name))
