"""Importing what registers tasks: the modules that settings name, and packages' ``tasks`` modules."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import TypeAlias

__all__ = ["Packages", "TaskModules"]

#: Names of packages, or a function that gives them when they are to be imported.
Packages: TypeAlias = Iterable[str] | Callable[[], Iterable[str]]


class TaskModules:
    """The packages whose modules with tasks are still to be imported."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Packages, str | None]] = []

    def add(self, packages: Packages, related_name: str | None) -> None:
        """Note packages, and the name of their module with tasks (None: the packages themselves)."""
        self._waiting.append((packages, related_name))

    def import_all(self) -> None:
        """Import them, once; raises what importing one of them raises."""
        while self._waiting:
            packages, related_name = self._waiting.pop(0)
            for package in packages() if callable(packages) else packages:
                import_related(package, related_name)


def import_related(package: str, related_name: str | None) -> ModuleType | None:
    """Import ``PACKAGE.RELATED_NAME`` if there is one, and return it; without a name, the package itself.

    ``package`` may be a class in a package (Django's ``shop.apps.ShopConfig``).

    Raises:
        ModuleNotFoundError: there is no such package, or one of them imports a module that is missing.
        Exception: whatever else importing them raises.
    """
    try:
        found = importlib.import_module(package)
    except ModuleNotFoundError as exc:
        holder = package.rpartition(".")[0]
        if not holder or exc.name != package:
            raise
        found = importlib.import_module(holder)
        if not hasattr(found, package.rpartition(".")[2]):
            raise
        package = found.__package__ or holder
    if related_name is None:
        return found
    module = f"{package}.{related_name}"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as exc:
        if exc.name != module:
            raise
        return None
