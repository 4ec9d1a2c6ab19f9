"""Celery: the application: its settings, its tasks, its connection to the broker."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timezone
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, overload

from emq_compat.address import DEFAULT_URL
from emq_compat.client import Client, client_for
from emq_compat.message import Publish
from emq_compat.shim import current, declare
from emq_compat.shim.build import Plan, build_with
from emq_compat.shim.discover import Packages, TaskModules
from emq_compat.shim.exceptions import (
    AlwaysEagerIgnored,
    CeleryWarning,
    ImproperlyConfigured,
    NoImportablePath,
)
from emq_compat.shim.options import priority_of, queue_name, read_options
from emq_compat.shim.paths import TaskPath, declaring_module, path_of
from emq_compat.shim.pipeline import Pipeline, Publisher, pipeline_of, publish_with_tries
from emq_compat.shim.registry import TaskRegistry, task_name
from emq_compat.shim.result import AsyncResult as Result
from emq_compat.shim.settings import Settings
from emq_compat.shim.task import Task as BaseTask

__all__ = ["Celery"]

P = ParamSpec("P")
R = TypeVar("R")

#: Arguments of Celery's Celery that choose parts which aren't made of classes here.
_PARTS = frozenset(
    {
        "amqp", "autofinalize", "broker_connection_retry", "control", "events", "fixups", "loader", "log",
        "strict_typing",
    }
)  # fmt: skip


class Celery:
    """An application.

    Args:
        main: its name; it is the module's name, too, for tasks declared in ``__main__``.
        broker, backend: URLs; the settings broker_url and result_backend, where those say nothing else.
        include: modules with tasks that a worker imports.
        changes: settings.
        config_source, namespace: as for config_from_object.
        task_cls: the base class of its tasks.
        set_as_current: make it ``current_app``.
        tasks: a registry to use.
        kwargs: Celery's further arguments have no effect; a name that isn't one of them is warned about.
    """

    def __init__(
        self,
        main: str | None = None,
        *,
        broker: str | Sequence[str] | None = None,
        backend: str | None = None,
        include: Sequence[str] | str | None = None,
        changes: Mapping[str, Any] | None = None,
        config_source: Any = None,
        namespace: str | None = None,
        task_cls: type[BaseTask[..., Any]] | None = None,
        set_as_current: bool = True,
        tasks: TaskRegistry | None = None,
        **kwargs: Any,
    ) -> None:
        self._warn_of_unknown(kwargs)
        self.main = main
        self.namespace = namespace
        base: dict[str, Any] = {
            name: value
            for name, value in (("broker_url", broker), ("result_backend", backend), ("include", include))
            if value is not None
        }
        self._conf = Settings(base)
        if changes:
            self._conf.update(changes)
        self._pending_source = config_source
        self._task_base = task_cls
        self._tasks = tasks if tasks is not None else TaskRegistry()
        self._plans: dict[str, Plan] = {}
        self._client: Publisher | None = None
        self._client_is_given = False
        self._seen_version = -1
        self._connection: tuple[object, ...] = ()
        self._eager = False
        self._retry_policy: Mapping[str, Any] | None = None
        self._task_modules = TaskModules()
        #: The node name that its tasks see in ``request.hostname``; a worker sets its own.
        self.hostname = f"celery@{os.uname().nodename}"
        declare.share_with(self)
        if set_as_current:
            self.set_current()

    @property
    def conf(self) -> Settings:
        """The settings; what config_from_object named is read when they are first asked for."""
        if self._pending_source is not None:
            source, self._pending_source = self._pending_source, None
            self._conf.load(source, self.namespace)
        return self._conf

    def config_from_object(
        self, obj: Any, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> None:
        """Take settings from an object, a mapping, or a module by name (``pkg.mod``, ``pkg.mod:attribute``).

        Read when first asked for, or now with ``force``. With a namespace only names that begin with it
        count: ``CELERY_TASK_ROUTES``. ``silent`` lets the module be missing.
        """
        if namespace is not None:
            self.namespace = namespace
        if silent and isinstance(obj, str):
            try:
                importlib.import_module(obj.partition(":")[0])
            except ImportError:
                return
        self._pending_source = obj
        if force:
            _ = self.conf

    def config_from_envvar(self, variable_name: str, silent: bool = False, force: bool = False) -> bool:
        """Take settings from the module that an environment variable names; returns whether it names one."""
        module = os.environ.get(variable_name)
        if not module:
            if silent:
                return False
            raise ImproperlyConfigured(f"the environment variable {variable_name} is not set")
        self.config_from_object(module, silent=silent, force=force)
        return True

    def _refresh(self) -> None:
        """Take over what depends on settings that have changed."""
        conf = self.conf
        if conf.version == self._seen_version:
            return
        self._seen_version = conf.version
        self._eager = bool(conf.task_always_eager)
        self._retry_policy = None
        if "task_publish_retry_policy" in conf.changes and conf.task_publish_retry:
            self._retry_policy = conf.task_publish_retry_policy
        connection = (self.broker_url, conf.broker_connection_timeout, conf.broker_pool_limit)
        if connection != self._connection:
            self._connection = connection
            if not self._client_is_given:
                self._client = None

    @property
    def broker_url(self) -> str:
        """Where tasks are published: Celery's environment variable, the settings, then EMQ_BROKER_ADDR."""
        conf, environ = self.conf, os.environ
        url = (
            environ.get("CELERY_BROKER_WRITE_URL")
            or conf.broker_write_url
            or environ.get("CELERY_BROKER_URL")
            or conf.broker_url
            or environ.get("EMQ_BROKER_ADDR")
            or DEFAULT_URL
        )
        return url if isinstance(url, str) else ";".join(url)

    @property
    def eager(self) -> bool:
        """Whether delay() runs tasks here (task_always_eager)."""
        self._refresh()
        return self._eager

    @property
    def client(self) -> Publisher:
        """The connection to the broker; set it to use another one (a test's)."""
        self._refresh()
        if self._client is None:
            url, conf = self.broker_url, self.conf
            if "broker_connection_timeout" in conf.changes or "broker_pool_limit" in conf.changes:
                limit_s = conf.broker_connection_timeout or 4.0
                self._client = Client(url, timeout_s=limit_s, pool_limit=conf.broker_pool_limit or 0)
            else:
                self._client = client_for(url)
        return self._client

    @client.setter
    def client(self, client: Publisher | None) -> None:
        self._client = client
        self._client_is_given = client is not None
        self._plans.clear()
        self.conf.touch()

    @property
    def stock(self) -> bool:
        """Whether the broker is a stock eventmq router, which confirms nothing and keeps no results."""
        return self.client.stock

    @property
    def retry_policy(self) -> Mapping[str, Any] | None:
        """How often a publish is tried beyond what the client does by itself (task_publish_retry_policy)."""
        self._refresh()
        return self._retry_policy

    def tries(self, options: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the retry policy of a publish with these options: ``retry`` and ``retry_policy``."""
        if not options.get("retry", True):
            return None
        return options.get("retry_policy") or self.retry_policy

    def publish(self, message: Publish, retry_policy: Mapping[str, Any] | None = None) -> None:
        """Publish a message, or have the open pipeline collect it.

        Raises:
            OperationalError: not confirmed in time, or refused; it is kombu's OperationalError, too.
        """
        client = self.client
        pipeline = pipeline_of(client)
        if pipeline is not None:
            pipeline.add(message)
        else:
            publish_with_tries(client, message, retry_policy)

    def pipeline(self) -> Pipeline:
        """Return a context manager: what is published inside is confirmed as a whole when it ends."""
        return Pipeline(self.client)

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Result[Any]:
        """Publish a call of a task by its name, which need not be registered here.

        Options and errors are those of Task.apply_async.
        """
        if self.eager:
            warnings.warn(AlwaysEagerIgnored("send_task publishes even with task_always_eager"), stacklevel=2)
        plan = self._plans.get(name)
        if plan is None or plan.version != self.conf.version:
            plan = self._plans[name] = self._plan_by_name(name)
        frame = current.frame_var.get()
        read = read_options(plan, self.conf, options, None if frame is None else frame.request)
        message = build_with(plan, args or (), kwargs or {}, read)
        self.publish(message, self.tries(options))
        result: Result[Any] = (options.get("result_cls") or Result)(
            message.headers.task_id, app=self
        )
        result.ignored = read.ignore_result
        return result

    def _plan_by_name(self, name: str) -> Plan:
        """Return the plan of a task known by its name, which by Celery's rule tells its path, too."""
        module, _, attribute = name.rpartition(".")
        path = TaskPath(path=module or "__main__", callable=attribute or name)
        if name in self._tasks:
            try:
                path = path_of(self._tasks[name])
            except NoImportablePath:
                if self.stock:
                    raise
        return Plan(
            name=name,
            path=path,
            queue=queue_name(self.conf.task_default_queue),
            version=self.conf.version,
            stock=self.stock,
            priority=priority_of(self.conf.task_default_priority or 0),
            ignore_result=bool(self.conf.task_ignore_result),
            keeps_errors=bool(self.conf.task_store_errors_even_if_ignored),
        )

    def AsyncResult(self, id: str, **kwargs: Any) -> Result[Any]:  # noqa: A002, N802 - Celery's names
        """Return the result of a task by its id."""
        return Result(id, app=self, **kwargs)

    @property
    def tasks(self) -> TaskRegistry:
        """The registered tasks by name."""
        return self._tasks

    @property
    def Task(self) -> type[BaseTask[..., Any]]:  # noqa: N802 - Celery's name
        """The base class of this app's tasks."""
        if self._task_base is None:
            self._task_base = self.create_task_cls()
        return self._task_base

    @Task.setter
    def Task(self, base: type[BaseTask[..., Any]]) -> None:  # noqa: N802
        self._task_base = base

    def create_task_cls(self) -> type[BaseTask[..., Any]]:
        """Return a Task class that belongs to this app."""
        return type("Task", (BaseTask,), {"_app": self, "__module__": BaseTask.__module__})

    @overload
    def task(self, fun: Callable[P, R], /) -> BaseTask[P, R]: ...
    @overload
    def task(
        self, *, bind: Literal[True], **options: Any
    ) -> Callable[[Callable[Concatenate[Any, P], R]], BaseTask[P, R]]: ...
    @overload
    def task(
        self, *, bind: Literal[False] = ..., **options: Any
    ) -> Callable[[Callable[P, R]], BaseTask[P, R]]: ...
    def task(self, *args: Any, **options: Any) -> Any:
        """Make a task of a function: ``@app.task`` or ``@app.task(name=…, bind=True, …)``.

        Options are the attributes of Task; ``bind`` passes the task as the first argument, ``base`` is its
        base class.

        Raises:
            TypeError: it was given something else than one function.
        """
        if not args:
            return lambda fun: declare.task_of(self, fun, options)
        if len(args) > 1 or not callable(args[0]):
            raise TypeError("@app.task takes one function, or keyword options")
        return declare.task_of(self, args[0], options)

    def register_task(self, task: BaseTask[P, R] | type[BaseTask[P, R]], **options: Any) -> BaseTask[P, R]:
        """Add a class-based task: an instance, or the class, of which one is made."""
        instance = task() if isinstance(task, type) else task
        if not instance.name:
            cls: type = type(instance)
            instance.name = self.gen_task_name(cls.__name__, cls.__module__)
        instance.declared_in = declaring_module()
        instance.bind(self)
        self._tasks[instance.name] = instance
        return instance

    def gen_task_name(self, name: str, module: str | None) -> str:
        """Return the name of a task that is declared without one; override it to change the rule."""
        return task_name(self.main, name, module)

    @property
    def current_task(self) -> BaseTask[..., Any] | None:
        """The task that is running here."""
        frame = current.frame_var.get()
        return frame.task if frame is not None else None

    def autodiscover_tasks(
        self,
        packages: Packages | None = None,
        related_name: str | None = "tasks",
        force: bool = False,
    ) -> None:
        """Have ``PACKAGE.tasks`` of each package imported when the app is finalized, or now with ``force``.

        A package without such a module is passed over; an error inside one is not.
        """
        self._task_modules.add(packages or (), related_name)
        if force:
            self._task_modules.import_all()

    def finalize(self, auto: bool = False) -> None:
        """Import what registers tasks: the settings ``imports`` and ``include``, and discovered packages.

        Raises:
            Exception: what importing one of them raises.
        """
        conf = self.conf
        for setting in (conf.imports, conf.include):
            for module in [setting] if isinstance(setting, str) else setting or ():
                importlib.import_module(module)
        self._task_modules.import_all()

    @staticmethod
    def _warn_of_unknown(given: Collection[str]) -> None:
        for name in given:
            if name not in _PARTS:
                warnings.warn(CeleryWarning(f"Celery() has no argument {name!r}"), stacklevel=3)

    def set_current(self) -> None:
        """Make this the current app of this thread."""
        current.set_app(self)

    def set_default(self) -> None:
        """Make this the current app of every thread that has none of its own."""
        current.set_default_app(self)

    def now(self) -> datetime:
        """Return the time now, in UTC."""
        return datetime.now(timezone.utc)

    def close(self) -> None:
        """Close the connection to the broker; a later call opens a new one."""
        close = getattr(self._client, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Celery:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.main or '__main__'}:{id(self):#x}>"


current.set_fallback(lambda: Celery("default", set_as_current=False))
