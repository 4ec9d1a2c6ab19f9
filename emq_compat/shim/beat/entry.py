"""One entry of a schedule: what is sent, and when it was sent last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.schedules.maybe import maybe_schedule

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["BeatLazyFunc", "ScheduleEntry", "SchedulingError"]

#: What an entry is made of by its author; the rest is its history.
_EDITABLE = ("task", "schedule", "args", "kwargs", "options")


class SchedulingError(Exception):
    """An entry's task can't be published."""


class BeatLazyFunc:
    """An argument of an entry that is computed each time it is sent: ``func(*args, **kwargs)``."""

    def __init__(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._func = func
        self._args, self._kwargs = args, kwargs

    def __call__(self) -> Any:
        return self.delay()

    def delay(self) -> Any:
        """Return the value as it is now."""
        return self._func(*self._args, **self._kwargs)


class ScheduleEntry:
    """An entry; subclasses may keep it elsewhere.

    Args:
        name: its name in the schedule.
        task: the task's name.
        last_run_at: when it was sent last; now, for a new one: its first run is the next after that.
        total_run_count: how often it was sent.
        schedule: seconds, a timedelta or a schedule.
        args, kwargs, options: of the call; options are those of apply_async.
        relative: an interval's runs are rounded down to its unit.
    """

    name: Any = None
    schedule: Any = None
    args: Any = None
    kwargs: Any = None
    options: Any = None
    last_run_at: Any = None
    total_run_count: int = 0

    def __init__(
        self,
        name: str | None = None,
        task: str | None = None,
        last_run_at: datetime | None = None,
        total_run_count: int | None = None,
        schedule: Any = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        relative: bool = False,
        app: Celery | None = None,
    ) -> None:
        self.app = app
        self.name = name
        self.task = task
        self.args = args
        self.kwargs = kwargs or {}
        self.options = options or {}
        self.schedule = maybe_schedule(schedule, relative, app=app)
        self.last_run_at = last_run_at or self.default_now()
        self.total_run_count = total_run_count or 0

    def default_now(self) -> datetime:
        """Return the time now, by the schedule's clock."""
        if self.schedule is not None:
            now: datetime = self.schedule.now()
            return now
        assert self.app is not None
        return self.app.now()

    _default_now = default_now

    def _next_instance(self, last_run_at: datetime | None = None) -> ScheduleEntry:
        """Return it as it is after a run."""
        changed = {
            "last_run_at": last_run_at or self.default_now(),
            "total_run_count": self.total_run_count + 1,
        }
        return type(self)(**{**dict(self), **changed})

    __next__ = next = _next_instance

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (
            self.name, self.task, self.last_run_at, self.total_run_count, self.schedule, self.args,
            self.kwargs, self.options,
        )  # fmt: skip

    def update(self, other: ScheduleEntry) -> None:
        """Take over what another entry is made of, and keep the history."""
        vars(self).update({name: getattr(other, name) for name in _EDITABLE})

    def is_due(self) -> tuple[bool, float]:
        """Return whether it is due, and in how many seconds to look again."""
        due: tuple[bool, float] = self.schedule.is_due(self.last_run_at)
        return due

    def editable_fields_equal(self, other: Any) -> bool:
        """Return whether another entry is made of the same."""
        return all(getattr(self, name) == getattr(other, name) for name in _EDITABLE)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(vars(self).items())

    def __repr__(self) -> str:
        given = [repr(arg) for arg in self.args or ()]
        given += [f"{name}={value!r}" for name, value in (self.kwargs or {}).items()]
        return f"<{type(self).__name__}: {self.name} {self.task}({', '.join(given)}) {self.schedule}>"

    def __lt__(self, other: object) -> bool:
        # Only to break ties in the heap.
        return id(self) < id(other) if isinstance(other, ScheduleEntry) else NotImplemented

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ScheduleEntry):
            return NotImplemented
        return self.editable_fields_equal(other)

    __hash__ = None  # type: ignore[assignment]


def entry_of(cls: type[Any], name: str, given: Any, app: Celery) -> Any:
    """Return the entry that a schedule's value is: an entry already, or a mapping of its arguments.

    Raises:
        ImproperlyConfigured: it can't be one; the message names it.
    """
    if isinstance(given, cls):
        given.app = app
        return given
    try:
        entry = cls(**dict(given, name=name, app=app))
    except (TypeError, ValueError, AttributeError) as exc:
        raise ImproperlyConfigured(f"the entry {name!r} of the schedule can't be used: {exc}") from exc
    if getattr(entry, "schedule", None) is None:
        raise ImproperlyConfigured(f"the entry {name!r} of the schedule says not when: it has no 'schedule'")
    task = getattr(entry, "task", None)
    if not isinstance(task, str) or not task:
        why = f"its 'task' is {task!r}, not a task's name"
        raise ImproperlyConfigured(f"the entry {name!r} of the schedule says not what: {why}")
    return entry


def evaluated(entry: ScheduleEntry) -> tuple[list[Any], dict[str, Any]]:
    """Return an entry's arguments, the lazy ones computed."""
    args = [arg() if isinstance(arg, BeatLazyFunc) else arg for arg in entry.args or ()]
    kwargs = entry.kwargs or {}
    return args, {name: v() if isinstance(v, BeatLazyFunc) else v for name, v in kwargs.items()}
