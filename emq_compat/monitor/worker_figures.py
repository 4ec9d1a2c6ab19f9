"""The metrics of a worker: which there are, what is counted for them, and how its job manager is read."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Final

import psutil

from emq_compat.ids import made_at
from emq_compat.jobmanager import JobManager
from emq_compat.message import (
    ACKNOWLEDGED,
    FAILURE,
    IGNORED,
    REJECTED,
    REQUEUED,
    RETRY,
    RETURNED,
    REVOKED,
    SUCCESS,
    Delivery,
)
from emq_compat.monitor.figures import Family, Figures, Histogram, Names
from emq_compat.pool.base import LossReason

__all__ = ["WORKER_FAMILIES", "WorkerCounts", "memory_of"]

#: Tasks, and queues, that have series of their own.
MOST_NAMES: Final = 100

_RUNTIMES_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_WAITS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)

#: State of a job's end → what the label ``end`` says.
_ENDS = {
    SUCCESS: "succeeded",
    FAILURE: "failed",
    RETRY: "retried",
    REJECTED: "rejected",
    REQUEUED: "rejected",
    RETURNED: "returned",
    REVOKED: "revoked",
    IGNORED: "ignored",
    ACKNOWLEDGED: "succeeded",
}
#: The same for a run that gave no reply.
_LOSSES: dict[LossReason, str] = {
    "died": "lost",
    "stopped": "lost",
    "time-limit": "timed_out",
    "terminated": "revoked",
}

WORKER_FAMILIES: Final = (
    Family("emq_worker_tasks_received_total", "counter", "Deliveries taken in."),
    Family("emq_worker_tasks_total", "counter", "Tasks that ended, and how.", ("task", "end")),
    Family(
        "emq_worker_task_runtime_seconds", "histogram",
        "Running times of those that gave a reply, without waiting for a processor.", ("task",)
    ),
    Family(
        "emq_worker_task_queued_seconds",
        "histogram",
        "From a task's publish, or its eta, to its start.",
        ("queue",),
    ),
    Family("emq_worker_tasks_running", "gauge", "Tasks that run."),
    Family("emq_worker_tasks_reserved", "gauge", "Tasks that are held here and have not begun."),
    Family("emq_worker_slots", "gauge", "Tasks that can run at once."),
    Family("emq_worker_children", "gauge", "Processes for tasks."),
    Family("emq_worker_child_starts_total", "counter", "Processes for tasks that were started."),
    Family("emq_worker_child_start_failures_total", "counter", "Processes for tasks that were never ready."),
    Family("emq_worker_runs_lost_total", "counter", "Runs that gave no reply, and why.", ("reason",)),
    Family("emq_worker_brokers", "gauge", "Brokers that it is connected to."),
    Family("emq_worker_reconnects_total", "counter", "Connections to a broker after the first one."),
    Family("emq_worker_replies_unacknowledged", "gauge", "Outcomes that a broker hasn't acknowledged yet."),
    Family(
        "emq_worker_children_resident_memory_bytes", "gauge", "Resident memory of all processes for tasks."
    ),
    Family("emq_worker_uptime_seconds", "gauge", "Since its start."),
)


class WorkerCounts:
    """What is counted of a job manager (manager.watch.Watch), and its figures; used in its loop only."""

    def __init__(self, manager: JobManager) -> None:
        self._manager = manager
        self._tasks, self._queues = Names(MOST_NAMES), Names(MOST_NAMES)
        self._ends: dict[tuple[str, ...], float] = {}
        self._runtimes: dict[str, Histogram] = {}
        self._queued: dict[str, Histogram] = {}
        self._lost: dict[str, int] = {}
        manager.watch = self

    def began(self, delivery: Delivery) -> None:
        """See Watch."""
        made, eta = made_at(delivery.msgid), delivery.headers.eta
        if made is None and not eta:
            return
        queue = self._queues.label(delivery.queue)
        histogram = self._queued.get(queue)
        if histogram is None:
            histogram = self._queued[queue] = Histogram(_WAITS_S)
        histogram.note(max(0.0, time.time() - max(made or 0.0, eta)))

    def ended(self, delivery: Delivery, state: str, runtime_s: float | None) -> None:
        """See Watch."""
        task = self._ended(delivery, _ENDS.get(state, "failed"))
        if runtime_s is not None:
            histogram = self._runtimes.get(task)
            if histogram is None:
                histogram = self._runtimes[task] = Histogram(_RUNTIMES_S)
            histogram.note(runtime_s)

    def lost(self, delivery: Delivery, reason: LossReason) -> None:
        """See Watch."""
        self._lost[reason] = self._lost.get(reason, 0) + 1
        self._ended(delivery, _LOSSES[reason])

    def _ended(self, delivery: Delivery, end: str) -> str:
        task = self._tasks.label(delivery.headers.task or "-")
        key = (task, end)
        self._ends[key] = self._ends.get(key, 0) + 1
        return task

    def figures(self) -> Figures:
        """Return all figures but those of memory; called in the loop."""
        manager, pool = self._manager, self._manager.pool
        held = len(manager.jobs_in_flight)
        running = sum(1 for job in manager.jobs_in_flight.values() if job.began_at)
        plain: dict[str, float] = {
            "emq_worker_tasks_received_total": manager.total_requests,
            "emq_worker_tasks_running": running,
            "emq_worker_tasks_reserved": held - running,
            "emq_worker_slots": pool.concurrency,
            "emq_worker_children": len(self.children()),
            "emq_worker_child_starts_total": pool.births,
            "emq_worker_child_start_failures_total": pool.failed_births,
            "emq_worker_brokers": sum(map(manager.is_connected, manager.upstreams)),
            "emq_worker_reconnects_total": manager.reconnects,
            "emq_worker_replies_unacknowledged": sum(one.unacknowledged() for one in manager.upstreams),
            "emq_worker_uptime_seconds": time.monotonic() - manager.started_at,
        }
        return {
            **{name: {(): value} for name, value in plain.items()},
            "emq_worker_tasks_total": {**self._ends},
            "emq_worker_task_runtime_seconds": {(task,): h.copy() for task, h in self._runtimes.items()},
            "emq_worker_task_queued_seconds": {(queue,): h.copy() for queue, h in self._queued.items()},
            "emq_worker_runs_lost_total": {(reason,): n for reason, n in self._lost.items()},
        }

    def children(self) -> list[int]:
        """Return the pids of the processes for tasks; none where they run in this one. In the loop."""
        return [pid for pid in self._manager.pool.pids() if pid != os.getpid()]


def memory_of(pids: Iterable[int]) -> int:
    """Return the resident memory of these processes together, in bytes; those that are gone have none."""
    total = 0
    for pid in pids:
        try:
            total += psutil.Process(pid).memory_info().rss
        except psutil.Error:
            continue
    return total
