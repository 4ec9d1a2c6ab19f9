"""The current app and the running task: the shim's only module-level state.

Celery's API has both (``current_app``, ``shared_task``, ``current_task``): they can't be arguments. The app
is one per thread with a default for all; the running task is a stack of frames in a context variable, so that
threads and coroutines each have their own.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emq_compat.message import Delivery, Publish
    from emq_compat.run import Report
    from emq_compat.shim.app import Celery
    from emq_compat.shim.request import Context
    from emq_compat.shim.task import Task
    from emq_compat.stored import StoredResult

__all__ = [
    "CurrentApp",
    "CurrentTask",
    "Frame",
    "RequestStack",
    "app_or_none",
    "apps",
    "finalizers",
    "frame_var",
    "get_app",
    "given_app",
    "restored",
    "set_app",
    "set_default_app",
    "set_fallback",
    "task_by_name",
    "told_here",
    "trap",
    "worker",
]


class Frame:
    """One run of a task: its request, what it wants published when it ends, and the run around it.

    ``entered`` is False until the body has begun: a task class with its own ``__call__`` gets to the body
    through the base class's, which must not take that for a direct call. ``max_retries`` is what the body
    gave to ``retry``; autoretry_for keeps to it, too.
    """

    __slots__ = (
        "delivery", "entered", "exhausted", "follow_ups", "max_retries", "previous", "report", "request",
        "said", "task",
    )  # fmt: skip

    def __init__(
        self,
        task: Task[..., Any],
        request: Context,
        *,
        delivery: Delivery | None = None,
        report: Report | None = None,
        previous: Frame | None = None,
        entered: bool = True,
    ) -> None:
        self.task = task
        self.request = request
        self.delivery = delivery
        self.report = report
        self.previous = previous
        self.entered = entered
        self.follow_ups: list[Publish] | None = None
        #: A final state with its meta that the task told of itself: its end if it raises Ignore.
        self.said: tuple[str, Any] | None = None
        self.max_retries: int | None = None
        #: It has asked for one retry more than it may.
        self.exhausted = False

    def publish_later(self, message: Publish) -> None:
        """Have a message published in the transaction that ends this run."""
        if self.follow_ups is None:
            self.follow_ups = []
        self.follow_ups.append(message)

    def published(self) -> tuple[Publish, ...]:
        """Return what is to be published when this run ends."""
        return tuple(self.follow_ups) if self.follow_ups else ()


#: The app whose program runs here, so that no -A need name it.
given_app: ContextVar[Celery | None] = ContextVar("emq_compat_given_app", default=None)
frame_var: ContextVar[Frame | None] = ContextVar("emq_compat_frame", default=None)
#: Task id → what a run that has failed came to, while its errbacks are called, before its REPLY leaves.
told_here: ContextVar[Mapping[str, StoredResult]] = ContextVar(
    "emq_compat_told", default=MappingProxyType({})
)


class RequestStack:
    """The requests of one task's runs in this thread or coroutine (Celery's ``task.request_stack``)."""

    def __init__(self, task: Task[..., Any]) -> None:
        self._task = task

    @property
    def stack(self) -> list[Context]:
        """The requests, the innermost last."""
        found = []
        frame = frame_var.get()
        while frame is not None:
            if frame.task is self._task:
                found.append(frame.request)
            frame = frame.previous
        return found[::-1]

    @property
    def top(self) -> Context | None:
        """The innermost request; None: the task isn't running here."""
        stack = self.stack
        return stack[-1] if stack else None

    def push(self, request: Context) -> None:
        """Enter a run with this request."""
        frame_var.set(Frame(self._task, request, previous=frame_var.get()))

    def pop(self) -> Context | None:
        """Leave the run that was entered last; returns its request."""
        frame = frame_var.get()
        if frame is None:
            return None
        frame_var.set(frame.previous)
        return frame.request

    def __len__(self) -> int:
        return len(self.stack)


class _Apps(threading.local):
    current: Celery | None = None


_apps = _Apps()
#: The apps of this process.
apps: weakref.WeakSet[Celery] = weakref.WeakSet()
_default: Celery | None = None
_default_is_chosen = False
_make_fallback: Callable[[], Celery] | None = None
#: The worker (shim/worker.py) whose parent process this is.
worker: Any = None
#: Called with the app that becomes current, or the default one.
followers: list[Callable[[Celery], object]] = []
#: Called with each app that is finalized.
finalizers: list[Callable[[Celery], object]] = []


def app_or_none() -> Celery | None:
    """Return this thread's app, else the default one, else None."""
    return _apps.current or _default


def set_app(app: Celery) -> None:
    """Make ``app`` this thread's current one, and that of threads without one unless another was chosen."""
    global _default
    _apps.current = app
    if not _default_is_chosen:
        _default = app
    _follow(app)


def set_default_app(app: Celery | None) -> None:
    """Choose the app of every thread that has none of its own; None: none, and the choice is open again."""
    global _default, _default_is_chosen
    _default = app
    _default_is_chosen = app is not None
    if app is None:
        _apps.current = None
    _follow(app)


def trap(stand_in: Any) -> None:
    """Put what is no app in the place of this thread's and the default one: shared tasks don't follow it."""
    global _default, _default_is_chosen
    _apps.current = _default = stand_in
    _default_is_chosen = True


def _follow(app: Celery | None) -> None:
    if app is not None:
        for follower in followers:
            follower(app)


@contextmanager
def restored() -> Iterator[None]:
    """Put this thread's app and the default one back after the block."""
    global _default, _default_is_chosen
    before = _apps.current, _default, _default_is_chosen
    try:
        yield
    finally:
        _apps.current, _default, _default_is_chosen = before
        _follow(app_or_none())


def set_fallback(make: Callable[[], Celery]) -> None:
    """Say how the app is made that exists where nobody made one."""
    global _make_fallback
    _make_fallback = make


def get_app() -> Celery:
    """Return this thread's app, else the default one; makes one where there is none."""
    global _default
    app = _apps.current or _default
    if app is None:
        assert _make_fallback is not None
        app = _default = _make_fallback()
    return app


def task_by_name(name: str) -> Task[..., Any]:
    """Return the task of this name: the current app's, else another app's of this process.

    Raises:
        NotRegistered: there is none.
    """
    current_app = get_app()
    for app in (current_app, *apps):
        if name in app.tasks:
            return app.tasks[name]
    return current_app.tasks[name]


class CurrentApp:
    """``celery.current_app``: whatever it is asked, it asks the app that is current then."""

    __slots__ = ()

    def _get_current_object(self) -> Celery:
        return get_app()

    def __getattr__(self, name: str) -> Any:
        return getattr(get_app(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(get_app(), name, value)

    def __call__(self) -> Celery:
        return get_app()

    def __eq__(self, other: object) -> bool:
        return get_app() is (other() if isinstance(other, CurrentApp) else other)

    def __hash__(self) -> int:
        return hash(get_app())

    def __repr__(self) -> str:
        return repr(get_app())


class CurrentTask:
    """``celery.current_task``: the task that is running here; falsy where none is."""

    __slots__ = ()

    def _get_current_object(self) -> Task[..., Any] | None:
        frame = frame_var.get()
        return frame.task if frame is not None else None

    def __bool__(self) -> bool:
        return frame_var.get() is not None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._get_current_object(), name)

    def __eq__(self, other: object) -> bool:
        return self._get_current_object() == (
            other._get_current_object() if isinstance(other, CurrentTask) else other
        )

    def __hash__(self) -> int:
        return hash(self._get_current_object())

    def __repr__(self) -> str:
        return repr(self._get_current_object())
