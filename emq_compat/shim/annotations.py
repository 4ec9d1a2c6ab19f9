"""The setting ``task_annotations``: attributes of tasks that the configuration changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from emq_compat.shim.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from emq_compat.shim.attributes import Attributes

__all__ = ["annotations_of", "sources_of"]


def annotations_of(setting: Any, task: Attributes) -> dict[str, Any]:
    """Return what ``task_annotations`` says of a task: attribute → value, ``@method`` → decorator.

    Args:
        setting: a dict of task name (``*``: any task) → attributes, an object with ``annotate(task)`` and
            ``annotate_any()`` that return such attributes or None, its importable name, or a list of these.
            A task's own name counts before ``*``, what stands first in a list before what follows.

    Raises:
        ImproperlyConfigured: it is something else, or can't be imported.
    """
    found: dict[str, Any] = {}
    for source in reversed(list(sources_of(setting))):
        for attributes in _both(source, task):
            found.update(attributes or {})
    return found


def sources_of(setting: Any) -> Iterator[Any]:
    """Return what the setting names: mappings, and objects with annotate()."""
    if setting is None:
        return
    for source in setting if isinstance(setting, (list, tuple)) else (setting,):
        yield _imported(source) if isinstance(source, str) else source


def _both(source: Any, task: Attributes) -> tuple[Any, Any]:
    """Return what holds for every task, then what holds for this one."""
    if isinstance(source, Mapping):
        return source.get("*"), source.get(task.name)
    of_any, of_one = getattr(source, "annotate_any", None), getattr(source, "annotate", None)
    if of_any is None and of_one is None:
        raise ImproperlyConfigured(f"task_annotations: {source!r} is no dict and has no annotate()")
    return of_any and of_any(), of_one and of_one(task)


def _imported(name: str) -> Any:
    """Return an instance of the class that ``pkg.module.Class`` (or ``pkg.module:Class``) names."""
    module, _, attribute = name.replace(":", ".").rpartition(".")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ImproperlyConfigured(f"task_annotations: {name!r} can't be imported: {exc}") from exc
    return found() if isinstance(found, type) else found
