"""Task: what ``@app.task`` makes of a function, and the base class of class-based tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, TypeVar

from emq_compat.shim import current, later
from emq_compat.shim.canvas_methods import CanvasMethods
from emq_compat.shim.checks import check_limits, priority_of
from emq_compat.shim.current import Frame, frame_var
from emq_compat.shim.exceptions import NoImportablePath
from emq_compat.shim.handler_methods import Handlers
from emq_compat.shim.task_run import TaskRun

if TYPE_CHECKING:
    from emq_compat.message import Delivery, Job, Outcome
    from emq_compat.run import Report
    from emq_compat.shim.app import Celery
    from emq_compat.shim.build import Plan
    from emq_compat.shim.results.eager import EagerResult
    from emq_compat.shim.results.single import AsyncResult as Result
    from emq_compat.shim.run_plan import RunPlan

__all__ = ["Task", "unpickle_task"]

P = ParamSpec("P")
R = TypeVar("R")


class Task(CanvasMethods, TaskRun, Handlers, Generic[P, R]):
    """A function that can be called here, or sent away to be run by a worker.

    Attributes are Celery's, with Celery's defaults (attributes.py); an instance is made once per process, by
    the app. Setting an attribute takes effect with the next publish.
    """

    _app: Celery | None = None
    _plan: Plan | None = None
    _plan_app: Celery | None = None
    _run_plan: RunPlan | None = None
    _custom_call: ClassVar[bool] = False
    #: Its base class is that of its app: it was declared without ``base``.
    _follows_app: ClassVar[bool] = False
    _has_handlers: ClassVar[bool] = False
    _has_shadow_name: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._note_overrides()

    @classmethod
    def _note_overrides(cls) -> None:
        """Note what the class defines itself; what it doesn't takes no time in a run."""
        cls._custom_call = cls.__call__ is not Task.__call__
        cls._has_handlers = cls.any_defined()
        cls._has_shadow_name = cls.shadow_name is not Task.shadow_name

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__["_plan"] = self.__dict__["_run_plan"] = None
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
        inner = Frame(self, later.Context(args=args, kwargs=kwargs), previous=frame)
        token = frame_var.set(inner)
        try:
            value: Any = self.run(*args, **kwargs)
        finally:
            frame_var.reset(token)
        if hasattr(type(value), "__await__"):
            value = later.inside(inner, value)
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

    def _get_app(self) -> Celery:
        """The app, by the name that classes of tasks for Celery ask for it."""
        return self.app

    @property
    def backend(self) -> Any:
        """Where its results are kept: the app's backend."""
        app: Any = self.app
        return app.backend

    @property
    def __header__(self) -> Callable[..., None]:
        """A function of the body's signature that does nothing: it checks arguments as Python does."""
        return later.argument_check(self.run) or _takes_everything

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
        if self._has_shadow_name and shadow is None:
            shadow = self.shadow_name(args or (), kwargs or {}, options)
        if self.pydantic:
            args, kwargs = later.dumped(args or ()), later.dumped(dict(kwargs or {}))
        if app.eager:
            links = {"link": link, "link_error": link_error, "shadow": shadow}
            return self._apply_eagerly(args, kwargs, task_id, {**options, **links})
        plan = self._plan
        if plan is None or plan.version != app.conf.version or self._plan_app is not app:
            plan = self._new_plan(app)
        frame = frame_var.get()
        request = None if frame is None else frame.request
        if plan.by_call or not options.keys().isdisjoint(later.ADDRESS):
            options = app.amqp.addressed(plan, options, args, kwargs, self)
        if options or task_id or link or link_error or shadow or plan.packs:
            given = {**options, "task_id": task_id, "link": link, "link_error": link_error, "shadow": shadow}
            read = later.read_options(plan, app.conf, given, request)
            collected = read.terms is not None and app.collects
            message = later.build_with(plan, args or (), kwargs or {}, read, collected=collected)
            first = app.publish(message, app.tries(options))
            ignored = read.ignore_result
        else:
            message = later.build(plan, args or (), kwargs or {}, request)
            first = app.publish(message, app.retry_policy)
            ignored = plan.ignore_result
        sent = first or message.headers.task_id
        own = type(self).AsyncResult is not Task.AsyncResult
        result: Result[R] = self.AsyncResult(sent) if own else later.AsyncResult(sent, app=app)
        result.ignored = ignored
        if frame is not None and options.get("add_to_parent", True):
            frame.task.add_trail(result)
        return result

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> Result[R]:
        """``delay`` for coroutines: the loop goes on until the broker has confirmed."""
        return await self.aapply_async(args, kwargs)

    async def aapply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Result[R]:
        """``apply_async`` for coroutines; options and errors are the same."""
        app = self._app if self._app is not None else current.get_app()
        policy = app.tries(options)
        return await later.published(app, lambda: self.apply_async(args, kwargs, **options), policy)

    def _new_plan(self, app: Celery) -> Plan:
        stock = app.stock
        if app.conf.task_annotations:
            self.annotate()
        check_limits(self.time_limit, self.soft_time_limit)
        try:
            path = later.path_of(self)
        except NoImportablePath:
            if stock:
                raise
            path = later.TaskPath(path=self.__module__ or "__main__", callable=self.__name__)
        destination = app.amqp.destination(self.name, self)
        priority = self.priority if destination.priority is None else destination.priority
        plan = later.Plan(
            name=self.name,
            path=path,
            queue=destination.queue,
            by_call=destination.by_call,
            version=app.conf.version,
            stock=stock,
            priority=priority_of(priority or 0),
            ignore_result=bool(self.ignore_result),
            keeps_errors=bool(self.store_errors_even_if_ignored),
            expires=self.expires,
            limit_s=self.time_limit if stock else None,
            check=later.argument_check(self.run) if self.typing and app.strict_typing else None,
            epilogue=not stock
            and (self.on_retries_exhausted is not None or not (self.backend or app.backend).kept_by_broker),
            keep_s=None if stock else later.seconds_kept(app.conf),
            serializer=self.serializer,
            compression=self.compression,
            terms=later.call_terms(self, self.name),
            over_kombu=app.over_kombu,
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
        if self.typing and (check := later.argument_check(self.run)) is not None:
            check(*(args or ()), **(kwargs or {}))
        serializer = options.get("serializer") or self.serializer
        args, kwargs = later.as_carried(self.name, args or (), kwargs or {}, serializer)
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
        ignored = options.get("ignore_result")
        hard = options.get("time_limit") or self.time_limit
        soft = options.get("soft_time_limit") or self.soft_time_limit
        request = {
            "id": task_id,
            "retries": retries,
            "headers": dict(headers) if headers else None,
            "logfile": logfile,
            "loglevel": loglevel or 0,
            "ignore_result": bool(self.ignore_result if ignored is None else ignored),
            "callbacks": later.as_list(link) or None,
            "errbacks": later.as_list(link_error) or None,
            "timelimit": [hard, soft] if (hard, soft) != (None, None) else None,
            "group": options.get("group_id"),
            "group_index": options.get("group_index"),
            "stamped_headers": options.get("stamped_headers"),
            "stamps": {name: options.get(name) for name in options.get("stamped_headers") or ()} or None,
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
        return later.run_here(self, args or (), kwargs or {}, throw=throw, request=request)

    def shadow_name(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> str | None:
        """Override it to choose the name of a call in logs; None: the task's own."""
        return None

    def AsyncResult(self, task_id: str, **kwargs: Any) -> Result[R]:  # noqa: N802 - Celery's name
        """Return the result of this task's call ``task_id``."""
        return later.AsyncResult(task_id, app=self.app, **kwargs)

    @classmethod
    def on_bound(cls, app: Celery) -> None:
        """Called when the task is attached to an app; for subclasses."""

    def annotate(self) -> None:
        """Set the attributes that the app's ``task_annotations`` name for this task, on its class.

        ``@method`` names one that the value, a decorator, is put around (see add_around). What is set later
        by assignment wins.
        """
        cls: type[Task[..., Any]] = type(self)
        for name, value in later.annotations_of(self.app.annotations, self).items():
            if name.startswith("@"):
                cls.add_around(name[1:], value)
            else:
                setattr(cls, name, value)
        cls._note_overrides()
        self.__dict__["_plan"] = self.__dict__["_run_plan"] = None

    @classmethod
    def add_around(cls, attr: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Replace a method by what the decorator ``around`` makes of it; done twice it counts once."""
        method = getattr(cls, attr)
        method = getattr(method, "_emq_inner", method)
        wrapped: Any = around(method)
        wrapped._emq_inner = method
        defined = next(vars(base)[attr] for base in cls.__mro__ if attr in vars(base))
        static = isinstance(defined, staticmethod)
        setattr(cls, attr, staticmethod(wrapped) if static else wrapped)

    def bind(self, app: Celery) -> Celery:
        """Attach the task to an app; returns the app."""
        self._app = app
        self.on_bound(app)
        return app

    def __emq_run__(self, job: Job, delivery: Delivery, report: Report) -> Outcome:
        """Run for a job manager that found this task by its path (emq_compat.run.Runnable)."""
        app = self.app
        request = later.request_of(self.name, job, delivery, app.hostname, accept=app.conf.accept_content)
        return later.execute(self, request, delivery, report)

    def __reduce__(self) -> tuple[Any, ...]:
        return unpickle_task, (self.name, self.__module__)

    def __repr__(self) -> str:
        return f"<@task: {self.name or None} of {self.app.main or '__main__'} at {id(self.app):#x}>"


def unpickle_task(name: str, module: str | None = None) -> Task[..., Any]:
    """Return the current app's task of this name, importing its module if it isn't registered yet."""
    app = current.get_app()
    if module and name not in app.tasks:
        __import__(module)
    return app.tasks[name]


def _takes_everything(*args: Any, **kwargs: Any) -> None:
    """The signature of a body that can't be had, or that takes any arguments."""
