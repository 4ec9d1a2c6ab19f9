"""``celery.bootsteps``: what a project adds to a worker's start and end (``app.steps["worker"].add(…)``).

Steps run in the worker's parent, with the worker (shim/worker.py) as their argument; those of
``app.steps["consumer"]`` after them, with its consumer. Of Celery's own steps there are none, so that
requiring one means nothing, and no AMQP channel, so that there is no ConsumerStep.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from itertools import count
from typing import Any, ClassVar

from emq_compat.errors import ConfigurationError

__all__ = ["StartStopStep", "Step"]

logger = logging.getLogger("celery.worker")


class Step:
    """A part of a worker.

    Attributes:
        requires: steps, or their dotted paths, that come first.
        enabled: whether it takes part, unless ``include_if`` says something else.
        obj: what ``create`` returned.
    """

    requires: ClassVar[Iterable[Any]] = ()
    conditional: ClassVar[bool] = False
    enabled: bool = True
    name: str | None = None
    label: str | None = None
    obj: Any = None

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        """``kwargs`` are the worker's options."""

    def include_if(self, parent: Any) -> Any:
        """Return whether it takes part."""
        return self.enabled

    def create(self, parent: Any) -> Any:
        """Called once, before the worker's processes are made."""

    def include(self, parent: Any) -> bool:
        """Create it, if it takes part; returns whether it does."""
        if not self.include_if(parent):
            return False
        self.obj = self.create(parent)
        return True

    def __repr__(self) -> str:
        return f"<step: {self.name or type(self).__qualname__}>"


class StartStopStep(Step):
    """A part that is started when the worker is ready, and stopped when it ends.

    By default ``start`` and ``stop`` are those of what ``create`` returned.
    """

    def start(self, parent: Any) -> Any:
        """Called once the worker is ready."""
        return self.obj.start() if self.obj is not None else None

    def stop(self, parent: Any) -> Any:
        """Called when the worker has ended."""
        return self.obj.stop() if self.obj is not None else None

    def terminate(self, parent: Any) -> Any:
        """The same as stop."""
        return self.stop(parent)


class Steps:
    """The steps of one worker, in their order; of a genuine app they are Celery's."""

    def __init__(self, classes: Iterable[type[Any]], parent: Any, options: dict[str, Any]) -> None:
        """Create them. Raises what one of them raises: then the worker doesn't start.

        Raises:
            ConfigurationError: one of them consumes by the worker's own AMQP connection, which there isn't.
        """
        ordered = _ordered(classes)
        for cls in ordered:
            if hasattr(cls, "get_consumers"):
                raise ConfigurationError(
                    f"app.steps has {_path(cls)}, a ConsumerStep: this worker has no AMQP channel for it. "
                    "Have its queue consumed by a process of its own (kombu.mixins.ConsumerMixin)"
                )
        made = [cls(parent, **options) for cls in ordered]
        self._steps = [step for step in made if step.include(parent)]
        self._parent = parent

    def start(self) -> None:
        """Start them; raises what one of them raises."""
        for step in self._steps:
            if hasattr(step, "start"):
                step.start(self._parent)

    def stop(self) -> None:
        """Stop them, the last one first; what one raises is logged."""
        for step in reversed(self._steps):
            if hasattr(step, "stop"):
                try:
                    step.stop(self._parent)
                except Exception:
                    logger.exception("%r can't be stopped", step)


def _ordered(classes: Iterable[type[Any]]) -> Sequence[type[Any]]:
    """Return steps, those that another one requires before it."""
    known = {_path(cls): cls for cls in sorted(classes, key=_path)}
    order: dict[type[Any], None] = {}

    def place(cls: type[Any], above: tuple[type[Any], ...]) -> None:
        if cls in order or cls in above:
            return
        for required in cls.requires:
            path = required.replace(":", ".") if isinstance(required, str) else _path(required)
            if path in known:
                place(known[path], (*above, cls))
        order[cls] = None

    for cls in known.values():
        place(cls, ())
    return list(order)


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


class Entry:
    """A call that a timer makes; ``cancel()`` has it make none any more."""

    def __init__(self, fun: Callable[..., object], args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        self._call = fun, args, kwargs
        self.canceled = False

    def cancel(self) -> None:
        """Make no further call."""
        self.canceled = True

    def __call__(self) -> None:
        fun, args, kwargs = self._call
        try:
            fun(*args, **kwargs)
        except Exception:
            logger.exception("a timer's %r failed", fun)


class Timer:
    """``worker.timer``: calls functions later, in a thread that begins when the worker is ready."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Entry, float]] = []
        self._numbers = count()
        self._changed = threading.Condition()
        self._running = False
        self._ended = False
        self._thread: threading.Thread | None = None

    def call_after(
        self, secs: float, fun: Callable[..., object], args: Sequence[Any] = (), kwargs: Any = None,
        priority: int = 0,
    ) -> Entry:  # fmt: skip
        """Call a function once, after some seconds."""
        return self._add(secs, fun, args, kwargs, every_s=0.0)

    def call_repeatedly(
        self, secs: float, fun: Callable[..., object], args: Sequence[Any] = (), kwargs: Any = None,
        priority: int = 0,
    ) -> Entry:  # fmt: skip
        """Call a function every so many seconds, until it is cancelled."""
        return self._add(secs, fun, args, kwargs, every_s=secs)

    def _add(
        self, secs: float, fun: Callable[..., object], args: Sequence[Any], kwargs: Any, *, every_s: float
    ) -> Entry:
        entry = Entry(fun, args, dict(kwargs or {}))
        with self._changed:
            heappush(self._due, (time.monotonic() + secs, next(self._numbers), entry, every_s))
            self._begin_if_needed()
            self._changed.notify()
        return entry

    def begin(self) -> None:
        """Make the calls that are due, from now on."""
        with self._changed:
            self._running = True
            self._begin_if_needed()

    def stop(self) -> None:
        """Make no further call."""
        with self._changed:
            self._ended = True
            self._due.clear()
            self._changed.notify()

    def _begin_if_needed(self) -> None:
        if self._due and self._running and self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="worker-timer", daemon=True)
            self._thread.start()

    def _loop(self) -> None:
        while True:
            with self._changed:
                if self._ended:
                    return
                wait_s = self._due[0][0] - time.monotonic() if self._due else None
                if wait_s is None or wait_s > 0:
                    self._changed.wait(wait_s)
                    continue
                due, number, entry, every_s = heappop(self._due)
                if every_s and not entry.canceled:
                    heappush(self._due, (max(due + every_s, time.monotonic()), number, entry, every_s))
            if not entry.canceled:
                entry()
