"""``celery.utils.imports``."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from emq_compat.shim.registry import task_name

__all__ = [
    "NotAPackage",
    "cwd_in_path",
    "find_module",
    "gen_task_name",
    "import_from_cwd",
    "instantiate",
    "load_extension_class_names",
    "load_extension_classes",
    "module_file",
    "qualname",
    "reload_from_cwd",
    "symbol_by_name",
]


class NotAPackage(Exception):
    """Submodules were asked of a module that isn't a package."""


def qualname(obj: Any) -> str:
    """Return ``module.name`` of a class or function, or of an object's class."""
    if not hasattr(obj, "__name__") and hasattr(obj, "__class__"):
        obj = obj.__class__
    name = getattr(obj, "__qualname__", None) or obj.__name__
    return name if "." in obj.__name__ else f"{obj.__module__}.{name}"


def symbol_by_name(
    name: Any,
    aliases: Mapping[str, str] | None = None,
    imp: Callable[[str], ModuleType] | None = None,
    package: str | None = None,
    sep: str = ".",
    default: Any = None,
    **kwargs: Any,
) -> Any:
    """Return the object that ``module:attribute`` or ``module.attribute`` names; what isn't text as it is.

    Args:
        aliases: short names.
        imp: the function that imports a module.
        default: what to return where it isn't found; without one the error is raised.

    Raises:
        ImportError, AttributeError: there is no such module, or no such attribute in it.
    """
    if not isinstance(name, str):
        return name
    name = (aliases or {}).get(name) or name
    module_name, _, attribute = name.partition(":") if ":" in name else name.rpartition(sep)
    if not module_name:
        module_name, attribute = (package or attribute), (attribute if package else "")
    try:
        module = imp(module_name) if imp else importlib.import_module(module_name, package)
        value: Any = module
        for part in attribute.split(".") if attribute else ():
            value = getattr(value, part)
        return value
    except (ImportError, AttributeError):
        if default is None:
            raise
    return default


def instantiate(name: Any, *args: Any, **kwargs: Any) -> Any:
    """Return an object of the class that a name stands for."""
    return symbol_by_name(name)(*args, **kwargs)


@contextmanager
def cwd_in_path() -> Iterator[None]:
    """Have the current directory on the import path during the block."""
    cwd = os.getcwd()
    if cwd in sys.path:
        yield
        return
    sys.path.insert(0, cwd)
    try:
        yield
    finally:
        if cwd in sys.path:
            sys.path.remove(cwd)


def find_module(module: str, path: str | None = None, imp: Callable[[str], Any] | None = None) -> Any:
    """Import a module, looked for in the current directory, too.

    Raises:
        NotAPackage: ``a.b`` was asked for and ``a`` is no package.
        ImportError: there is none.
    """
    with cwd_in_path():
        try:
            return (imp or importlib.import_module)(module)
        except ImportError:
            parent = module.rpartition(".")[0]
            if parent and not hasattr(importlib.import_module(parent), "__path__"):
                raise NotAPackage(f"{parent} is a module, not a package") from None
            raise


def import_from_cwd(
    module: str, imp: Callable[[str], ModuleType] | None = None, package: str | None = None
) -> ModuleType:
    """Import a module with the current directory on the import path."""
    with cwd_in_path():
        return imp(module) if imp else importlib.import_module(module, package)


def reload_from_cwd(
    module: ModuleType, reloader: Callable[[ModuleType], ModuleType] | None = None
) -> ModuleType:
    """Load a module again, with the current directory on the import path."""
    with cwd_in_path():
        return (reloader or importlib.reload)(module)


def module_file(module: ModuleType) -> str:
    """Return the file of a module's source."""
    name = module.__file__ or ""
    return name[:-1] if name.endswith(".pyc") else name


def gen_task_name(app: Any, name: str, module_name: str | None) -> str:
    """Return the name of a task that is declared without one."""
    return task_name(getattr(app, "main", None), name, module_name)


def load_extension_class_names(namespace: str) -> Iterator[tuple[str, str]]:
    """Yield name and value of the entry points of a group."""
    for point in entry_points(group=namespace):
        yield point.name, point.value


def load_extension_classes(namespace: str) -> Iterator[tuple[str, Any]]:
    """Yield name and object of the entry points of a group; one that can't be imported is warned about."""
    for name, value in load_extension_class_names(namespace):
        try:
            found = symbol_by_name(value)
        except (ImportError, SyntaxError) as exc:
            warnings.warn(f"Cannot load {namespace} extension {value!r}: {exc!r}", stacklevel=2)
        else:
            yield name, found
