"""Where settings are read from: an object, a mapping, a module, a command line; old names and namespaces.

Celery 3's names are in capitals (``CELERY_ACKS_LATE``), so are the new ones under a namespace
(``CELERY_TASK_ACKS_LATE`` of ``namespace="CELERY"``).
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.settings_table import SETTINGS

__all__ = ["NEW_NAMES", "Source", "from_command_line", "imported", "is_odd", "meant", "read_source"]

#: Name of a setting in Celery 3 → its name now.
_OLD_NAMES = {old or name.upper(): name for name, (_, _, old) in SETTINGS.items()}
#: Every name in capitals that means a setting where no namespace is given.
NEW_NAMES = {name.upper(): name for name in SETTINGS} | _OLD_NAMES

#: What a Django project may set beside Celery's settings (shim/django_connections.py).
_DJANGO_NAMES = frozenset({"CELERY_DB_REUSE_MAX"})

#: How much a module's own name must look like a setting's to be taken for a misspelt one.
_MISSPELT = 0.9
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


class Source:
    """What was read: ``settings``, and the names that say nothing to Celery, each with a hint for the log.

    ``old_names`` are those of Celery 3 that were read.
    """

    __slots__ = ("odd", "old_names", "settings")

    def __init__(
        self,
        *,
        settings: Mapping[str, Any] | None = None,
        odd: Mapping[str, str] | None = None,
        old_names: tuple[str, ...] = (),
    ) -> None:
        self.settings: Mapping[str, Any] = settings or {}
        self.odd: Mapping[str, str] = odd or {}
        self.old_names = old_names


def read_source(source: object, namespace: str | None = None) -> Source:
    """Read settings from an object's attributes, a mapping, or a module (``pkg.mod``, ``pkg.mod:attribute``).

    Without a namespace: lower-case names, or Celery 3's. With one: names that begin with it and ``_``, and
    Celery 3's where the new name isn't there (as Celery takes them; they are told as odd). Without the
    setting ``timezone`` Django's ``TIME_ZONE`` counts.

    Raises:
        ImproperlyConfigured: old and new names are mixed without a namespace; each is told with its other.
        ImportError, AttributeError: there is no such module, or attribute of it.
    """
    source = imported(source)
    if isinstance(source, Mapping):
        items = dict(source)
    else:
        names = (name for name in dir(source) if not name.startswith("_"))
        if namespace:
            names = (name for name in names if _may_be_meant(name, namespace))
        with warnings.catch_warnings():
            # Django's own settings that it is going to drop are none of the reader's business.
            for category in (DeprecationWarning, PendingDeprecationWarning):
                warnings.simplefilter("ignore", category)
            items = {name: getattr(source, name) for name in names}
    read = _with_namespace(items, namespace) if namespace else _without(items, isinstance(source, Mapping))
    old = (name for name in items if name in _OLD_NAMES and not (namespace and name.startswith(namespace)))
    settings = read.settings
    if settings.get("timezone") is None and items.get("TIME_ZONE"):
        settings = {**settings, "timezone": items["TIME_ZONE"]}
    return Source(settings=settings, odd=read.odd, old_names=tuple(sorted(old)))


def _may_be_meant(name: str, namespace: str) -> bool:
    return name.upper().startswith(namespace.upper()) or name in _OLD_NAMES or name == "TIME_ZONE"


def imported(source: object) -> object:
    """Return what a text names (``pkg.mod``, ``pkg.mod:attribute``, ``pkg.mod.attribute``); else ``source``.

    Raises:
        ImportError, AttributeError: there is no such module, or attribute of it.
    """
    if not isinstance(source, str):
        return source
    written = source
    name, colon, attribute = written.partition(":")
    try:
        found: object = importlib.import_module(name)
    except ModuleNotFoundError as exc:
        holder, _, last = name.rpartition(".")
        if colon or not holder or exc.name != name:
            raise
        found = getattr(importlib.import_module(holder), last, None)
        if found is None:
            raise
    for part in attribute.split(".") if attribute else ():
        found = getattr(found, part)
    return found


def _without(items: Mapping[str, Any], is_mapping: bool) -> Source:
    found: dict[str, Any] = {}
    odd: dict[str, str] = {}
    for name, value in items.items():
        if name in SETTINGS:
            found[name] = value
        elif name in NEW_NAMES:
            found.setdefault(NEW_NAMES[name], value)
        elif is_mapping:
            found[name] = value
            if is_odd(name):
                odd[name] = meant(name)
        elif not callable(value) and not hasattr(value, "__loader__"):
            found[name] = value  # a module's own names are no mistake, but app.conf shows them
            if _near(name, cutoff=_MISSPELT):
                odd[name] = meant(name)
    _refuse_mixed(items)
    return Source(settings=found, odd=odd)


def _refuse_mixed(items: Mapping[str, Any]) -> None:
    """Raise ImproperlyConfigured for old names beside new ones; a setting under both its names is none."""
    new = {name for name in items if name in SETTINGS}
    old = {name for name in items if name in _OLD_NAMES}
    if not new or not old:
        return
    old_of = {name: old_name for old_name, name in _OLD_NAMES.items()}
    if len(old) > len(new):
        renames = {name: old_of[name] for name in new if old_of[name] not in old}
        advice = "these are new names, among old ones (or rename all the others)"
    else:
        renames = {name: _OLD_NAMES[name] for name in old if _OLD_NAMES[name] not in new}
        advice = "these are old names, among new ones"
    if renames:
        pairs = ", ".join(f"{name} -> {other}" for name, other in sorted(renames.items()))
        raise ImproperlyConfigured(f"old and new names of settings are mixed; {advice}: {pairs}")


def _with_namespace(items: Mapping[str, Any], namespace: str) -> Source:
    prefix = namespace.upper().rstrip("_") + "_"
    found: dict[str, Any] = {}
    odd: dict[str, str] = {}
    old: dict[str, str] = {}
    for spelt, value in items.items():
        name = spelt[len(prefix) :].lower() if spelt.upper().startswith(prefix) else None
        if name in SETTINGS:
            found[name] = value
        elif spelt in _OLD_NAMES:
            old[spelt] = _OLD_NAMES[spelt]
        elif spelt in _DJANGO_NAMES:
            found[spelt] = value
        elif name is not None:
            found[name] = found[spelt] = value
            odd[spelt] = meant(name, prefix)
    for spelt, name in old.items():
        counts = name not in found
        if counts:
            found[name] = items[spelt]
        if spelt.startswith(prefix.rstrip("_")):
            told = "taken as that" if counts else "which is there, too, and counts"
            odd[spelt] = f": the old name of {prefix}{name.upper()}, {told}"
    return Source(settings=found, odd=odd)


def is_odd(name: str) -> bool:
    """Return whether a name that says nothing to Celery is to be told.

    In capitals it may well be another library's: whole configurations of Flask are given to apps.
    """
    return not name.isupper() or name.startswith(("CELERY", "BROKER_")) or bool(_near(name, cutoff=_MISSPELT))


def meant(name: str, prefix: str = "") -> str:
    """Return a question for the log: which known setting is nearest; empty: none is near."""
    near = _near(name)
    if not near:
        return ""
    return f": is {prefix + near[0].upper() if prefix else near[0]} meant?"


def _near(name: str, cutoff: float = 0.6) -> list[str]:
    """Return the setting whose name is nearest, if one is."""
    import difflib  # noqa: PLC0415 - start-up doesn't need it

    return difflib.get_close_matches(name.lower(), SETTINGS, n=1, cutoff=cutoff)


def from_command_line(words: Iterable[str], namespace: str | None = "celery") -> dict[str, Any]:
    """Return the settings in ``worker.prefetch_multiplier=1 task_acks_late=yes .main=(json)[1]``.

    A ``.`` or ``_`` at the start stands for the namespace; ``(int)``, ``(json)`` … before a value says
    its type, which otherwise is the setting's.

    Raises:
        ValueError: a word has no ``=``, or its value is of a wrong kind.
    """
    return dict(_assignment(word, namespace) for word in words)


def _assignment(word: str, namespace: str | None) -> tuple[str, Any]:
    key, equals, value = word.partition("=")
    if not equals:
        raise ValueError(f"{word!r} is no name=value")
    name = key.lower().replace(".", "_")
    if name.startswith("_"):
        name = f"{namespace.lower()}{name}" if namespace else name[1:]
    kind = SETTINGS.get(name, (None, "text", ""))[1]
    cast, closed, rest = value.partition(")")
    if closed and cast[:1] == "(" and cast[1:].isidentifier():
        kind, value = cast[1:], rest
    try:
        return name, _value(kind, value)
    except ValueError as exc:
        raise ValueError(f"{name}: {exc}") from exc


def _value(kind: str, text: str) -> Any:
    if kind in ("flag", "bool"):
        if text.lower() not in _TRUE | _FALSE:
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() in _TRUE
    if kind in ("int", "float"):
        return int(text) if kind == "int" else float(text)
    if kind == "number":
        number = float(text)
        return int(number) if number.is_integer() and "." not in text else number
    if kind in ("list", "mapping", "json", "tuple", "dict"):
        import json  # noqa: PLC0415 - start-up doesn't need it

        return json.loads(text)
    return text
