"""Objects by their dotted path, as settings name them: ``pkg.mod:attribute`` or ``pkg.mod.attribute``."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["instantiate", "symbol_by_name"]


def symbol_by_name(name: Any) -> Any:
    """Return what a path leads to; anything but a text is returned as it is.

    Raises:
        ImportError, AttributeError: it leads nowhere.
    """
    if not isinstance(name, str):
        return name
    module_name, colon, attribute = name.partition(":")
    if not colon:
        module_name, _, attribute = name.rpartition(".")
    if not module_name:
        return importlib.import_module(attribute)
    found: Any = importlib.import_module(module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise AttributeError(f"{name!r}: {module_name} has no {attribute!r}")
        found = getattr(found, part)
    return found


def instantiate(name: Any, *args: Any, **kwargs: Any) -> Any:
    """Return an instance of the class that a path, or the argument itself, is."""
    return symbol_by_name(name)(*args, **kwargs)
