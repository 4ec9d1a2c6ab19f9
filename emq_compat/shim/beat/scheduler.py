"""Scheduler, the base of all: entries in the order of their time, and a tick that sends what is due."""

from __future__ import annotations

import copy
import heapq
import time
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from emq_compat.shim.beat.clock import StepWatch
from emq_compat.shim.beat.entry import ScheduleEntry, SchedulingError, entry_of, evaluated
from emq_compat.shim.loggers import get_logger
from emq_compat.shim.schedules.cron import crontab
from emq_compat.shim.surface.times import humanize_seconds, maybe_make_aware

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery
    from emq_compat.shim.beat.watch import BeatWatch

__all__ = ["DEFAULT_MAX_INTERVAL", "Scheduler", "event_t"]

logger = get_logger("celery.beat")

#: The longest sleep in seconds.
DEFAULT_MAX_INTERVAL = 300
_PRIORITY = 5
#: How long the message of an entry that cleans up stays good.
_CLEANUP_EXPIRES_S = 12 * 3600


class event_t(NamedTuple):  # noqa: N801 - Celery's name
    """When (unix seconds) to look at an entry again."""

    time: float
    priority: int
    entry: Any


class Scheduler:
    """Sends entries when they are due; keeps them in memory.

    A subclass may keep them anywhere: it overrides ``setup_schedule``, ``schedule``, ``sync``, ``Entry`` and
    what else it needs. ``-S``, ``beat_scheduler`` or an entry point of celery.beat_schedulers names it.

    Args:
        schedule: entries by name, or a function that gives them.
        max_interval: the longest sleep in seconds; else beat_max_loop_interval.
        lazy: only to be looked at: the schedule is not set up.
        sync_every_tasks: ``sync`` after so many tasks; else beat_sync_every.

    Attributes:
        sync_every: ``sync`` at least every so many seconds.
        watch: is told of each run that was published, or couldn't be.
    """

    Entry: type[Any] = ScheduleEntry
    max_interval: float = DEFAULT_MAX_INTERVAL
    sync_every: float = 3 * 60
    sync_every_tasks: int | None = None
    _last_sync: float | None = None
    _tasks_since_sync = 0
    watch: BeatWatch | None = None
    logger = logger

    def __init__(
        self,
        app: Celery,
        schedule: Any = None,
        max_interval: float | None = None,
        Producer: Any = None,  # noqa: N803 - Celery's name
        lazy: bool = False,
        sync_every_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.app = app
        given = schedule() if callable(schedule) else schedule
        self.data: dict[str, Any] = {} if given is None else given
        conf = app.conf
        self.max_interval = max_interval or conf.beat_max_loop_interval or self.max_interval
        self.Producer = Producer
        self._heap: list[event_t] | None = None
        self.old_schedulers: Mapping[str, Any] | None = None
        self.sync_every_tasks = conf.beat_sync_every if sync_every_tasks is None else sync_every_tasks
        self._steps = StepWatch()
        if not lazy:
            self.setup_schedule()

    # The schedule

    def get_schedule(self) -> dict[str, Any]:
        """Return the entries by name."""
        return self.data

    def set_schedule(self, schedule: dict[str, Any]) -> None:
        """Replace the entries."""
        self.data = schedule

    @property
    def schedule(self) -> Any:
        """The entries by name."""
        return self.get_schedule()

    @schedule.setter
    def schedule(self, schedule: dict[str, Any]) -> None:
        self.set_schedule(schedule)

    def setup_schedule(self) -> None:
        """Read the schedule: beat_schedule, and what the backend needs."""
        self.install_default_entries(self.data)
        self.merge_inplace(self.app.conf.beat_schedule)

    def install_default_entries(self, data: Mapping[str, Any]) -> None:
        """Add the daily cleaning of results, where the result backend doesn't do that by itself."""
        entries = {}
        name = "celery.backend_cleanup"
        if self.app.conf.result_expires and not self.app.backend.supports_autoexpire and name not in data:
            entries[name] = {
                "task": name,
                "schedule": crontab("0", "4", "*"),
                "options": {"expires": _CLEANUP_EXPIRES_S},
            }
        self.update_from_dict(entries)

    def add(self, **kwargs: Any) -> Any:
        """Add an entry, given by the arguments of its class; returns it."""
        entry = self.Entry(app=self.app, **kwargs)
        self.schedule[entry.name] = entry
        return entry

    def _maybe_entry(self, name: str, entry: Any) -> Any:
        return entry_of(self.Entry, name, entry, self.app)

    def update_from_dict(self, dict_: Mapping[str, Any]) -> None:
        """Add or replace entries."""
        self.schedule.update({name: self._maybe_entry(name, entry) for name, entry in dict_.items()})

    def merge_inplace(self, b: Mapping[str, Any]) -> None:
        """Have the entries of ``b`` and no others; those that are there keep their history."""
        schedule = self.schedule
        for name in set(schedule) - set(b):
            del schedule[name]
        for name, given in b.items():
            entry = self._maybe_entry(name, given)
            if schedule.get(name):
                schedule[name].update(entry)
            else:
                schedule[name] = entry

    def schedules_equal(self, old_schedules: Any, new_schedules: Any) -> bool:
        """Return whether two schedules have equal entries."""
        if old_schedules is None or new_schedules is None:
            return old_schedules is new_schedules
        return bool(dict(old_schedules) == dict(new_schedules))

    # What is due

    def adjust(self, n: float | None, drift: float = 0.0) -> float | None:
        """Return seconds to wait with ``drift`` added, where there are any."""
        return n + drift if n and n > 0 else n

    def is_due(self, entry: Any) -> tuple[bool, float | None]:
        """Return whether an entry is due, and in how many seconds to look at it again."""
        due: tuple[bool, float | None] = entry.is_due()
        return due

    def _due(self, entry: Any) -> tuple[bool, float]:
        """``is_due``; an entry whose schedule fails stops no other: it is looked at again later."""
        try:
            is_due, next_s = self.is_due(entry)
        except Exception:
            logger.exception(
                "beat: the next run of %r can't be told, trying again %s",
                entry.name, humanize_seconds(self.max_interval, prefix="in "),
            )  # fmt: skip
            return False, self.max_interval
        return is_due, self.max_interval if next_s is None else next_s

    def _when(self, entry: Any, next_time_to_run: float) -> float:
        """Return the unix time so many seconds from now, by the entry's clock."""
        now = maybe_make_aware(entry.default_now())
        return now.timestamp() + (self.adjust(next_time_to_run) or 0)

    def populate_heap(self) -> None:
        """Put the entries in the order of their time."""
        self._heap = []
        for entry in self.schedule.values():
            is_due, next_s = self._due(entry)
            self._heap.append(event_t(self._when(entry, 0 if is_due else next_s), _PRIORITY, entry))
        heapq.heapify(self._heap)

    def tick(self, **celery: Any) -> float:
        """Send one entry, if one is due; returns how many seconds to wait until the next call."""
        if self._steps.stepped(self.app.now()):
            self._heap = None
        schedule = self.schedule
        if self._heap is None or not self.schedules_equal(self.old_schedulers, schedule):
            self.populate_heap()
            self.old_schedulers = copy.copy(schedule)
        heap = self._heap
        if not heap:
            return self.max_interval
        left_s = heap[0].time - self._when(heap[0].entry, 0)
        if left_s > 0:
            return min(left_s, self.max_interval)
        return self._take(heap, heapq.heappop(heap))

    def _take(self, heap: list[event_t], event: event_t) -> float:
        """Send the entry whose time has come, if it is due; returns as ``tick``."""
        entry = event.entry
        is_due, next_s = self._due(entry)
        if is_due:
            following = self.reserve(entry)
            self.apply_entry(entry, producer=self.producer)
            entry = following
        heapq.heappush(heap, event_t(self._when(entry, next_s), event.priority, entry))
        return 0.0

    def reserve(self, entry: Any) -> Any:
        """Note that an entry is being sent; returns it as it is after that."""
        following = self.schedule[entry.name] = next(entry)
        if isinstance(self.old_schedulers, dict):
            self.old_schedulers[entry.name] = following  # so that the next tick's comparison is quick
        return following

    # Sending

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Publish an entry's task; what goes wrong is logged."""
        logger.info("Scheduler: Sending due task %s (%s)", entry.name, entry.task)
        try:
            result = self.apply_async(entry, producer=producer, advance=False)
        except Exception as exc:
            logger.exception("Message Error: %s", exc)
            self._note(entry, sent=False)
        else:
            self._note(entry, sent=True)
            if result is not None and hasattr(result, "id"):
                logger.debug("%s sent. id->%s", entry.task, result.id)
            else:
                logger.debug("%s sent.", entry.task)

    def _note(self, entry: Any, *, sent: bool) -> None:
        if self.watch is not None:
            self.watch.note(entry.name, sent=sent)

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        """Publish an entry's task; returns its result.

        Raises:
            SchedulingError: it can't be published.
        """
        if advance:
            entry = self.reserve(entry)
        task = self.app.tasks.get(entry.task)
        try:
            args, kwargs = evaluated(entry)
            options = dict(entry.options)
            options["headers"] = {**(options.get("headers") or {}), "celery_beat_task": True}
            if task is not None:
                return task.apply_async(args, kwargs, producer=producer, **options)
            return self.send_task(entry.task, args, kwargs, producer=producer, **options)
        except Exception as exc:
            raise SchedulingError(f"Couldn't apply scheduled task {entry.name}: {exc}") from exc
        finally:
            self._tasks_since_sync += 1
            if self.should_sync():
                self._do_sync()

    def send_task(self, *args: Any, **kwargs: Any) -> Any:
        """Publish a task that isn't registered here; arguments are those of app.send_task."""
        return self.app.send_task(*args, **kwargs)

    # Storage

    def should_sync(self) -> bool:
        """Return whether it is time for ``sync``."""
        if not self._last_sync or time.monotonic() - self._last_sync > self.sync_every:
            return True
        return bool(self.sync_every_tasks and self._tasks_since_sync >= self.sync_every_tasks)

    def _do_sync(self) -> None:
        try:
            logger.debug("beat: Synchronizing schedule...")
            self.sync()
        finally:
            self._last_sync = time.monotonic()
            self._tasks_since_sync = 0

    def sync(self) -> None:
        """Write down what has changed; for subclasses."""

    def close(self) -> None:
        """Write down what has changed, and let go of the connection."""
        try:
            self.sync()
        finally:
            vars(self).pop("producer", None)
            vars(self).pop("connection", None)

    @cached_property
    def connection(self) -> Any:
        """The connection to the broker."""
        return self.app.connection_for_write()

    @cached_property
    def producer(self) -> Any:
        """What is passed on as ``producer=``."""
        if self.Producer is not None:
            return self.Producer(self.connection)
        return self.app.producer_or_acquire().__enter__()

    @property
    def info(self) -> str:
        """Lines for the banner: where the schedule is kept."""
        return ""
