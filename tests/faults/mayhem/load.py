"""The tasks and the schedule: each run writes its begin and its end into the ledger ``RUNS``."""

from __future__ import annotations

import functools
import os
import time
from datetime import datetime
from typing import Any

from emq_compat.celery_shim import Celery, Task
from emq_compat.shim.beat.entry import BeatLazyFunc
from emq_compat.shim.schedules.base import BaseSchedule, schedstate
from tests.faults.mayhem.ledger import Ledger

QUEUE = "mayhem"
#: A retry comes so much later.
RETRY_S = 0.2
#: A task that retries succeeds at this retry.
LAST_RETRY = 2
#: The entries of the schedule: one has a run in each second of the clock, one comes at an interval.
TICK_S = 1.0
INTERVAL_S = 1.5

app = Celery("mayhem", broker=os.environ.get("BROKER", ""))
app.conf.task_default_queue = QUEUE

EARLY: dict[str, Any] = {"bind": True}
#: A lost child may have these run again, too.
LATE: dict[str, Any] = {"bind": True, "acks_late": True, "reject_on_worker_lost": True}


@functools.cache
def runs() -> Ledger:
    """The ledger of this process."""
    return Ledger(os.environ["RUNS"], durable=False)


def note(what: str, task: Task, **more: Any) -> None:
    """Write down what a run does."""
    request = task.request
    worker = str(request.hostname).partition("@")[0]
    runs().write(
        {
            "what": what, "id": request.id, "task": task.name.rpartition(".")[2], "retries": request.retries,
            "worker": worker, "pid": os.getpid(), "at": time.time(), **more,
        }
    )  # fmt: skip


def work(task: Task, value: Any, seconds: float, **more: Any) -> Any:
    """Begin, work so long, and end with this value."""
    note("begin", task, **more)
    time.sleep(seconds)
    note("end", task, value=value)
    return value


@app.task(**EARLY)
def early(self: Task, value: int, seconds: float) -> int:
    """Acknowledged before it runs."""
    return work(self, value, seconds)


@app.task(**LATE)
def late(self: Task, value: int, seconds: float) -> int:
    """Acknowledged after it ran, and run again wherever it was lost."""
    return work(self, value, seconds)


@app.task(**EARLY)
def quick_early(self: Task, value: int, seconds: float) -> int:
    """So short that its worker holds many of them, acknowledged before it runs."""
    return work(self, value, seconds / 100)


@app.task(**LATE)
def quick_late(self: Task, value: int, seconds: float) -> int:
    """So short that its worker holds many of them, acknowledged after it ran."""
    return work(self, value, seconds / 100)


@app.task(bind=True, acks_late=True)
def kept(self: Task, value: int, seconds: float) -> int:
    """Acknowledged after it ran; a lost child is its end, as in Celery."""
    return work(self, value, seconds)


@app.task(retry_on_worker_lost=True, max_retries=5, default_retry_delay=RETRY_S, **EARLY)
def stubborn(self: Task, value: int, seconds: float) -> int:
    """Acknowledged before it runs; one whose child is lost is tried again."""
    return work(self, value, seconds)


def _flaky(task: Task, value: int, seconds: float) -> int:
    note("begin", task)
    time.sleep(seconds)
    if task.request.retries < LAST_RETRY:
        note("retry", task)
        raise task.retry(countdown=RETRY_S)
    note("end", task, value=value)
    return value


@app.task(**EARLY)
def flaky_early(self: Task, value: int, seconds: float) -> int:
    """Retries twice; each run is acknowledged before it."""
    return _flaky(self, value, seconds)


@app.task(**LATE)
def flaky_late(self: Task, value: int, seconds: float) -> int:
    """Retries twice; each run is acknowledged after it."""
    return _flaky(self, value, seconds)


@app.task(**LATE)
def failing(self: Task, value: int, seconds: float) -> None:
    """Fails."""
    note("begin", self)
    time.sleep(seconds)
    note("end", self, value=None)
    raise ValueError(value)


@app.task
def on_error(request: Any, exc: BaseException, traceback: str, failed: str) -> None:
    """The error callback: which task failed."""
    runs().write({"what": "errback", "id": failed, "at": time.time()})


@app.task(**EARLY)
def step_early(self: Task, x: int, seconds: float) -> int:
    """One step of a workflow, acknowledged before it runs."""
    return work(self, x + 1, seconds, given=x)


@app.task(**LATE)
def step_late(self: Task, x: int, seconds: float) -> int:
    """One step of a workflow, acknowledged after it ran."""
    return work(self, x + 1, seconds, given=x)


@app.task(**EARLY)
def body_early(self: Task, values: list[int], seconds: float) -> int:
    """A chord's body, acknowledged before it runs."""
    return work(self, sum(values), seconds, given=values)


@app.task(**LATE)
def body_late(self: Task, values: list[int], seconds: float) -> int:
    """A chord's body, acknowledged after it ran."""
    return work(self, sum(values), seconds, given=values)


@app.task(ignore_result=True, **LATE)
def scheduled(self: Task, entry: str, tick: float) -> None:
    """A run of an entry."""
    note("begin", self, entry=entry, tick=tick)
    note("end", self, value=None)


def _counted(task: Task, key: str) -> None:
    note("begin", task, key=key)
    note("end", task, value=None)


@app.task(bind=True)
def counted_early(self: Task, key: str) -> None:
    """A run of a schedule that the broker keeps, acknowledged before it."""
    _counted(self, key)


@app.task(ignore_result=True, **LATE)
def counted_late(self: Task, key: str) -> None:
    """The same, acknowledged after it."""
    _counted(self, key)


class Ticks(BaseSchedule):
    """One run in each second of the clock, as a crontab has one in each minute."""

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Due in another second than the last one."""
        now = self.now().timestamp()
        due = now // TICK_S > last_run_at.timestamp() // TICK_S
        self.tick = now // TICK_S
        return schedstate(due, (now // TICK_S + 1) * TICK_S - now)

    def last_tick(self) -> float:
        """The second for which it was asked last."""
        return self.tick

    def __reduce__(self) -> tuple[Any, ...]:
        return Ticks, ()


_ticks = Ticks()


def _entry(name: str, schedule: object, argument: BeatLazyFunc) -> dict[str, object]:
    return {"task": "tests.faults.mayhem.load.scheduled", "schedule": schedule, "args": (name, argument)}


app.conf.beat_schedule = {
    "ticks": _entry("ticks", _ticks, BeatLazyFunc(_ticks.last_tick)),
    "interval": _entry("interval", INTERVAL_S, BeatLazyFunc(time.time)),
}
