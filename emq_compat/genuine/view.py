"""A genuine app as the commands and the worker's parent look at one: the shim's app has what it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from emq_compat.shim.events.clock import Clock
from emq_compat.shim.events.system import Events
from emq_compat.shim.settings_table import SETTINGS

__all__ = ["AppView", "Conf"]


class Conf:
    """The settings of a genuine app. One that its version of Celery doesn't know has our default."""

    def __init__(self, conf: Any) -> None:
        self._conf = conf

    def __getitem__(self, name: str) -> Any:
        try:
            return self._conf[name]
        except KeyError:
            return SETTINGS[name][0]

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(self._conf, name)
        except AttributeError:
            if name not in SETTINGS:
                raise
            return SETTINGS[name][0]

    def get(self, name: str, default: Any = None) -> Any:
        """Return a setting; ``default`` where there is none of this name."""
        try:
            return self[name]
        except KeyError:
            return default

    def update(self, *settings: Mapping[str, Any], **more: Any) -> None:
        """Set settings."""
        self._conf.update(*settings, **more)

    def settle(self) -> None:
        """Nothing: a genuine app reads its settings when they are asked for."""

    @property
    def changes(self) -> dict[str, Any]:
        """The settings that were given a value."""
        return self.table(censored=False)

    @property
    def deprecated_settings(self) -> list[str]:
        """The names of old settings that are in use."""
        return list(getattr(self._conf, "deprecated_settings", None) or ())

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """Return the settings that were given a value, or all; passwords and keys masked."""
        return dict(self._conf.table(with_defaults=with_defaults, censored=censored))


class Tasks(dict[str, Any]):
    """The tasks of an app by name."""

    def own(self) -> list[str]:
        """Return the names of the project's tasks: without those that every app has."""
        return [name for name in self if not name.startswith(("celery.", "emq_compat."))]


class AppView:
    """A celery.Celery, with ``hostname``, ``broker_url``, ``tasks.own`` … beside what it has itself.

    Attributes:
        real: the app.
        hostname: the node name of the worker that runs it here.
    """

    def __init__(self, real: Any) -> None:
        self.real = real
        self.hostname = ""
        self.conf = Conf(real.conf)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    @property
    def broker_url(self) -> str:
        """Where tasks are published: Celery's environment variable, then the settings."""
        url = self.real.conf.broker_write_url or self.real.conf.broker_url or ""
        return url if isinstance(url, str) else ";".join(url)

    @property
    def tasks(self) -> Tasks:
        """The registered tasks."""
        return Tasks(self.real.tasks)

    def problems(self) -> list[str]:
        """Nothing: what is odd about its settings and tasks Celery itself tells."""
        return []

    @cached_property
    def clock(self) -> Clock:
        """What a worker's events are ordered by."""
        return Clock()

    @cached_property
    def events(self) -> Events:
        """What a worker's events are made by."""
        return Events(self)

    @property
    def workflows(self) -> dict[str, Any]:
        """Celery's ``chain``, ``group`` … by name."""
        import celery  # noqa: PLC0415 - the view itself is Celery-free

        kinds = ("chord", "group", "chain", "chunks", "xmap", "xstarmap", "subtask", "signature")
        return {name: getattr(celery, name) for name in kinds}

    def subclass_with_self(self, cls: Any, *, reverse: str) -> Any:
        """Return a class, or the one that a path names, with this as its ``app``."""
        from emq_compat.shim.symbols import symbol_by_name  # noqa: PLC0415 - a worker's parent needs it only

        found = symbol_by_name(cls)
        return type(found.__name__, (found,), {"app": self, "__module__": found.__module__})

    def __repr__(self) -> str:
        return repr(self.real)
