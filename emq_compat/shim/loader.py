"""``app.loader``: imports what registers an app's tasks, and has the hooks of Celery's loaders.

A project may give ``Celery(loader=…)`` a subclass of BaseLoader, or its dotted path.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from types import ModuleType
from typing import TYPE_CHECKING, Any

from emq_compat.shim.discover import Packages, import_related
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.settings_source import from_command_line
from emq_compat.shim.signals import import_modules

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["AppLoader", "BaseLoader"]


class BaseLoader:
    """Imports task modules.

    Attributes:
        task_modules: names of the modules that have been imported for their tasks.
        worker_initialized: whether ``init_worker`` has been called.
    """

    builtin_modules: frozenset[str] = frozenset()
    worker_initialized = False
    #: What is imported just now, or has failed to be.
    importing = ""

    def __init__(self, app: Celery, **kwargs: Any) -> None:
        self.app = app
        self.task_modules: set[str] = set()
        self._discovered: list[tuple[Packages | None, str | None]] = []
        self._signalled = False
        cls = type(self)
        #: Whether a subclass wants to be called around tasks.
        self.hooks_tasks = (cls.on_task_init, cls.on_process_cleanup) != (
            BaseLoader.on_task_init,
            BaseLoader.on_process_cleanup,
        )

    # Hooks, for subclasses.

    def on_task_init(self, task_id: str, task: Any) -> None:
        """Called before a task runs."""

    def on_process_cleanup(self) -> None:
        """Called after a task has run."""

    def on_worker_init(self) -> None:
        """Called when a worker starts, once tasks are imported."""

    def on_worker_shutdown(self) -> None:
        """Called when a worker has ended."""

    def on_worker_process_init(self) -> None:
        """Called when a process starts that runs tasks."""

    # What imports.

    def import_module(self, module: str, package: str | None = None) -> ModuleType:
        """Import a module by its name."""
        return importlib.import_module(module, package=package)

    def import_from_cwd(self, module: str, imp: Any = None, package: str | None = None) -> Any:
        """Import a module by its name; one of the current directory counts first."""
        cwd = os.getcwd()
        if cwd not in sys.path and "" not in sys.path:
            sys.path.insert(0, cwd)
        return (imp or self.import_module)(module, package=package)

    def import_task_module(self, module: str) -> Any:
        """Import a module for its tasks."""
        self.task_modules.add(module)
        self.importing = module
        imported = self.import_from_cwd(module)
        self.importing = ""
        return imported

    def discover(self, packages: Packages | None, related_name: str | None) -> None:
        """Note packages whose modules with tasks are to be imported later; None: those of the fix-ups."""
        self._discovered.append((packages, related_name))

    def autodiscover_tasks(self, packages: Iterable[str], related_name: str | None = "tasks") -> None:
        """Import ``PACKAGE.RELATED_NAME`` of each package that has one; without a name the package itself.

        Raises:
            Exception: what importing one of them raises.
        """
        for package in packages:
            self.importing = f"{package}.{related_name}" if related_name else package
            module = import_related(package, related_name)
            self.importing = ""
            if module is not None:
                self.task_modules.add(module.__name__)

    def import_default_modules(self) -> list[Any]:
        """Import what registers tasks: discovered packages, then the settings ``imports`` and ``include``.

        Fix-ups come first (Django's set-up); import_modules is sent the first time.

        Raises:
            Exception: what importing one of them, or a receiver of import_modules, raises.
        """
        for fixup in self.app.fixup_objects:
            before = getattr(fixup, "before_import", None)
            if before is not None:
                before()
        while self._discovered:
            packages, related_name = self._discovered[0]
            self.autodiscover_tasks(self.app.packages_of(packages), related_name)
            self._discovered.pop(0)
        if not self._signalled:
            self._signalled = True
            for _, answer in import_modules.send(sender=self.app):
                if isinstance(answer, Exception):
                    raise answer
        return [self.import_task_module(module) for module in self.default_modules]

    @property
    def default_modules(self) -> Sequence[str]:
        """The names in the settings ``imports`` and ``include``.

        Raises:
            ImproperlyConfigured: one of them is no list of names.
        """
        names = [*self.builtin_modules]
        for name in ("imports", "include"):
            setting = self.app.conf[name]
            if setting and not isinstance(setting, Iterable):
                raise ImproperlyConfigured(f"setting {name} is {setting!r}; a list of modules is expected")
            names += [setting] if isinstance(setting, str) else setting or ()
        return tuple(names)

    # A worker's life.

    def init_worker(self) -> None:
        """Import the tasks and call ``on_worker_init``, once."""
        if not self.worker_initialized:
            self.worker_initialized = True
            self.import_default_modules()
            self.on_worker_init()

    def shutdown_worker(self) -> None:
        """Call ``on_worker_shutdown``."""
        self.on_worker_shutdown()

    def init_worker_process(self) -> None:
        """Call ``on_worker_process_init``."""
        self.on_worker_process_init()

    # Settings, under Celery's names.

    @property
    def conf(self) -> Any:
        """The app's settings."""
        return self.app.conf

    def config_from_object(self, obj: Any, silent: bool = False) -> bool:
        """Have the app read its settings from an object."""
        self.app.config_from_object(obj, silent=silent)
        return True

    def cmdline_config_parser(self, args: Sequence[str], namespace: str = "celery") -> dict[str, Any]:
        """Return the settings that ``name=value`` words say."""
        return from_command_line(args, namespace)

    def now(self, utc: bool = True) -> datetime:
        """Return the time now: in UTC, or naive local time."""
        moment = datetime.now(timezone.utc)
        return moment if utc else moment.astimezone().replace(tzinfo=None)


class AppLoader(BaseLoader):
    """The loader of an app that was given no other."""
