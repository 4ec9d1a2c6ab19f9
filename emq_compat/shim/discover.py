"""Importing packages' ``tasks`` modules."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import TypeAlias

__all__ = ["Packages", "import_related"]

#: Names of packages, or a function that gives them when they are to be imported.
Packages: TypeAlias = Iterable[str] | Callable[[], Iterable[str]]

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
