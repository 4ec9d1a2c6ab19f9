"""``celery.worker.state``: what the worker of this process holds, in its parent.

The broker remembers revokes (``app.control.inspect()`` shows them). What Celery's worker fills beside the two
sets of requests is there to be imported, and stays empty unless somebody fills it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Set
from typing import Any

from emq_compat.errors import MessageError
from emq_compat.message import Delivery, Job
from emq_compat.shim import current
from emq_compat.shim.request import request_of
from emq_compat.shim.worker import Request

__all__ = [
    "active_requests",
    "all_total_count",
    "requests",
    "reserved_requests",
    "revoked",
    "revoked_stamps",
    "successful_requests",
    "total_count",
]


class Held(Set[Any]):
    """Requests of what a worker holds; empty where no worker is. A task's id, too, may be ``in`` it.

    Args:
        begun: only what runs.
    """

    def __init__(self, *, begun: bool) -> None:
        self._begun = begun

    def _jobs(self) -> list[Any]:
        manager = current.worker.manager if current.worker is not None else None
        jobs = [] if manager is None else list(manager.jobs_in_flight.values())
        return [job for job in jobs if job.began_at or not self._begun]

    def __iter__(self) -> Iterator[Request]:
        for job in self._jobs():
            request = _request_of(job.delivery)
            if request is not None:
                yield request

    def __len__(self) -> int:
        return len(self._jobs())

    def __contains__(self, one: object) -> bool:
        wanted = getattr(one, "task_id", one)
        return any(job.task_id == wanted for job in self._jobs())

    def __repr__(self) -> str:
        return f"{{{', '.join(map(repr, self))}}}"


def _request_of(delivery: Delivery) -> Request | None:
    """Return the request that a delivery makes; None: it is of no registered task."""
    worker = current.worker
    try:
        job = Job.decode(delivery.payload)
    except MessageError:
        return None
    task = worker.app.tasks.get(delivery.headers.task or job.celery.get("task"))
    if task is None:
        return None
    return Request(task, request_of(task.name, job, delivery, worker.hostname), delivery)


class _Set(set[Any]):
    __unsupported__ = True


class _Dict(dict[str, Any]):
    __unsupported__ = True


class _Counter(Counter[str]):
    __unsupported__ = True


#: What runs.
active_requests = Held(begun=True)
#: What was taken in and hasn't ended, what runs included.
reserved_requests = Held(begun=False)
revoked = _Set()
successful_requests = _Set()
requests = _Dict()
revoked_stamps = _Dict()
total_count = _Counter()
all_total_count = [0]
