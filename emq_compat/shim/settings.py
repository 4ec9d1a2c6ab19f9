"""``app.conf``: Celery's settings in lower case, as attributes and as items.

Layers, the first that has a name wins: what code set (``app.conf.x = …``, ``update``, the arguments of
``Celery(broker=…)``), what ``config_from_object`` read, what ``add_defaults`` added; then the defaults of
settings_table. Names that aren't Celery's are kept and readable; ``problems`` tells them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from copy import copy
from typing import TYPE_CHECKING, Any

from emq_compat.shim import later
from emq_compat.shim.settings_source import NEW_NAMES, Source, is_odd, meant, read_source
from emq_compat.shim.settings_table import SETTINGS

if TYPE_CHECKING:
    from emq_compat.shim.settings_option import FoundOption

__all__ = ["Settings"]

_KINDS: dict[str, tuple[type, ...]] = {
    "flag": (bool,),
    "number": (int, float),
    "text": (str,),
    "text or list": (str, list, tuple),
    "list": (list, tuple, set, frozenset),
    "mapping": (Mapping,),
}


def _taken(name: str, value: str, number: float) -> str:
    return f"setting {name} is the text {value!r}; taken as the number {number}"


class Settings(MutableMapping[str, Any]):
    """Celery's settings; ``version`` grows with each change: what was computed from them is old then."""

    version: int

    def __init__(
        self, changes: Mapping[str, Any] | None = None, *, defaults: Mapping[str, Any] | None = None
    ) -> None:
        own = self.__dict__
        if defaults is None:
            defaults = {name: copy(default) for name, (default, _, _) in SETTINGS.items()}
        own["version"] = 0
        own["_changes"] = {NEW_NAMES.get(name, name): value for name, value in (changes or {}).items()}
        own["_before_loading"] = None
        own["_source"] = Source()
        own["_added"] = {}
        own["_told"] = []
        own["_defaults"] = defaults
        own["_all"] = {}
        self._changed()

    def load(self, source: object, namespace: str | None = None) -> None:
        """Read settings from a mapping, a module or an object (``read_source``).

        Raises:
            ImproperlyConfigured: old and new names are mixed without a namespace.
        """
        own = self.__dict__
        own["_source"] = read_source(source, namespace)
        own["_before_loading"] = dict(own["_changes"])
        self._changed()

    def load_again(self, source: object, namespace: str | None = None) -> None:
        """Read them again; what code has set since they were read stays. Raises as ``load``."""
        self.__dict__["_source"] = read_source(source, namespace)
        self._changed()

    def unload(self) -> None:
        """Forget what was read, and what code has set since then."""
        own = self.__dict__
        if own["_before_loading"] is not None:
            own["_changes"], own["_before_loading"] = own["_before_loading"], None
            own["_source"] = Source()
            self._changed()

    def touch(self) -> None:
        """Make everything that was computed from the settings old."""
        self.__dict__["version"] += 1

    def add_defaults(self, defaults: Mapping[str, Any]) -> None:
        """Add values for names that nothing else gives one."""
        added = self.__dict__["_added"]
        added.update({NEW_NAMES.get(name, name): value for name, value in defaults.items()})
        self._changed()

    def problems(self) -> list[str]:
        """Return a line for each setting that won't do what its author thinks.

        These are unknown and old names (the nearest known one is told), values of a wrong kind, and what has
        no effect here, with the reason: where the value isn't the default.
        """
        odd = dict(self.__dict__["_source"].odd)
        for name in self.__dict__["_changes"]:
            if name not in SETTINGS and is_odd(name):
                odd[name] = meant(name)
        lines = [f"unknown setting {name}{hint}" for name, hint in odd.items()] + self.__dict__["_told"]
        idle: dict[str, list[str]] = {}
        without_effect = later.WITHOUT_EFFECT
        for name, value in self.changes.items():
            if name not in SETTINGS:
                continue
            default, kind, _ = SETTINGS[name]
            if name in without_effect and value != default:
                idle.setdefault(without_effect[name], []).append(name)
            wanted = _KINDS.get(kind)
            if (number := later.number_in(name, value)) is not None:
                lines.append(_taken(name, value, number))
            elif value is not None and wanted is not None and not isinstance(value, wanted):
                lines.append(f"setting {name} is {value!r}; a {kind} is expected")
        for reason, names in idle.items():
            which = f"setting {names[0]} has" if len(names) == 1 else f"settings {', '.join(names)} have"
            lines.append(f"{which} no effect: {reason}")
        return [*lines, *later.odd_values(self)]

    def settle(self) -> None:
        """Make numbers of those that are written as text (``problems`` tells them): before a worker begins.

        Raises:
            ImproperlyConfigured: a value can't be used; it is named with its setting and what is expected.
        """
        own = self.__dict__
        for name, value in self.changes.items():
            if name in SETTINGS and (number := later.number_in(name, value)) is not None:
                own["_told"].append(_taken(name, value, number))
                self[name] = number
        later.check_values(self)

    @property
    def changes(self) -> dict[str, Any]:
        """What was set or read, without the defaults."""
        own = self.__dict__
        return {**own["_source"].settings, **own["_changes"]}

    @property
    def deprecated_settings(self) -> list[str] | None:
        """The names of Celery 3 that settings were read by; None: none."""
        return list(self.__dict__["_source"].old_names) or None

    def own_changes(self) -> dict[str, Any]:
        """Return what code has set, without what was read."""
        return dict(self.__dict__["_changes"])

    def without_defaults(self) -> Settings:
        """Return the settings without Celery's defaults."""
        return Settings({**self.__dict__["_added"], **self.changes}, defaults={})

    def value_set_for(self, name: str) -> bool:
        """Return whether a setting has been given a value."""
        return name in self.without_defaults()

    def first(self, *names: str) -> Any:
        """Return the value of the first of these settings that isn't None."""
        return next((value for value in map(self.get, names) if value is not None), None)

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """Return the settings that were given a value, or all; passwords and keys masked."""
        chosen = dict(self) if with_defaults else dict(self.without_defaults())
        return later.censored_items(chosen) if censored else chosen

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """Return ``table`` as text, one setting a line."""
        return later.as_text(self.table(with_defaults, censored))

    def find_option(self, name: str, namespace: str = "") -> FoundOption:
        """Return where a setting is, by its name without its first part: ``prefetch_multiplier``.

        Raises:
            KeyError: there is none of this name.
        """
        return later.option_named(name, namespace)

    def get_by_parts(self, *parts: str) -> Any:
        """Return a setting whose name is these parts, joined by ``_``."""
        return self["_".join(part for part in parts if part)]

    def find_value_for_key(self, name: str, namespace: str = "celery") -> Any:
        """Return the value of the setting that ``find_option`` finds."""
        found = self.find_option(name, namespace)
        return self.get_by_parts(found.namespace, found.key)

    def finalize(self) -> Settings:
        """Return these settings: an app has read them when it hands them out."""
        return self

    @property
    def broker_url(self) -> Any:
        """The broker: CELERY_BROKER_URL of the environment, else the setting."""
        return os.environ.get("CELERY_BROKER_URL") or self["broker_url"]

    @property
    def broker_read_url(self) -> Any:
        """Where workers take tasks from: CELERY_BROKER_READ_URL, the setting, else broker_url."""
        return os.environ.get("CELERY_BROKER_READ_URL") or self["broker_read_url"] or self.broker_url

    @property
    def broker_write_url(self) -> Any:
        """Where tasks are published: CELERY_BROKER_WRITE_URL, the setting, else broker_url."""
        return os.environ.get("CELERY_BROKER_WRITE_URL") or self["broker_write_url"] or self.broker_url

    @property
    def result_backend(self) -> Any:
        """Where results are kept: CELERY_RESULT_BACKEND of the environment, else the setting."""
        return os.environ.get("CELERY_RESULT_BACKEND") or self["result_backend"]

    @property
    def task_default_exchange(self) -> Any:
        """The setting, else the default queue's name."""
        return self["task_default_exchange"] or self["task_default_queue"]

    @property
    def task_default_routing_key(self) -> Any:
        """The setting, else the default queue's name."""
        return self["task_default_routing_key"] or self["task_default_queue"]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_all"][name]
        except KeyError:
            known = NEW_NAMES.get(name)
            if known in self.__dict__.get("_all", ()):
                return self.__dict__["_all"][known]
            hint = "" if name.startswith("_") else meant(name)
            raise AttributeError(f"no setting {name!r}{hint}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __getitem__(self, name: str) -> Any:
        every = self.__dict__["_all"]
        return every[name] if name in every else every[NEW_NAMES.get(name, name)]

    def __setitem__(self, name: str, value: Any) -> None:
        self.__dict__["_changes"][NEW_NAMES.get(name, name)] = value
        self._changed()

    def __delitem__(self, name: str) -> None:
        del self.__dict__["_changes"][NEW_NAMES.get(name, name)]
        self._changed()

    def update(self, *mapping: Mapping[str, Any] | Iterable[tuple[str, Any]], **more: Any) -> None:  # type: ignore[override]
        """Set several at once: a mapping or pairs, and keywords."""
        given = dict(*mapping, **more)
        self.__dict__["_changes"].update({NEW_NAMES.get(name, name): v for name, v in given.items()})
        self._changed()

    def clear(self) -> None:
        """Forget what code has set."""
        self.__dict__["_changes"].clear()
        self._changed()

    def __contains__(self, name: object) -> bool:
        every = self.__dict__["_all"]
        return name in every or (isinstance(name, str) and NEW_NAMES.get(name) in every)

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__["_all"])

    def __len__(self) -> int:
        return len(self.__dict__["_all"])

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.table()}>"

    def _changed(self) -> None:
        own = self.__dict__
        own["_all"] = {**own["_defaults"], **own["_added"], **own["_source"].settings, **own["_changes"]}
        own["version"] += 1
