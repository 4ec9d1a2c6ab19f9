"""What a Django project needs: set up before its tasks are imported, fresh database connections around tasks.

Installed by an app that is made while ``DJANGO_SETTINGS_MODULE`` is set and Django is there.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from emq_compat.shim.exceptions import FixupWarning
from emq_compat.shim.signals import task_postrun, task_prerun, worker_init, worker_process_init
from emq_compat.shim.task import Task

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["DjangoFixup", "DjangoTask", "fixup"]


def fixup(app: Celery, env: str = "DJANGO_SETTINGS_MODULE") -> DjangoFixup | None:
    """Return what an app does for Django; None: there is no Django project."""
    if not os.environ.get(env):
        return None
    if importlib.util.find_spec("django") is None:
        warnings.warn(FixupWarning(f"{env} is set, but Django isn't installed"), stacklevel=3)
        return None
    return DjangoFixup(app)


class DjangoTask(Task[..., Any]):
    """A task that can be published when the transaction around the call has been committed."""

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """Call ``delay`` after the commit; never, if the transaction is rolled back."""
        self._on_commit(functools.partial(self.delay, *args, **kwargs))

    def apply_async_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """Call ``apply_async`` after the commit; never, if the transaction is rolled back."""
        self._on_commit(functools.partial(self.apply_async, *args, **kwargs))

    @staticmethod
    def _on_commit(call: Any) -> None:
        importlib.import_module("django.db.transaction").on_commit(call)


class DjangoFixup:
    """Connects an app to the Django project that the environment names.

    ``CELERY_DB_REUSE_MAX`` of the settings: tasks for which a process keeps its database connections.
    """

    task_cls: type[Task[..., Any]] = DjangoTask

    def __init__(self, app: Celery) -> None:
        self.app = app
        self._uses = 0
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        worker_init.connect(self.on_worker_init)

    def before_import(self) -> None:
        """Set Django up before tasks are imported, and run its checks (not with CELERY_SKIP_CHECKS)."""
        importlib.import_module("django").setup()
        if not os.environ.get("CELERY_SKIP_CHECKS"):
            importlib.import_module("django.core.checks").run_checks()

    def autodiscover_tasks(self) -> Sequence[str]:
        """Return the packages of the installed apps."""
        return [config.name for config in importlib.import_module("django.apps").apps.get_app_configs()]

    def on_worker_init(self, **_: Any) -> None:
        """Close what the parent holds, before anything is forked, and from now on around each task."""
        task_prerun.connect(self.on_task_prerun)
        task_postrun.connect(self.on_task_postrun)
        worker_process_init.connect(self.on_worker_process_init)
        self._close_connections()
        self._close_caches()

    def on_worker_process_init(self, **_: Any) -> None:
        """Close what was inherited."""
        self._close_connections()
        self._close_caches()

    def on_task_prerun(self, sender: Any = None, **_: Any) -> None:
        """Close database connections that are used up, before a task."""
        if not sender.request.is_eager:
            self._close_used()

    def on_task_postrun(self, sender: Any = None, **_: Any) -> None:
        """Close database connections that are used up, and caches, after a task."""
        if not sender.request.is_eager:
            self._close_used()
            self._close_caches()

    def _close_used(self) -> None:
        most = self.app.conf.get("CELERY_DB_REUSE_MAX")
        if not most:
            self._close_connections()
            return
        if self._uses >= most * 2:
            self._uses = 0
            self._close_connections()
        self._uses += 1

    def _close_connections(self) -> None:
        db = importlib.import_module("django.db")
        for connection in db.connections.all():
            try:
                if not connection.in_atomic_block:
                    connection.close()
            except db.InterfaceError:
                continue
            except db.DatabaseError as exc:
                if "closed" not in str(exc) and "not connected" not in str(exc):
                    raise

    @staticmethod
    def _close_caches() -> None:
        importlib.import_module("django.core.cache").close_caches()
