"""``celery.app.defaults``: the settings as Celery's tree of options."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from emq_compat.shim.settings_table import SETTINGS

__all__ = ["DEFAULTS", "NAMESPACES", "OLD_NS", "Option", "find", "flatten"]

_KINDS = {"flag": "bool", "number": "float", "text": "string", "list": "tuple", "mapping": "dict"}


class Option:
    """One setting: its default, its type and its former names."""

    alt = None
    deprecate_by = None
    remove_by = None
    type: str

    def __init__(self, default: Any = None, *args: Any, **kwargs: Any) -> None:
        self.default = default
        self.type = kwargs.pop("type", "string")
        self.old: set[str] = set(kwargs.pop("old", ()))
        for name, value in kwargs.items():
            setattr(self, name, value)

    def to_python(self, value: Any) -> Any:
        """Return a setting that was given as text, as its type."""
        if not isinstance(value, str):
            return value
        if self.type == "bool":
            return value.lower() in ("1", "true", "yes", "on")
        if self.type == "float":
            return float(value)
        return tuple(value.split(",")) if self.type == "tuple" else value

    def __repr__(self) -> str:
        return f"<Option: type->{self.type} default->{self.default!r}>"


class _Found(NamedTuple):
    """Where a setting stands: its group, its name in it, and the option, or the group's options."""

    namespace: str
    key: str
    option: Any


def _tree() -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, (default, kind, old) in SETTINGS.items():
        group, _, rest = name.partition("_")
        option = Option(default, type=_KINDS.get(kind, "any"), old={old} if old else ())
        if rest and sum(other.startswith(f"{group}_") for other in SETTINGS) > 1:
            tree.setdefault(group, {})[rest] = option
        else:
            tree[name] = option
    return tree


#: Group → name → Option; a setting that stands alone is an Option at the top.
NAMESPACES: dict[str, Any] = _tree()
#: Prefixes that old names had.
OLD_NS = {"celery_{0}"}
#: Name → default.
DEFAULTS: dict[str, Any] = {name: row[0] for name, row in SETTINGS.items()}


def flatten(d: Mapping[str, Any], root: str = "", keyfilter: Any = None) -> Iterator[tuple[str, Any]]:
    """Yield whole name and Option of every setting in a tree."""
    left: deque[tuple[str, Mapping[str, Any]]] = deque([(root, d)])
    while left:
        prefix, options = left.popleft()
        for name, option in options.items():
            if isinstance(option, Mapping):
                left.append((f"{prefix}{name}_", option))
            else:
                whole = f"{prefix}{name}"
                yield from keyfilter(prefix, name, option) if keyfilter else ((whole, option),)


def find(name: str, namespace: str = "celery") -> _Found:
    """Return where a setting stands, by any of its names; raises KeyError."""
    lowered = name.lower()
    for whole, option in flatten(NAMESPACES):
        if lowered == whole or name.upper() in option.old:
            group, _, rest = whole.partition("_")
            return _Found(group, rest, option) if group in NAMESPACES else _Found("", whole, option)
    if lowered in NAMESPACES:
        return _Found(lowered, lowered, NAMESPACES[lowered])
    raise KeyError(name)
