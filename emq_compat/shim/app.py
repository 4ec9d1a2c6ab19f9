"""Celery: the application: its settings, its tasks, its connection to the broker."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, overload

from emq_compat.shim import current, declare
from emq_compat.shim.canvas.signature import signature
from emq_compat.shim.discover import Packages, TaskModules
from emq_compat.shim.exceptions import CeleryWarning
from emq_compat.shim.paths import declaring_module
from emq_compat.shim.registry import TaskRegistry, task_name
from emq_compat.shim.result import AsyncResult as Result
from emq_compat.shim.result import GroupResult as ResultOfGroup
from emq_compat.shim.result import ResultSet as SetOfResults
from emq_compat.shim.sender import Sender
from emq_compat.shim.settings_source import NEW_NAMES
from emq_compat.shim.settings_table import SETTINGS
from emq_compat.shim.task import Task as BaseTask

if TYPE_CHECKING:
    from emq_compat.shim.log import Logging

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


class Celery(Sender):
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
        config_source_silent: bool = False,
        **kwargs: Any,
    ) -> None:
        self._warn_of_unknown(kwargs)
        given = {"broker_url": broker, "result_backend": backend, "include": include}
        given |= {name: value for name, value in kwargs.items() if name not in _PARTS}
        super().__init__(
            {**(changes or {}), **{name: value for name, value in given.items() if value is not None}},
            config_source,
            namespace,
            silent=config_source_silent,
        )
        self._tasks = tasks if tasks is not None else TaskRegistry()
        self.main = main
        self._task_base = task_cls
        self._log: Logging | None = None
        self._task_modules = TaskModules()
        self._has_builtins = False
        #: The node name that its tasks see in ``request.hostname``; a worker sets its own.
        self.hostname = f"celery@{os.uname().nodename}"
        declare.share_with(self)
        if set_as_current:
            self.set_current()

    def AsyncResult(self, id: str, **kwargs: Any) -> Result[Any]:  # noqa: A002, N802 - Celery's names
        """Return the result of a task by its id."""
        return Result(id, app=self, **kwargs)

    def GroupResult(  # noqa: N802 - Celery's name
        self, id: str | None = None, *args: Any, **kwargs: Any  # noqa: A002
    ) -> ResultOfGroup:
        """Return the result of a group: its id, and those of its members."""
        return ResultOfGroup(id, *args, app=self, **kwargs)

    def ResultSet(self, results: Iterable[Any] | None = None, **kwargs: Any) -> SetOfResults:  # noqa: N802
        """Return results as one."""
        return SetOfResults(results, app=self, **kwargs)

    @property
    def tasks(self) -> TaskRegistry:
        """The registered tasks by name, the builtin ones included."""
        if not self._has_builtins:
            self._has_builtins = True
            from emq_compat.shim.canvas.builtin import register  # noqa: PLC0415 - it makes tasks of an app

            register(self)
        return self._tasks

    def signature(self, *args: Any, **kwargs: Any) -> Any:
        """Return a signature that this app sends; arguments are those of canvas.signature."""
        return signature(*args, app=self, **kwargs)

    subtask = signature

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

    def problems(self) -> list[str]:
        """Return a line for each setting, route and task that won't do what its author thinks."""
        return [*self.conf.problems(), *self.amqp.router.routes.problems(), *self.tasks.problems()]

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
            if name not in _PARTS and name not in SETTINGS and name not in NEW_NAMES:
                warnings.warn(CeleryWarning(f"Celery() has no argument {name!r}"), stacklevel=3)

    def set_current(self) -> None:
        """Make this the current app of this thread."""
        current.set_app(self)

    def set_default(self) -> None:
        """Make this the current app of every thread that has none of its own."""
        current.set_default_app(self)

    @property
    def log(self) -> Logging:
        """Sets up the logging of this process."""
        if self._log is None:
            from emq_compat.shim.log import Logging  # noqa: PLC0415 - it imports multiprocessing

            self._log = Logging(self)
        return self._log

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
