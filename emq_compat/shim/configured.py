"""The half of an app that is its settings: where they come from, when they are read, and what follows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from emq_compat.shim import later
from emq_compat.shim.dispatch import Signal
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.settings import Settings
from emq_compat.shim.settings_source import from_command_line, imported
from emq_compat.shim.settings_unread import UnreadSettings

if TYPE_CHECKING:
    from datetime import tzinfo

__all__ = ["Configured"]


class Configured:
    """What Celery() has to do with settings.

    Args:
        changes: settings that win over what is read later.
        config_source, namespace, silent: as for config_from_object. Without a source the environment variable
            CELERY_CONFIG_MODULE may name one.

    Attributes:
        on_configure: sent before settings are read; a method of this name is called instead, as in Celery 3.
        on_after_configure: sent once they have been read, with ``source``, the settings.
        configured: whether they have been.
    """

    on_configure: Any = None

    def __init__(
        self, changes: Mapping[str, Any], config_source: Any, namespace: str | None, *, silent: bool = False
    ) -> None:
        self.namespace = namespace
        self._conf = Settings(changes)
        UnreadSettings.until_read(self._conf, self._configure)
        self._source = config_source
        self._silent = silent
        self.configured = False
        self._configuring = False
        self._pending_defaults: list[Callable[[], Mapping[str, Any]]] = []
        self._pending_entries: dict[str, Any] = {}
        self._timezone: tzinfo | None = None
        if self.on_configure is None:
            self.on_configure = Signal(name="app.on_configure")
        self.on_after_configure = Signal(name="app.on_after_configure", providing_args=("source",))

    @property
    def conf(self) -> Settings:
        """The settings; what config_from_object named is read when one of them is first asked for."""
        return self._conf

    @conf.setter
    def conf(self, settings: Settings) -> None:
        self._conf = settings

    def _configure(self) -> None:
        """Read the settings, and tell whoever waits for them; a failed attempt is made again."""
        UnreadSettings.plain(self._conf)
        self._configuring = True
        try:
            if isinstance(self.on_configure, Signal):
                self.on_configure.send(sender=self)
            else:
                self.on_configure()
            self._load()
            self.configured = True
        finally:
            self._configuring = False
            if not self.configured:
                UnreadSettings.until_read(self._conf, self._configure)
        while self._pending_defaults:
            self._conf.add_defaults(self._pending_defaults.pop(0)())
        if self._pending_entries:
            entries, self._pending_entries = self._pending_entries, {}
            self._conf["beat_schedule"] = {**self._conf.beat_schedule, **entries}
        self.on_after_configure.send(sender=self, source=self._conf)

    def _load(self) -> None:
        source = self._found_source()
        if source is not None:
            self._conf.load(self.prepare_config(source), self.namespace)

    def _found_source(self) -> Any:
        """Return what settings are read from; None: nothing, or a module that is allowed to be missing."""
        source = self._source
        if source is None:
            source = os.environ.get("CELERY_CONFIG_MODULE") or None
        try:
            return imported(source)
        except ImportError:
            if self._silent:
                return None
            raise

    def config_from_object(
        self, obj: Any, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> None:
        """Take settings from an object, a mapping, or a module by name (``pkg.mod``, ``pkg.mod:attribute``).

        Read when first asked for, or now with ``force``. With a namespace only names that begin with it
        count: ``CELERY_TASK_ROUTES``. ``silent`` lets the module be missing.
        """
        self.namespace = namespace or self.namespace
        self._source = obj
        self._silent = silent
        self._conf.unload()
        self.configured = False
        if self._configuring:
            return  # a receiver of on_configure: it is read next
        UnreadSettings.until_read(self._conf, self._configure)
        if force:
            self._configure()

    def read_again(self) -> None:
        """Read the settings again, where they have been read: what they come from has changed.

        What code has set stays.
        """
        source = self._found_source() if self.configured else None
        if source is not None:
            self._conf.load_again(self.prepare_config(source), self.namespace)

    def config_from_envvar(self, variable_name: str, silent: bool = False, force: bool = False) -> bool:
        """Take settings from the module that an environment variable names; returns whether it names one."""
        module = os.environ.get(variable_name)
        if not module:
            if silent:
                return False
            raise ImproperlyConfigured(f"the environment variable {variable_name} is not set")
        self.config_from_object(module, silent=silent, force=force)
        return True

    def config_from_cmdline(self, argv: Sequence[str], namespace: str = "celery") -> None:
        """Set what ``worker.prefetch_multiplier=1`` … of a command line say; raises ValueError."""
        self.conf.update(from_command_line(argv, namespace))

    def add_defaults(self, fun: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Add values for settings that nothing else sets.

        They are a mapping, or a function that gives one when the settings are first asked for.
        """
        given = fun if callable(fun) else lambda: fun
        if self.configured:
            self._conf.add_defaults(given())
        else:
            self._pending_defaults.append(given)

    def prepare_config(self, c: Any) -> Any:
        """Return what settings are read from; override it to change them."""
        return c

    def either(self, default_key: str, *defaults: Any) -> Any:
        """Return the first of ``defaults`` that isn't None, else the setting."""
        return next((value for value in defaults if value is not None), self.conf.get(default_key))

    @property
    def timezone(self) -> tzinfo:
        """The setting timezone; without one UTC, or this machine's zone where enable_utc is false.

        What is assigned to it wins, in this process.
        """
        if self._timezone is not None:
            return self._timezone
        conf = self.conf
        return later.zone_named(conf.timezone, utc=bool(conf.enable_utc))

    @timezone.setter
    def timezone(self, zone: tzinfo | str | None) -> None:
        self._timezone = None if zone is None else later.zone_named(zone)

    def uses_utc_timezone(self) -> bool:
        """Return whether ``timezone`` is UTC."""
        return self.timezone == timezone.utc

    def now(self) -> datetime:
        """Return the time now, in the app's zone."""
        return datetime.now(timezone.utc).astimezone(self.timezone)
