"""The mapping between a task and the importable path that a stock job manager runs it by.

Our own workers find a task by its registered name; the path in the message is for everybody else, who does
``getattr(import_module(path), callable)(*args, **kwargs)``, or the same on an instance of a class.

| the task | its path |
| --- | --- |
| a module's attribute (a decorated function, ``add = app.register_task(Add())``) | that module, that attribute |
| declared while a module is imported, but not one of its attributes, or hidden by something else: a method, made in a loop or a factory, decorated once more, a class-based task | ``emq_compat.shim.paths:ByName`` with class_args ``[module, task name]``: it imports the module and takes the task from the registry |
| declared in ``__main__`` | as the two above, with the module's importable name: of ``python -m pkg.mod`` that is ``pkg.mod``; of a script, the app's name, which Celery takes for the module's too |
| declared in ``__main__`` of a nameless app, or at run time (inside a function that no import calls) | none: NoImportablePath when it is published to a stock router |

A task without a path can still be published to our own broker: a worker that has registered its name runs it.
"""  # noqa: E501 - a table

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from emq_compat.shim import current
from emq_compat.shim.exceptions import NoImportablePath

if TYPE_CHECKING:
    from emq_compat.shim.task import Task

__all__ = ["ByName", "TaskPath", "path_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPath:
    """Where a stock job manager finds a task; ``settled`` is False while its module is being imported."""

    path: str
    callable: str
    class_args: tuple[str, ...] = ()
    settled: bool = True


class ByName:
    """Reaches a task that is registered by importing ``module``, but isn't an attribute of it."""

    def __init__(self, module: str, name: str) -> None:
        importlib.import_module(module)
        self.task = current.task_by_name(name)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the task."""
        return self.task(*args, **kwargs)


def path_of(task: Task[..., Any]) -> TaskPath:
    """Return the path of a task, by the table above.

    Raises:
        NoImportablePath: it has none; the message says why and what to do.
    """
    home = task.__module__
    module = sys.modules.get(home)
    importable = _importable(task, home)
    if importable is not None and module is not None:
        attribute = _attribute(module, task)
        if attribute is not None:
            return TaskPath(path=importable, callable=attribute)
        name = getattr(task, "__qualname__", task.__name__)
        if _being_imported(module) and name.isidentifier():
            return TaskPath(path=importable, callable=name, settled=False)
    declared = task.declared_in
    importable = _importable(task, declared) if declared is not None else None
    if importable is None:
        raise NoImportablePath(
            f"task {task.name} has no importable path: it was declared in {declared or home}"
            + (" of an app without a name" if declared == "__main__" else ", but not by importing it")
            + "; declare it at the top level of a module that workers can import"
        )
    by_name = f"{ByName.__module__}:{ByName.__qualname__}"
    return TaskPath(path=by_name, callable="run", class_args=(importable, task.name))


def _importable(task: Task[..., Any], module: str) -> str | None:
    """Return the name under which other processes import ``module``; None: there is none."""
    if module != "__main__":
        return module if module in sys.modules or _can_be_found(module) else None
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None and spec.name:
        return str(spec.name)
    main = task.app.main
    return main if main and task.name.startswith(main + ".") else None


def _can_be_found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # its package is missing; it is no module's name at all
        return False


def _attribute(module: ModuleType, task: Task[..., Any]) -> str | None:
    """Return the name of the module's attribute that is the task."""
    names = vars(module)
    own = task.__name__
    if names.get(own) is task:
        return own
    return next((name for name, value in names.items() if value is task and not name.startswith("_")), None)


def _being_imported(module: ModuleType) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))
