"""The soak's app: short tasks that succeed, fail, retry and grow; each run leaves four bytes in a file."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

from emq_compat.celery_shim import Celery, Task

app = Celery("soaked")
app.conf.task_default_queue = "soak"
app.conf.result_expires = float(os.environ.get("SOAK_RESULT_EXPIRES", "60"))

_RUN = struct.Struct("=I")
_kept: list[bytes] = []
_runs = -1


def note(n: int) -> None:
    """Append a task's number to the file of runs, with one system call."""
    global _runs
    if _runs < 0:
        _runs = os.open(os.environ["RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(_runs, _RUN.pack(n))


def runs(file: Path) -> list[int]:
    """The numbers of all runs so far."""
    text = file.read_bytes()
    return [n for (n,) in _RUN.iter_unpack(text[: len(text) // 4 * 4])]


@app.task
def plain(n: int) -> dict[str, int]:
    """Returns something."""
    note(n)
    return {"n": n, "square": n * n}


@app.task(acks_late=True, reject_on_worker_lost=True)
def late(n: int) -> int:
    """Acknowledged after it ran."""
    note(n)
    return n


@app.task
def fails(n: int) -> None:
    """Raises."""
    note(n)
    raise ValueError(f"number {n}")


@app.task(bind=True, max_retries=1)
def retried(self: Task[Any], n: int) -> int:
    """Succeeds at its second try, a second later."""
    note(n)
    if not self.request.retries:
        raise self.retry(countdown=1.0)
    return n


@app.task
def grows(n: int) -> int:
    """Leaves memory behind in its child."""
    note(n)
    _kept.append(os.urandom(64 << 10))
    return n


#: Of every hundred tasks so many are of each kind; what is left is plain.
KINDS = ((late, 6), (fails, 6), (retried, 4), (grows, 2))
_SCHEDULE = [task for task, share in KINDS for _ in range(share)]
#: The task of each number, by its last two digits.
TASKS = [_SCHEDULE[i // 5] if i % 5 == 0 and i // 5 < len(_SCHEDULE) else plain for i in range(100)]


def runs_of(n: int) -> int:
    """How often the task of this number runs."""
    return 2 if TASKS[n % 100] is retried else 1
