"""Task: what ``@app.task`` makes of a function, and the base class of class-based tasks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, ParamSpec, TypeVar, overload

from emq_compat.shim import current
from emq_compat.shim.awaiting import inside
from emq_compat.shim.build import Plan, argument_check, as_carried, build, build_with
from emq_compat.shim.codec import dumps
from emq_compat.shim.current import Frame, frame_var
from emq_compat.shim.eager import run_here
from emq_compat.shim.exceptions import (
    ImproperlyConfigured,
    MaxRetriesExceededError,
    NoImportablePath,
    OperationalError,
    Retry,
)
from emq_compat.shim.execution import execute, retry_message
from emq_compat.shim.handlers import Handlers
from emq_compat.shim.options import priority_of, queue_name, read_options
from emq_compat.shim.paths import TaskPath, path_of
from emq_compat.shim.request import Context, request_of
from emq_compat.shim.result import AsyncResult as Result
from emq_compat.shim.result import EagerResult

if TYPE_CHECKING:
    from emq_compat.message import Delivery, Job, Outcome
    from emq_compat.run import Report
    from emq_compat.shim.app import Celery

__all__ = ["Task", "unpickle_task"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class FromSetting(Generic[T]):
    """An attribute that is the app's setting until a class, an option or an assignment gives it a value."""

    def __init__(self, setting: str) -> None:
        self.setting = setting

    @overload
    def __get__(self, task: None, owner: type) -> None: ...
    @overload
    def __get__(self, task: Task[..., Any], owner: type) -> T: ...
    def __get__(self, task: Task[..., Any] | None, owner: type) -> T | None:
        return None if task is None else task.app.conf[self.setting]


class Task(Handlers, Generic[P, R]):
    """A function that can be called here, or sent away to be run by a worker.

    Attributes are Celery's, with Celery's defaults; an instance is made once per process, by the app. Setting
    an attribute takes effect with the next publish.
    """

    #: Its registered name; empty: given by the app (``module.function``).
    name: str = ""
    #: Tries after the first one; None: without end.
    max_retries: int | None = 3
    #: Seconds before a retry that names no time.
    default_retry_delay: float = 180
    #: Where it is sent; None: the app's task_default_queue.
    queue: Any = None
    #: Seconds, or a time, after which it isn't run any more; None: never.
    expires: float | datetime | None = None
    #: Whether delay() checks arguments against the signature of ``run``.
    typing: bool = True
    #: Exceptions after which it is tried again by itself, and those of them after which it isn't.
    autoretry_for: Sequence[type[BaseException]] = ()
    dont_autoretry_for: Sequence[type[BaseException]] = ()
    #: Arguments of ``retry`` for that; the pause then grows with ``retry_backoff`` (True, or seconds).
    retry_kwargs: Mapping[str, Any] = MappingProxyType({})
    retry_backoff: bool | int = False
    retry_backoff_max: int = 600
    retry_jitter: bool = True
    #: Exceptions that are expected: logged without a traceback.
    throws: Sequence[type[BaseException]] = ()

    priority: FromSetting[int | None] = FromSetting("task_default_priority")
    acks_late: FromSetting[bool] = FromSetting("task_acks_late")
    reject_on_worker_lost: FromSetting[bool | None] = FromSetting("task_reject_on_worker_lost")
    ignore_result: FromSetting[bool] = FromSetting("task_ignore_result")
    track_started: FromSetting[bool] = FromSetting("task_track_started")
    #: Hard and soft limit of a run, in seconds; None: no limit.
    time_limit: FromSetting[float | None] = FromSetting("task_time_limit")
    soft_time_limit: FromSetting[float | None] = FromSetting("task_soft_time_limit")
    rate_limit: FromSetting[Any] = FromSetting("task_default_rate_limit")
    serializer: FromSetting[str] = FromSetting("task_serializer")
    compression: FromSetting[str | None] = FromSetting("task_compression")
    store_errors_even_if_ignored: FromSetting[bool] = FromSetting("task_store_errors_even_if_ignored")
    store_eager_result: FromSetting[bool] = FromSetting("task_store_eager_result")

    MaxRetriesExceededError: ClassVar[type[BaseException]] = MaxRetriesExceededError
    OperationalError: ClassVar[type[BaseException]] = OperationalError

    #: The module whose import declared it; None: it was declared at run time.
    declared_in: str | None = None
    __wrapped__: Callable[..., Any]

    _app: Celery | None = None
    _plan: Plan | None = None
    _plan_app: Celery | None = None
    _custom_call: ClassVar[bool] = False
    _has_handlers: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._custom_call = cls.__call__ is not Task.__call__
        cls._has_handlers = cls.any_defined()

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__["_plan"] = None
        object.__setattr__(self, name, value)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The body; a class-based task defines it."""
        raise NotImplementedError("a task class must define run()")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the body here and now, as a plain function; of an ``async def`` return its coroutine."""
        frame = frame_var.get()
        if frame is not None and frame.task is self and not frame.entered:
            frame.entered = True
            return self.run(*args, **kwargs)  # type: ignore[no-any-return]
        inner = Frame(self, Context(args=args, kwargs=kwargs), previous=frame)
        token = frame_var.set(inner)
        try:
            value: Any = self.run(*args, **kwargs)
        finally:
            frame_var.reset(token)
        if hasattr(type(value), "__await__"):
            value = inside(inner, value)
        return value  # type: ignore[no-any-return]

    @property
    def __name__(self) -> str:
        cls: type = type(self)
        return cls.__name__

    @property
    def app(self) -> Celery:
        """The app it belongs to; of a shared task the current one."""
        return self._app if self._app is not None else current.get_app()

    @app.setter
    def app(self, app: Celery) -> None:
        self._app = app

    @property
    def request(self) -> Context:
        """This run's Context; an empty one where it isn't running."""
        frame = self._frame()
        return frame.request if frame is not None else Context()

    def _frame(self) -> Frame | None:
        frame = frame_var.get()
        while frame is not None and frame.task is not self:
            frame = frame.previous
        return frame

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Result[R]:
        """Publish a call with these arguments; returns once the broker has it on disk.

        Raises:
            TypeError: the arguments don't fit the function's signature.
            EncodeError: an argument can't be carried as JSON (a TypeError, too).
            OperationalError: the broker didn't confirm in time.
        """
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        producer: object = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> Result[R]:
        """Publish a call.

        Options: countdown (seconds) or eta (a datetime), expires (seconds or a datetime), queue, priority (0
        to 9, higher first), headers (a dict, in ``request.headers``), ignore_result, time_limit and
        soft_time_limit (seconds), retry and retry_policy (Celery's; a publish that is tried again is still
        one message), root_id, parent_id, group_id.

        Raises:
            As ``delay``; TypeError, ValueError and ImproperlyConfigured for an option that is wrong, or that
            a stock eventmq router can't do (countdown, eta, expires).
        """
        app = self._app if self._app is not None else current.get_app()
        if app.eager:
            return self._apply_eagerly(args, kwargs, task_id, options)
        plan = self._plan
        if plan is None or plan.version != app.conf.version or self._plan_app is not app:
            plan = self._new_plan(app)
        frame = frame_var.get()
        request = None if frame is None else frame.request
        if options or task_id or link or link_error or shadow:
            given = {**options, "task_id": task_id, "link": link, "link_error": link_error, "shadow": shadow}
            read = read_options(plan, app.conf, given, request)
            message = build_with(plan, args or (), kwargs or {}, read)
            app.publish(message, app.tries(options))
            ignored = read.ignore_result
        else:
            message = build(plan, args or (), kwargs or {}, request)
            app.publish(message, app.retry_policy)
            ignored = plan.ignore_result
        result: Result[R] = Result(message.headers.task_id, app=app)
        result.ignored = ignored
        return result

    def _new_plan(self, app: Celery) -> Plan:
        stock = app.stock
        try:
            path = path_of(self)
        except NoImportablePath:
            if stock:
                raise
            path = TaskPath(path=self.__module__ or "__main__", callable=self.__name__)
        plan = Plan(
            name=self.name,
            path=path,
            queue=queue_name(app.conf.task_default_queue if self.queue is None else self.queue),
            version=app.conf.version,
            stock=stock,
            priority=priority_of(self.priority or 0),
            ignore_result=bool(self.ignore_result),
            keeps_errors=bool(self.store_errors_even_if_ignored),
            expires=self.expires,
            limit_s=self.time_limit if stock else None,
            check=argument_check(self.run) if self.typing else None,
        )
        if path.settled:
            self.__dict__["_plan"] = plan
            self.__dict__["_plan_app"] = app
        return plan

    def _apply_eagerly(
        self,
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        task_id: str | None,
        options: Mapping[str, Any],
    ) -> EagerResult[R]:
        """Run in place of publishing (task_always_eager), with arguments as a message would carry them."""
        if self.typing and (check := argument_check(self.run)) is not None:
            check(*(args or ()), **(kwargs or {}))
        args, kwargs = as_carried(self.name, args or (), kwargs or {})
        return self.apply(args, kwargs, task_id=task_id, **options)

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        link: Any = None,
        link_error: Any = None,
        task_id: str | None = None,
        retries: int | None = None,
        throw: bool | None = None,
        logfile: str | None = None,
        loglevel: int | None = None,
        headers: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> EagerResult[R]:
        """Run here, as a worker would: with a request, and with retries, made at once.

        ``throw`` raises what the task raises (default: task_eager_propagates).
        """
        request = {
            "id": task_id,
            "retries": retries,
            "headers": dict(headers) if headers else None,
            "logfile": logfile,
            "loglevel": loglevel or 0,
            "ignore_result": bool(options.get("ignore_result", False)),
            "delivery_info": {
                "is_eager": True,
                "exchange": options.get("exchange"),
                "routing_key": options.get("routing_key") or options.get("queue"),
                "priority": options.get("priority"),
                "redelivered": False,
            },
        }
        if throw is None:
            throw = bool(self.app.conf.task_eager_propagates)
        return run_here(self, args or (), kwargs or {}, throw=throw, request=request)

    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Have the running task tried again later; raises Retry, which ends this try.

        The message of the next try has the same task id, queue, priority, headers, expiry and time limits;
        it is published in the transaction that ends this try. ``countdown`` is in seconds (default:
        default_retry_delay). ``throw=False`` returns the Retry instead, and the task goes on.

        Raises:
            Retry: the task is tried again.
            MaxRetriesExceededError: it has been tried often enough; ``exc`` itself, if it is given.
            BaseException: ``exc``, or a Retry, at once, when no worker runs the task (a plain call).
        """
        frame = self._frame()
        request = frame.request if frame is not None else Context()
        if frame is None or request.called_directly:
            _raise(exc or Retry("Task can be retried", None))
        limit = self.max_retries if max_retries is None else max_retries
        new_args = request.args if args is None else args
        new_kwargs = request.kwargs if kwargs is None else kwargs
        if limit is not None and (request.retries or 0) >= limit:
            if exc is not None:
                _raise(exc)
            raise MaxRetriesExceededError(
                f"Can't retry {self.name}[{request.id}] args:{new_args} kwargs:{new_kwargs}",
                task_args=new_args or (),
                task_kwargs=new_kwargs or {},
            )
        if eta is None and countdown is None:
            countdown = self.default_retry_delay
        again = Retry(exc=exc, when=eta or countdown, is_eager=request.is_eager)
        if request.is_eager:
            again.sig = (tuple(new_args or ()), dict(new_kwargs or {}))
        else:
            frame.publish_later(
                retry_message(
                    frame, args=args, kwargs=kwargs, eta=eta, countdown=countdown, options=options
                )
            )
        if throw:
            raise again
        return again

    def update_state(
        self,
        task_id: str | None = None,
        state: str | None = None,
        meta: Any = None,
        **kwargs: Any,
    ) -> None:
        """Tell a state of the running task, with ``meta`` (JSON) as what ``result.info`` shows.

        Raises:
            EncodeError: ``meta`` can't be carried.
            ImproperlyConfigured: ``task_id`` is another task's; only its own worker may tell its state.
        """
        frame = self._frame()
        if frame is None or frame.request.id is None:
            raise ImproperlyConfigured("update_state works inside a running task")
        if task_id not in (None, frame.request.id):
            raise ImproperlyConfigured(f"task {task_id} is not the running one, {frame.request.id}")
        if frame.report is not None and state is not None:
            frame.report(state, dumps({"value": meta, "state": state}).encode())

    def AsyncResult(self, task_id: str, **kwargs: Any) -> Result[R]:  # noqa: N802 - Celery's name
        """Return the result of this task's call ``task_id``."""
        return Result(task_id, app=self.app, **kwargs)

    def push_request(self, *args: Any, **kwargs: Any) -> None:
        """Enter a run with a Context of these attributes; for tests of a task's body."""
        frame_var.set(Frame(self, Context(*args, **kwargs), previous=frame_var.get()))

    def pop_request(self) -> None:
        """Leave the run that ``push_request`` entered."""
        frame = frame_var.get()
        frame_var.set(frame.previous if frame is not None else None)

    def bind(self, app: Celery) -> Celery:
        """Attach the task to an app; returns the app."""
        self._app = app
        return app

    def __emq_run__(self, job: Job, delivery: Delivery, report: Report) -> Outcome:
        """Run for a job manager that found this task by its path (emq_compat.run.Runnable)."""
        return execute(self, request_of(self.name, job, delivery, self.app.hostname), delivery, report)

    def __reduce__(self) -> tuple[Any, ...]:
        return unpickle_task, (self.name, self.__module__)

    def __repr__(self) -> str:
        return f"<@task: {self.name}>"


def unpickle_task(name: str, module: str | None = None) -> Task[..., Any]:
    """Return the current app's task of this name, importing its module if it isn't registered yet."""
    app = current.get_app()
    if module and name not in app.tasks:
        __import__(module)
    return app.tasks[name]


def _raise(exc: BaseException) -> NoReturn:
    """Raise ``exc``; where another exception is being handled, that one is its cause."""
    handled = sys.exc_info()[1]
    if handled is None or handled is exc:
        raise exc
    raise exc from handled

