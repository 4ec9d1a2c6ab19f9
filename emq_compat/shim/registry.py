"""The registered tasks: name → task, Celery's rules for names, and which module declares one."""

from __future__ import annotations

import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

from emq_compat.shim.exceptions import NotRegistered

if TYPE_CHECKING:
    from emq_compat.shim.task import Task

__all__ = ["TaskRegistry", "declaring_module", "nearest", "task_name"]


def task_name(main: str | None, name: str, module: str | None) -> str:
    """Return the name of a task that is declared without one (Celery's gen_task_name).

    ``module.function``, but for the module ``__main__`` of an app that has a name: ``app-name.function``.
    """
    module = module or "__main__"
    loaded = sys.modules.get(module)
    if loaded is not None:
        module = loaded.__name__
    if module == "__main__" and main:
        return f"{main}.{name}"
    return f"{module}.{name}"


def declaring_module() -> str | None:
    """Return the name of the module whose import is declaring a task now; None: no import is."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            name = frame.f_globals.get("__name__")
            return name if isinstance(name, str) else None
        frame = frame.f_back
    return None


class TaskRegistry(dict[str, "Task[..., Any]"]):
    """An app's tasks by name. Looking up an unknown name raises NotRegistered, a KeyError."""

    NotRegistered = NotRegistered

    def __missing__(self, name: str) -> Task[..., Any]:
        raise self.NotRegistered(name)

    def register(self, task: Task[..., Any] | type[Task[..., Any]]) -> None:
        """Add a task, or an instance of a task class, under its name."""
        instance = task() if isinstance(task, type) else task
        if not instance.name:
            cls: type = type(instance)
            instance.name = task_name(None, cls.__name__, cls.__module__)
        self[instance.name] = instance

    def unregister(self, name: str | Task[..., Any]) -> None:
        """Remove a task by its name or itself; raises NotRegistered."""
        key = name if isinstance(name, str) else name.name
        try:
            del self[key]
        except KeyError:
            raise self.NotRegistered(key) from None

    def own(self) -> list[str]:
        """Return the names of the project's tasks: without those that every app has."""
        return [name for name in self if not name.startswith(("celery.", "emq_compat."))]

    def regular(self) -> dict[str, Task[..., Any]]:
        """Return the tasks by name."""
        return dict(self)

    def filter_types(self, type_: str) -> dict[str, Task[..., Any]]:
        """Return the tasks whose ``type`` is this one; all are ``regular`` but those that say otherwise."""
        return {name: task for name, task in self.items() if getattr(task, "type", "regular") == type_}


def nearest(name: str, known: TaskRegistry, count: int = 3) -> list[str]:
    """Return registered names that look like ``name``, for the log; the same last part comes first."""
    import difflib  # noqa: PLC0415 - for mistakes only

    tail = name.rpartition(".")[2]
    same = [other for other in known if other.rpartition(".")[2] == tail]
    return [*same, *(n for n in difflib.get_close_matches(name, known, n=count) if n not in same)][:count]
