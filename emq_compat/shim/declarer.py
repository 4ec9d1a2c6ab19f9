"""The half of an app that has tasks: declaring, finding and registering them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, cast, overload

from emq_compat.shim import current, declare, later
from emq_compat.shim.dispatch import Signal
from emq_compat.shim.registry import TaskRegistry, declaring_module, task_name
from emq_compat.shim.sender import Sender
from emq_compat.shim.symbols import instantiate, symbol_by_name
from emq_compat.shim.task import Task as BaseTask

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery
    from emq_compat.shim.async_task import AsyncTask, BoundDeclaration, Declaration
    from emq_compat.shim.discover import Packages
    from emq_compat.shim.loader import BaseLoader

__all__ = ["Declarer"]

P = ParamSpec("P")
R = TypeVar("R")


class Declarer(Sender):
    """What Celery() has to do with tasks.

    Attributes:
        on_after_finalize: sent once the app is finalized: its builtin tasks are there.
        finalized: whether it is.
        autofinalize: whether using its tasks finalizes it; otherwise it is a RuntimeError before finalize().
        task_cls: the class that its tasks are of, or its dotted path.
        loader_cls, registry_cls: the classes of ``loader`` and ``tasks``, or their dotted paths.
    """

    #: Its name.
    main: str | None = None
    task_cls: Any = BaseTask
    loader_cls: Any = "emq_compat.shim.loader:AppLoader"
    registry_cls: Any = TaskRegistry

    def __init__(
        self,
        changes: Mapping[str, Any],
        config_source: Any,
        namespace: str | None,
        *,
        silent: bool,
        tasks: Any,
        autofinalize: bool,
    ) -> None:
        super().__init__(changes, config_source, namespace, silent=silent)
        if isinstance(tasks, TaskRegistry):
            self._tasks = tasks
        elif isinstance(tasks, (type, str)):
            self._tasks = instantiate(tasks)
        else:
            self._tasks = symbol_by_name(self.registry_cls)(tasks or {})
        self._task_base: type[BaseTask[..., Any]] | None = None
        self._task_is_set = False
        self._loader: BaseLoader | None = None
        self.autofinalize = autofinalize
        self.finalized = False
        self._finalizing = threading.RLock()
        self.on_after_finalize = Signal(name="app.on_after_finalize")
        #: What adapts the app to a framework.
        self.fixup_objects: list[Any] = []

    @property
    def tasks(self) -> TaskRegistry:
        """The registered tasks by name, the builtin ones included; finalizes the app."""
        if not self.finalized:
            self.finalize(auto=True)
        return self._tasks

    def finalize(self, auto: bool = False) -> None:
        """Register the builtin tasks and tell who waits for it (on_after_finalize), once.

        Raises:
            RuntimeError: it is done ``auto``\\ matically, by using the tasks, and ``autofinalize`` is off.
        """
        with self._finalizing:
            if self.finalized:
                return
            self._check_finalized(auto)
            self.finalized = True
            from emq_compat.shim.canvas.builtin import register  # noqa: PLC0415 - it makes tasks of an app

            register(cast("Celery", self))
            for finalizer in list(current.finalizers):
                finalizer(cast("Celery", self))
            self.on_after_finalize.send(sender=self)

    def _check_finalized(self, auto: bool = True) -> None:
        if auto and not self.autofinalize and not self.finalized:
            raise RuntimeError("Contract breach: app not finalized")

    def _refresh(self) -> None:
        self._check_finalized()
        super()._refresh()

    @property
    def loader(self) -> BaseLoader:
        """What imports the modules with tasks; CELERY_LOADER of the environment, where the app names none."""
        if self._loader is None:
            chosen = self.loader_cls
            if chosen == Declarer.loader_cls:
                wanted = os.environ.get("CELERY_LOADER")
                chosen = chosen if wanted in (None, "", "app", "default") else wanted
            self._loader = instantiate(chosen, app=self)
        return self._loader

    def autodiscover_tasks(
        self,
        packages: Packages | None = None,
        related_name: str | None = "tasks",
        force: bool = False,
    ) -> None:
        """Have ``PACKAGE.tasks`` of each package imported when a worker starts, or now with ``force``.

        Without packages they are Django's installed apps. A package without such a module is passed over;
        an error inside one is not.
        """
        if force:
            self.loader.autodiscover_tasks(self.packages_of(packages), related_name)
        else:
            self.loader.discover(packages, related_name)

    def packages_of(self, packages: Packages | None) -> Iterable[str]:
        """Return the names of the packages that autodiscover_tasks was given; None: those of the fix-ups."""
        if packages:
            return packages() if callable(packages) else packages
        finders = [f for f in self.fixup_objects if hasattr(f, "autodiscover_tasks")]
        return [package for fixup in finders for package in fixup.autodiscover_tasks()]

    def of_fixups(self, method: str) -> Any:
        """Return the first fix-up's method of this name; None: none of them has one."""
        found = (getattr(fixup, method, None) for fixup in self.fixup_objects)
        return next((one for one in found if one is not None), None)

    @property
    def base_task_cls(self) -> type[BaseTask[..., Any]]:
        """The class below ``Task``, without an app."""
        return symbol_by_name(self.task_cls)  # type: ignore[no-any-return]

    @property
    def shared_task_cls(self) -> type[BaseTask[..., Any]]:
        """The base class of shared tasks while this app is current: what ``Task`` was set to, if it was."""
        return self._task_base if self._task_is_set and self._task_base else self.base_task_cls

    @property
    def Task(self) -> type[BaseTask[..., Any]]:  # noqa: N802 - Celery's name
        """The base class of this app's tasks; setting it changes those that are declared already, too."""
        if self._task_base is None:
            self._task_base = self.create_task_cls()
        return self._task_base

    @Task.setter
    def Task(self, base: type[BaseTask[..., Any]]) -> None:  # noqa: N802
        self._task_base = base
        self._task_is_set = True
        declare.rebase((task for task in self._tasks.values() if task._app is self), base)
        if current.app_or_none() is self:
            declare.rebase_shared(self)

    def create_task_cls(self) -> type[BaseTask[..., Any]]:
        """Return a Task class that belongs to this app."""
        base = self.base_task_cls
        return type("Task", (base,), {"_app": self, "__module__": base.__module__})

    @overload
    def task(self, fun: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def task(self, fun: Callable[P, R], /) -> BaseTask[P, R]: ...
    @overload
    def task(self, *, bind: Literal[True], **options: Any) -> BoundDeclaration: ...
    @overload
    def task(self, *, bind: Literal[False] = ..., **options: Any) -> Declaration: ...
    def task(self, *args: Any, **options: Any) -> Any:
        """Make a task of a function: ``@app.task`` or ``@app.task(name=…, bind=True, …)``.

        Options are the attributes of Task; ``bind`` passes the task as the first argument, ``base`` is its
        base class.

        Raises:
            TypeError: it was given something else than one function.
        """
        app = cast("Celery", self)
        if not args:
            return lambda fun: declare.task_of(app, fun, options)
        if len(args) > 1 or not callable(args[0]):
            raise TypeError("@app.task takes one function, or keyword options")
        return declare.task_of(app, args[0], options)

    def register_task(self, task: BaseTask[P, R] | type[BaseTask[P, R]], **options: Any) -> BaseTask[P, R]:
        """Add a class-based task: an instance, or the class, of which one is made."""
        instance = task() if isinstance(task, type) else task
        if not instance.name:
            cls: type = type(instance)
            instance.name = self.gen_task_name(cls.__name__, cls.__module__)
        instance.declared_in = declaring_module()
        instance.bind(cast("Celery", self))
        self._tasks[instance.name] = instance
        return instance

    def gen_task_name(self, name: str, module: str | None) -> str:
        """Return the name of a task that is declared without one; override it to change the rule."""
        return task_name(self.main, name, module)

    def type_checker(self, fun: Callable[..., Any], bound: bool = False) -> Callable[..., Any]:
        """Return a function of the same signature that does nothing: it checks arguments."""
        return later.argument_check(fun) or _anything

    @property
    def current_task(self) -> BaseTask[..., Any] | None:
        """The task that is running here."""
        frame = current.frame_var.get()
        return frame.task if frame is not None else None

    @property
    def current_worker_task(self) -> BaseTask[..., Any] | None:
        """The task that a worker runs here, whatever tasks it calls itself."""
        frame = current.frame_var.get()
        while frame is not None and frame.request.called_directly:
            frame = frame.previous
        return frame.task if frame is not None else None


def _anything(*args: Any, **kwargs: Any) -> None:
    """Take any arguments."""
