"""``app.conf``: Celery's settings in lower case, as attributes and as items.

Three layers, the first that has a name wins: what code set (``app.conf.x = …``, ``update``), what
``config_from_object`` read, what was given to ``Celery(broker=…)``; then the defaults of settings_table.
Names that aren't Celery's are kept and readable; ``problems`` tells them.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping, MutableMapping
from copy import copy
from typing import Any

from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.settings_table import NOT_YET, SETTINGS

__all__ = ["Settings", "read_source"]

_OLD_NAMES = {old: name for name, (_, _, old) in SETTINGS.items() if old} | {
    name.upper(): name for name in SETTINGS
}  # fmt: skip

#: How much a module's own name must look like a setting's to be taken for a misspelt one.
_MISSPELT = 0.9

_KINDS: dict[str, tuple[type, ...]] = {
    "flag": (bool,),
    "number": (int, float),
    "text": (str,),
    "text or list": (str, list, tuple),
    "list": (list, tuple, set, frozenset),
    "mapping": (Mapping,),
}


class Settings(MutableMapping[str, Any]):
    """Celery's settings; ``version`` grows with each change: what was computed from them is old then."""

    version: int

    def __init__(self, base: Mapping[str, Any] | None = None) -> None:
        own = self.__dict__
        own["version"] = 0
        own["_base"] = dict(base or {})
        own["_source"] = {}
        own["_changes"] = {}
        own["_unknown"] = {}
        own["_origin"] = ""
        own["_defaults"] = {name: copy(default) for name, (default, _, _) in SETTINGS.items()}
        own["_all"] = own["_defaults"] | own["_base"]

    def load(self, source: object, namespace: str | None = None) -> None:
        """Read settings from a mapping, a module's or an object's attributes; replaces what was read before.

        With a namespace only names that begin with it and ``_`` count (``CELERY_TASK_ROUTES`` →
        task_routes), without one lower-case names, and upper-case ones that Celery 3 or 4 had.

        Raises:
            ImproperlyConfigured: old and new names are mixed without a namespace.
        """
        found, unknown = read_source(source, namespace)
        own = self.__dict__
        own["_source"], own["_unknown"] = found, unknown
        self._changed()

    def touch(self) -> None:
        """Make everything that was computed from the settings old."""
        self.__dict__["version"] += 1

    def problems(self) -> list[str]:
        """Return a line for each setting that won't do what its author thinks.

        These are unknown names (the nearest known one is told), values of a wrong kind, and what this release
        does nothing about.
        """
        lines = []
        own = self.__dict__
        for name, spelt in (own["_unknown"] | {n: n for n in own["_changes"] if n not in SETTINGS}).items():
            lines.append(f"unknown setting {spelt}{_meant(name)}")
        for name, value in self.changes.items():
            if name in NOT_YET and value != SETTINGS[name][0] and not str(value).startswith("emq"):
                hint = NOT_YET[name]
                lines.append(f"setting {name} has no effect in this release" + (f": {hint}" if hint else ""))
            kind = SETTINGS[name][1] if name in SETTINGS else "any"
            wanted = _KINDS.get(kind)
            if value is not None and wanted is not None and not isinstance(value, wanted):
                lines.append(f"setting {name} is {value!r}; a {kind} is expected")
        return lines

    @property
    def changes(self) -> dict[str, Any]:
        """What was set or read, without the defaults."""
        own = self.__dict__
        return own["_base"] | own["_source"] | own["_changes"]  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_all"][name]
        except KeyError:
            known = _OLD_NAMES.get(name)
            if known is not None:
                return self.__dict__["_all"][known]
            raise AttributeError(f"no setting {name!r}{_meant(name)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __getitem__(self, name: str) -> Any:
        every = self.__dict__["_all"]
        return every[name] if name in every else every[_OLD_NAMES.get(name, name)]

    def __setitem__(self, name: str, value: Any) -> None:
        self.__dict__["_changes"][_OLD_NAMES.get(name, name)] = value
        self._changed()

    def __delitem__(self, name: str) -> None:
        del self.__dict__["_changes"][_OLD_NAMES.get(name, name)]
        self._changed()

    def __contains__(self, name: object) -> bool:
        return name in self.__dict__["_all"] or name in _OLD_NAMES

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__["_all"])

    def __len__(self) -> int:
        return len(self.__dict__["_all"])

    def __hash__(self) -> int:
        return id(self)

    def _changed(self) -> None:
        own = self.__dict__
        own["_all"] = own["_defaults"] | own["_base"] | own["_source"] | own["_changes"]
        own["version"] += 1


def _meant(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), SETTINGS, n=1)
    return f": is {near[0]} meant?" if near else ""


def read_source(source: object, namespace: str | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings in ``source``, and its unknown names (our spelling → as written).

    ``source`` is an object, a mapping, or the name of a module (``pkg.mod`` or ``pkg.mod:attribute``).
    """
    if isinstance(source, str):
        module_name, _, attribute = source.partition(":")
        source = importlib.import_module(module_name)
        for part in attribute.split(".") if attribute else ():
            source = getattr(source, part)
    if isinstance(source, Mapping):
        items = dict(source)
    else:
        items = {name: getattr(source, name) for name in dir(source) if not name.startswith("_")}
    if namespace:
        return _from_namespace(items, namespace)
    found: dict[str, Any] = {}
    unknown: dict[str, str] = {}
    new, old = [], []
    for name, value in items.items():
        if name in SETTINGS:
            found[name] = value
            new.append(name)
        elif name in _OLD_NAMES:
            found[_OLD_NAMES[name]] = value
            if SETTINGS[_OLD_NAMES[name]][2] == name:
                old.append(name)
        elif isinstance(source, Mapping):
            found[name] = value
            unknown[name] = name
        elif not callable(value) and not hasattr(value, "__loader__"):
            found[name] = value  # a module's own names are no mistake, but app.conf shows them
            if difflib.get_close_matches(name.lower(), SETTINGS, n=1, cutoff=_MISSPELT):
                unknown[name] = name
    if new and old:
        raise ImproperlyConfigured(
            f"old and new names are mixed: {old[0]} is {_OLD_NAMES[old[0]]} now, like {new[0]}"
        )
    return found, unknown


def _from_namespace(items: Mapping[str, Any], namespace: str) -> tuple[dict[str, Any], dict[str, str]]:
    prefix = namespace.upper().rstrip("_") + "_"
    found: dict[str, Any] = {}
    unknown: dict[str, str] = {}
    for spelt, value in items.items():
        if not spelt.upper().startswith(prefix):
            if spelt in _OLD_NAMES and spelt.startswith(prefix[:-1]):
                unknown[_OLD_NAMES[spelt]] = spelt  # an old spelling, which a namespace leaves unread
            continue
        name = spelt[len(prefix) :].lower()
        found[name] = value
        if name not in SETTINGS:
            unknown[name] = spelt
    return found, unknown
