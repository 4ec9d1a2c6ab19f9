"""The tasks of the fault tests: each run leaves a line in a file, written with one system call."""

from __future__ import annotations

import os
import time
from typing import Any

from emq_compat.celery_shim import Celery, Task

app = Celery("faulty")
app.conf.task_default_queue = "faulty"


def note(line: str) -> None:
    """Append a line to the file of runs."""
    fd = os.open(os.environ["RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{line}\n".encode())
    finally:
        os.close(fd)


@app.task(ignore_result=True)
def count(n: int) -> None:
    """Runs once, however the broker is killed."""
    note(str(n))


@app.task(ignore_result=True)
def bulky(n: int, pad: str) -> None:
    """The same, with a message of some size."""
    note(str(n))


@app.task
def returned(n: int, pad: str) -> str:
    """The same, with a result of that size."""
    note(str(n))
    return pad


@app.task
def early(n: int, seconds: float) -> int:
    """Acknowledged before it runs."""
    note(f"early {n}")
    time.sleep(seconds)
    return n


@app.task(acks_late=True, reject_on_worker_lost=True)
def late(n: int, seconds: float) -> int:
    """Acknowledged after it ran."""
    note(f"late {n}")
    time.sleep(seconds)
    return n


@app.task
def give(chord: str, n: int) -> int:
    """A part of a chord: returns its number, or fails where that is negative."""
    note(f"part {chord} {n}")
    if n < 0:
        raise ValueError(n)
    return n


@app.task
def gather(values: list[int], chord: str) -> int:
    """A chord's body: notes what it was given."""
    note(f"body {chord} {','.join(map(str, values))}")
    return sum(values)


def _stepped(kind: str, key: str, value: int) -> int:
    note(f"{kind} {key}")
    time.sleep(0.005)
    return value


@app.task
def step(x: int, key: str) -> int:
    """One step of a workflow, acknowledged before it runs."""
    return _stepped("step", key, x + 1)


@app.task
def total(values: list[int], key: str) -> int:
    """What ends a chord, acknowledged before it runs."""
    return _stepped("step", key, sum(values))


@app.task(acks_late=True, reject_on_worker_lost=True)
def step_late(x: int, key: str) -> int:
    """One step of a workflow, acknowledged after it ran."""
    return _stepped("late step", key, x + 1)


@app.task(acks_late=True, reject_on_worker_lost=True)
def total_late(values: list[int], key: str) -> int:
    """What ends a chord, acknowledged after it ran."""
    return _stepped("late step", key, sum(values))


@app.task
def on_error(request: Any, exc: BaseException, traceback: str, canvas: str) -> None:
    """An error callback: which canvas failed."""
    note(f"errback {canvas}")


@app.task(acks_late=True, reject_on_worker_lost=True, concurrency_key="key:{key}", concurrency_limit=2)
def keyed(key: str, mark: str, seconds: float) -> None:
    """Two at once of a key; notes its begin and its end."""
    run = f"{os.getpid()}-{time.monotonic_ns()}"
    note(f"keyed in {key} {run}")
    time.sleep(seconds)
    note(f"keyed out {key} {run}")


@app.task(unique_for=600)
def single(n: int, seconds: float) -> int:
    """One at a time of a number."""
    note(f"single {n}")
    time.sleep(seconds)
    return n


@app.task
def big(size: int) -> str:
    """Returns so many characters."""
    return "x" * size


@app.task(bind=True, max_retries=1)
def once_more(self: Task[Any], n: int) -> int:
    """Succeeds at its second try."""
    note(f"retried {n} {self.request.retries}")
    if not self.request.retries:
        raise self.retry(countdown=0.2)
    return n
