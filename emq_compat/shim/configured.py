"""The half of an app that is its settings: where they come from, when they are read, and what follows."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any

from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.settings import Settings

__all__ = ["Configured"]


class Configured:
    """What Celery() has to do with settings.

    ``base`` are those of its arguments; ``changes`` win over them.
    """

    def __init__(
        self,
        base: Mapping[str, Any],
        changes: Mapping[str, Any] | None,
        config_source: Any,
        namespace: str | None,
    ) -> None:
        self.namespace = namespace
        self._conf = Settings(base)
        if changes:
            self._conf.update(changes)
        self._pending_source = config_source

    @property
    def conf(self) -> Settings:
        """The settings; what config_from_object named is read when they are first asked for."""
        if self._pending_source is not None:
            source, self._pending_source = self._pending_source, None
            self._conf.load(source, self.namespace)
        return self._conf

    @property
    def configured(self) -> bool:
        """Whether the settings have been read, so that asking for one imports nothing."""
        return self._pending_source is None

    def config_from_object(
        self, obj: Any, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> None:
        """Take settings from an object, a mapping, or a module by name (``pkg.mod``, ``pkg.mod:attribute``).

        Read when first asked for, or now with ``force``. With a namespace only names that begin with it
        count: ``CELERY_TASK_ROUTES``. ``silent`` lets the module be missing.
        """
        if namespace is not None:
            self.namespace = namespace
        if silent and isinstance(obj, str):
            try:
                importlib.import_module(obj.partition(":")[0])
            except ImportError:
                return
        self._pending_source = obj
        if force:
            _ = self.conf

    def config_from_envvar(self, variable_name: str, silent: bool = False, force: bool = False) -> bool:
        """Take settings from the module that an environment variable names; returns whether it names one."""
        module = os.environ.get(variable_name)
        if not module:
            if silent:
                return False
            raise ImproperlyConfigured(f"the environment variable {variable_name} is not set")
        self.config_from_object(module, silent=silent, force=force)
        return True
