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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emq_compat.shim import signals
from emq_compat.shim.current import frame_var
from emq_compat.shim.exceptions import FixupWarning
from emq_compat.shim.task import Task

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery
    from emq_compat.shim.django_connections import Connections

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
        """Call ``delay`` after the commit; never, if the transaction is rolled back.

        Without a transaction it is called at once.
        """
        _on_commit(functools.partial(self.delay, *args, **kwargs))

    def apply_async_on_commit(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *more: Any,
        using: str | None = None,
        **options: Any,
    ) -> None:
        """Call ``apply_async`` after the commit of the database ``using``; never, if it is rolled back."""
        _on_commit(functools.partial(self.apply_async, args, kwargs, *more, **options), using)


def _a_loop_runs() -> bool:
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


def _on_commit(call: Callable[[], object], using: str | None = None) -> None:
    importlib.import_module("django.db.transaction").on_commit(call, using=using)


class DjangoFixup:
    """Connects an app to the Django project that the environment names.

    ``CELERY_DB_REUSE_MAX`` of the settings: tasks for which a thread keeps its database connections.
    ``CELERY_SKIP_CHECKS`` in the environment, not empty: the system checks are not run.
    """

    task_cls: type[Task[..., Any]] = DjangoTask

    def __init__(self, app: Celery) -> None:
        self.app = app
        #: What the system checks have found, a line each.
        self.problems: list[str] = []
        self._checked = False
        self._parent: int | None = None
        self._in_child = False
        self._in_worker = False
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        signals.worker_init.connect(self.on_worker_init)
        signals.worker_process_init.connect(self.on_worker_process_init)
        importlib.import_module("django.core.signals").setting_changed.connect(self.on_setting_changed)

    def before_import(self) -> None:
        """Set Django up before tasks are imported, and run its checks, once; ``problems`` are what they say.

        Raises:
            Exception: what the project's settings, or its apps, raise.
        """
        importlib.import_module("django").setup()
        if self._checked or os.environ.get("CELERY_SKIP_CHECKS"):
            return
        self._checked = True
        found = importlib.import_module("django.core.checks").run_checks()
        self.problems = [" ".join(str(one).split()) for one in found if not one.is_silenced()]

    def autodiscover_tasks(self) -> Sequence[str]:
        """Return the packages of the installed apps."""
        return [config.name for config in importlib.import_module("django.apps").apps.get_app_configs()]

    def on_setting_changed(self, setting: str = "", **_: Any) -> None:
        """Read the settings again that a test changes (``override_settings``)."""
        prefix = f"{self.app.namespace.upper().rstrip('_')}_" if self.app.namespace else ""
        if setting == "TIME_ZONE" or setting.startswith(prefix):
            self.app.read_again()

    # Where tasks run.

    @functools.cached_property
    def _connections(self) -> Connections:
        from emq_compat.shim.django_connections import Connections  # noqa: PLC0415 - a worker needs it

        return Connections()

    def on_worker_init(self, sender: Any = None, **_: Any) -> None:
        """Close what the parent holds, before anything is forked, and from now on around each task."""
        if getattr(sender, "app", self.app) is not self.app:
            return
        self._parent = os.getpid()
        self._around_tasks()
        signals.beat_embedded_init.connect(self.on_beat_embedded_init)
        signals.celeryd_after_setup.connect(self.on_after_setup)
        self._close_all()

    def on_after_setup(self, **_: Any) -> None:
        """Close what the project's receivers of worker_init have opened: a pool's threads prevent a fork."""
        self._close_all()

    def _close_all(self) -> None:
        self._connections.close(pools=True)
        self._connections.close_caches()

    def on_worker_process_init(self, **_: Any) -> None:
        """Leave alone what was inherited, and have connections of this process from now on."""
        if self._parent == os.getpid():  # threads, solo, asyncio: tasks run in the worker's own process
            return
        self._in_child = True
        self._around_tasks()
        self._connections.forget()

    def _around_tasks(self) -> None:
        self._in_worker = True
        signals.task_prerun.connect(self.on_task_prerun)
        signals.task_postrun.connect(self.on_task_postrun)

    def on_beat_embedded_init(self, **_: Any) -> None:
        """Close the connections of a beat that begins in a process of its own."""
        self._connections.close()

    def on_task_prerun(self, sender: Any = None, **_: Any) -> None:
        """Close database connections that are used up, before a task."""
        if self._concerns(sender):
            self._connections.close_used(pools=self._in_child)

    def on_task_postrun(self, sender: Any = None, **_: Any) -> None:
        """Close database connections that are used up, and caches, after a task."""
        if self._concerns(sender):
            self._connections.close_used(pools=self._in_child)
            self._connections.close_caches()

    def _concerns(self, task: Any) -> bool:
        return task.app is self.app and not task.request.is_eager

    def settle(self, awaitable: Awaitable[Any], *, eager: bool) -> Any:
        """Run what an ``async def`` task returned to its end; returns and raises what it does.

        The ORM's calls of one run share a thread of their own, whose connections are closed after it. With
        ``eager`` they run in this thread, as Django's async_to_sync has it: in a test's transaction.
        """
        from emq_compat.shim import django_async  # noqa: PLC0415 - it imports asyncio

        return django_async.settle_here(awaitable) if eager else django_async.settle(awaitable)

    def call_store(self, call: Callable[[], Any]) -> Any:
        """Return what a call of a result store that is made of models does: without a connection left open.

        Where a loop runs it is made in another thread, for Django refuses it there.
        """
        if _a_loop_runs():
            from emq_compat.shim import django_async  # noqa: PLC0415 - it imports asyncio

            return django_async.call_elsewhere(call)
        try:
            return call()
        finally:
            # After its postrun a task's result is stored, too; inside of a task the connection is the task's.
            if self._in_worker and frame_var.get() is None:
                self._connections.close_idle(pools=self._in_child)

    async def call_in_thread(self, call: Callable[[], Any]) -> Any:
        """Return what a plain call does, made in the thread where the ORM's calls of this context run."""
        return await importlib.import_module("asgiref.sync").sync_to_async(call)()
