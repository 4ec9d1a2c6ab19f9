"""Frozen dataclasses that are made quickly: for the values of which each message needs several."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, TypeVar

__all__ = ["quickly_made"]

C = TypeVar("C", bound=type)


def quickly_made(cls: C) -> C:
    """Give a frozen dataclass with slots (its own or its base's) an ``__init__`` of plain assignments.

    The one that dataclass writes sets each field through ``object``, because the class refuses assignments;
    that takes two to three times as long. This one has the object be, while it is filled, of a class with the
    same slots that refuses none: the equal layout allows that ``__class__`` is assigned. Arguments, by
    keyword only, and defaults are those of the dataclass, which can have no ``__post_init__``.
    """
    slots = cls.__dict__["__slots__"]
    scope: dict[str, Any] = {
        "_set": object.__setattr__,
        "_closed": cls,
        "_open": type(f"_Open{cls.__name__}", (), {"__slots__": slots}) if slots else cls.__mro__[1],
        "_missing": MISSING,
    }
    arguments, lines = [], []
    for field in fields(cls):
        name = value = field.name
        if field.default_factory is not MISSING:
            scope[f"_new_{name}"] = field.default_factory
            arguments.append(f"{name}=_missing")
            value = f"_new_{name}() if {name} is _missing else {name}"
        elif field.default is not MISSING:
            scope[f"_default_{name}"] = field.default
            arguments.append(f"{name}=_default_{name}")
        else:
            arguments.append(name)
        lines.append(f" self.{name} = {value}\n")
    head = f"def __init__(self, *, {', '.join(arguments)}):\n _set(self, '__class__', _open)\n"
    # The text holds nothing but the names of fields.
    exec(head + "".join(lines) + " self.__class__ = _closed\n", scope)  # noqa: S102 - made of names of fields
    init = scope["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    init.__annotations__ = {**cls.__init__.__annotations__}  # type: ignore[misc]
    init.__module__ = cls.__module__
    cls.__init__ = init  # type: ignore[misc]
    return cls
