"""The state of a cluster, made of its events (``celery.events.state``)."""

from __future__ import annotations

import threading
from bisect import insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from itertools import islice
from typing import Any, ClassVar, TypeVar
from weakref import WeakSet, ref

from kombu.clocks import timetuple

from emq_compat.shim import states
from emq_compat.shim.events import records
from emq_compat.shim.events.records import Task, Worker, heartbeat_expires
from emq_compat.shim.surface.functional import LRUCache

__all__ = ["CallableDefaultdict", "State", "Task", "Worker", "heartbeat_expires"]

T = TypeVar("T")

Event = Mapping[str, Any]

#: Group → what each of its events has.
_NEEDED = {
    "worker": frozenset({"hostname", "timestamp", "local_received"}),
    "task": frozenset({"uuid", "hostname", "timestamp", "local_received", "clock"}),
}


class CallableDefaultdict(defaultdict[str, "WeakSet[Task]"]):
    """An index of tasks that can be called, too, for pairs of id and task in the order of time."""

    def __init__(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.fun = fun
        super().__init__(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fun(*args, **kwargs)


class State:
    """Workers and tasks, as they were at the last event that was given to ``event``.

    Args:
        callback: called with this and each event, before it counts.
        workers, tasks: those known at the start.
        max_workers_in_memory, max_tasks_in_memory: the oldest beyond these are forgotten.
        on_node_join: called with a worker that is new or online again; on_node_leave: with one that leaves.
        tasks_by_type, tasks_by_worker: ids of tasks by their names, and by node names, at the start.

    Attributes:
        event_count: events so far; task_count: tasks received so far.
        tasks_by_type, tasks_by_worker: name → tasks; called with a name they return (id, task) pairs, the
            newest first.
        handlers: group of events → function that is called with (type, event) instead of what is done here.
    """

    Worker: Any = records.Worker
    Task: Any = records.Task
    heap_multiplier: ClassVar[int] = 4
    event_count = 0
    task_count = 0

    def __init__(
        self,
        callback: Callable[[State, Event], object] | None = None,
        workers: MutableMapping[str, records.Worker] | None = None,
        tasks: MutableMapping[str, records.Task] | None = None,
        taskheap: list[Any] | None = None,
        max_workers_in_memory: int = 5000,
        max_tasks_in_memory: int = 10000,
        on_node_join: Callable[[records.Worker], object] | None = None,
        on_node_leave: Callable[[records.Worker], object] | None = None,
        tasks_by_type: Mapping[str, Iterable[str]] | None = None,
        tasks_by_worker: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        self.event_callback = callback
        self.workers: MutableMapping[str, records.Worker] = (
            LRUCache(max_workers_in_memory) if workers is None else workers
        )
        self.tasks: MutableMapping[str, records.Task] = (
            LRUCache(max_tasks_in_memory) if tasks is None else tasks
        )
        self.max_workers_in_memory = max_workers_in_memory
        self.max_tasks_in_memory = max_tasks_in_memory
        self.on_node_join = on_node_join
        self.on_node_leave = on_node_leave
        self.handlers: dict[str, Callable[[str, Event], Any]] = {}
        self._mutex = threading.Lock()
        self._seen_types: set[str] = set()
        #: Parent that no event has told of → its children.
        self._tasks_to_resolve: LRUCache[str, WeakSet[records.Task]] = LRUCache(max_tasks_in_memory)
        #: (clock, timestamp, origin, reference to the task) of each event of a task, the earliest first.
        self._taskheap: list[Any] = [] if taskheap is None else taskheap
        self.rebuild_taskheap()
        self.tasks_by_type = CallableDefaultdict(self._tasks_by_type, WeakSet, self._index(tasks_by_type))
        self.tasks_by_worker = CallableDefaultdict(
            self._tasks_by_worker, WeakSet, self._index(tasks_by_worker)
        )

    def _index(self, ids: Mapping[str, Iterable[str]] | None) -> dict[str, WeakSet[records.Task]]:
        return {
            name: WeakSet(self.tasks[one] for one in some if one in self.tasks)
            for name, some in (ids or {}).items()
        }

    # Events

    def event(self, event: Event) -> Any:
        """Take in an event.

        Returns ``((worker or task, whether it is new), type within its group)``; None: it tells of neither,
        or lacks what each such event has (hostname, timestamp, local_received; of a task uuid, clock).
        """
        with self._mutex:
            return self._event(event)

    def task_event(self, type_: str, fields: Event) -> Any:
        """Take in an event ``task-…``; returns the task, and whether it is new."""
        return self._event({**fields, "type": f"task-{type_}"})[0]

    def worker_event(self, type_: str, fields: Event) -> Any:
        """Take in an event ``worker-…``; returns the worker, and whether it is new."""
        return self._event({**fields, "type": f"worker-{type_}"})[0]

    def _event(self, event: Event) -> Any:
        self.event_count += 1
        if self.event_callback is not None:
            self.event_callback(self, event)
        group, _, subject = event["type"].partition("-")
        handler = self.handlers.get(group)
        if handler is not None:
            return handler(subject, event), subject
        needed = _NEEDED.get(group)
        if needed is None or not event.keys() >= needed:
            return None
        return (self._worker_event if group == "worker" else self._task_event)(subject, event), subject

    def _worker_event(self, subject: str, event: Event) -> tuple[records.Worker, bool]:
        hostname, timestamp, received = event["hostname"], event["timestamp"], event["local_received"]
        leaves = subject == "offline"
        worker = self.workers.get(hostname)
        created = worker is None and not leaves
        if worker is None:
            worker = self.Worker(hostname)
            if created:
                self.workers[hostname] = worker
        worker.event(subject, timestamp, received, event)
        if self.on_node_join is not None and (created or subject == "online"):
            self.on_node_join(worker)
        if self.on_node_leave is not None and leaves:
            self.on_node_leave(worker)
            self.workers.pop(hostname, None)
        return worker, created

    def _task_event(self, subject: str, event: Event) -> tuple[records.Task, bool]:
        uuid, hostname, timestamp = event["uuid"], event["hostname"], event["timestamp"]
        received, clock = event["local_received"], event["clock"]
        task = self.tasks.get(uuid)
        created = task is None
        if task is None:
            task = self.tasks[uuid] = self.Task(uuid, cluster_state=self)
        if subject == "sent":  # by a client
            task.client = origin = hostname
        else:
            worker, _ = self._worker(hostname)
            task.worker = worker
            worker.event(None, timestamp, received)
            origin = worker.id
        self._note_time(timetuple(clock, timestamp, origin, ref(task)))
        if subject == "received":
            self.task_count += 1
        unnamed = task.name is None
        task.event(subject, timestamp, received, event)
        if task.name is not None:
            self._seen_types.add(task.name)
            if unnamed:
                self.tasks_by_type[task.name].add(task)
        if subject != "sent":
            self.tasks_by_worker[hostname].add(task)
        self._join_family(task)
        return task, created

    def _worker(self, hostname: str) -> tuple[records.Worker, bool]:
        worker = self.workers.get(hostname)
        if worker is not None:
            return worker, False
        worker = self.workers[hostname] = self.Worker(hostname)
        return worker, True

    def _note_time(self, when: Any) -> None:
        heap = self._taskheap
        if len(heap) >= self.max_tasks_in_memory * self.heap_multiplier:
            # At once and not one by one, which would move all the others each time.
            del heap[: len(heap) // 8 + 1]
        if not heap or when > heap[-1]:  # most are
            heap.append(when)
        else:
            insort(heap, when)

    def _join_family(self, task: records.Task) -> None:
        if task.parent_id:
            parent = self.tasks.get(task.parent_id)
            if parent is not None:
                parent.children.add(task)
            else:
                orphans = self._tasks_to_resolve.get(task.parent_id)
                if orphans is None:
                    orphans = self._tasks_to_resolve[task.parent_id] = WeakSet()
                orphans.add(task)
        assert task.uuid is not None
        task.children.update(self._tasks_to_resolve.pop(task.uuid, ()))

    # What is known

    def get_or_create_worker(self, hostname: str, **kwargs: Any) -> tuple[records.Worker, bool]:
        """Return a worker with these attributes set, and whether it is new."""
        worker, created = self._worker(hostname)
        worker.update(kwargs)
        return worker, created

    def get_or_create_task(self, uuid: str) -> tuple[records.Task, bool]:
        """Return a task, and whether it is new."""
        task = self.tasks.get(uuid)
        if task is not None:
            return task, False
        task = self.tasks[uuid] = self.Task(uuid, cluster_state=self)
        return task, True

    def itertasks(self, limit: int | None = None) -> Iterator[tuple[str, records.Task]]:
        """Yield (id, task), at most ``limit``, in the order in which they were first heard of."""
        return islice(self.tasks.items(), limit or None)

    def tasks_by_time(
        self, limit: int | None = None, reverse: bool = True
    ) -> Iterator[tuple[str, records.Task]]:
        """Yield (id, task) by their last events (``reverse``, the default: the newest first).

        ``limit`` bounds the events that are looked at.
        """
        heap = reversed(self._taskheap) if reverse else iter(self._taskheap)
        seen = set()
        for entry in islice(heap, limit):
            task = entry[3]()
            if task is not None and task.uuid not in seen:
                seen.add(task.uuid)
                yield task.uuid, task

    tasks_by_timestamp = tasks_by_time

    def _tasks_by_type(
        self, name: str, limit: int | None = None, reverse: bool = True
    ) -> Iterator[tuple[str, records.Task]]:
        return islice((pair for pair in self.tasks_by_time(reverse=reverse) if pair[1].name == name), limit)

    def _tasks_by_worker(
        self, hostname: str, limit: int | None = None, reverse: bool = True
    ) -> Iterator[tuple[str, records.Task]]:
        pairs = self.tasks_by_time(reverse=reverse)
        here = (pair for pair in pairs if pair[1].worker is not None and pair[1].worker.hostname == hostname)
        return islice(here, limit)

    def task_types(self) -> list[str]:
        """Return the names of all tasks that were heard of."""
        return sorted(self._seen_types)

    def alive_workers(self) -> Iterator[records.Worker]:
        """Yield the workers that have been heard lately."""
        return (worker for worker in list(self.workers.values()) if worker.alive)

    def rebuild_taskheap(self) -> None:
        """Order the tasks anew, by what each knows of itself."""
        self._taskheap[:] = sorted(
            timetuple(task.clock, task.timestamp or 0.0, task.origin or "", ref(task))
            for task in self.tasks.values()
        )

    # Forgetting

    def freeze_while(
        self, fun: Callable[..., T], *args: Any, clear_after: bool = False, **kwargs: Any
    ) -> T:
        """Call a function while no event is taken in; then forget all but what still runs, if asked to."""
        with self._mutex:
            try:
                return fun(*args, **kwargs)
            finally:
                if clear_after:
                    self._clear()

    def clear_tasks(self, ready: bool = True) -> None:
        """Forget the tasks that have ended; not ``ready``: all."""
        with self._mutex:
            self._clear_tasks(ready)

    def clear(self, ready: bool = True) -> None:
        """Forget workers and counts, and tasks as ``clear_tasks`` does."""
        with self._mutex:
            self._clear(ready)

    def _clear_tasks(self, ready: bool = True) -> None:
        unended = (
            {uuid: task for uuid, task in self.tasks.items() if task.state not in states.READY_STATES}
            if ready
            else {}
        )
        self.tasks.clear()
        self.tasks.update(unended)
        self._taskheap.clear()

    def _clear(self, ready: bool = True) -> None:
        self.workers.clear()
        self._clear_tasks(ready)
        self.event_count = self.task_count = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.__reduce_args__()

    def __reduce_args__(self) -> tuple[Any, ...]:
        return (
            self.event_callback, self.workers, self.tasks, None, self.max_workers_in_memory,
            self.max_tasks_in_memory, self.on_node_join, self.on_node_leave, _ids(self.tasks_by_type),
            _ids(self.tasks_by_worker),
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: events={self.event_count} tasks={self.task_count}>"


def _ids(index: Mapping[str, Iterable[records.Task]]) -> dict[str, list[str | None]]:
    return {name: [task.id for task in tasks] for name, tasks in index.items()}
