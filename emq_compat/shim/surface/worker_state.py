"""``celery.worker.state``: what the worker of this process holds, in its parent.

The broker remembers revokes (``app.control.inspect()`` shows them); ``revoked`` are those that this worker
was told of. What else Celery's worker fills can be imported, and stays empty unless somebody fills it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
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


class Revoked(Set[str]):
    """The ids of the tasks that a worker was told are revoked, until they have ended; empty elsewhere."""

    def _ids(self) -> Set[str]:
        manager = current.worker.manager if current.worker is not None else None
        return frozenset() if manager is None else frozenset(manager.revoked)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids())

    def __len__(self) -> int:
        return len(self._ids())

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._ids()

    def __repr__(self) -> str:
        return f"{{{', '.join(map(repr, self))}}}"


class Totals(Mapping[str, int]):
    """Task name → how often a worker has begun to run it; empty elsewhere. What never ran counts 0."""

    def _counts(self) -> dict[str, int]:
        manager = current.worker.manager if current.worker is not None else None
        counts = {} if manager is None else dict(manager.runs_by_task)
        return {name: count for name, count in counts.items() if count}

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts())

    def __len__(self) -> int:
        return len(self._counts())

    def __getitem__(self, name: str) -> int:
        return self._counts().get(name, 0)

    def __repr__(self) -> str:
        return repr(self._counts())


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


#: What runs.
active_requests = Held(begun=True)
#: What was taken in and hasn't ended, what runs included.
reserved_requests = Held(begun=False)
revoked = Revoked()
successful_requests = _Set()
requests = _Dict()
revoked_stamps = _Dict()
total_count = Totals()
all_total_count = [0]
