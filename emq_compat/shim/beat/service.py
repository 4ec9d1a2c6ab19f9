"""Service: the loop of a beat; EmbeddedService: a beat in a thread or process beside something else."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from emq_compat.address import is_kombu
from emq_compat.readable import readable
from emq_compat.shim import signals
from emq_compat.shim.beat.clock import StepWatch
from emq_compat.shim.beat.persistent import PersistentScheduler
from emq_compat.shim.beat.remote import Answering, AnsweringOverKombu
from emq_compat.shim.beat.scheduler import Scheduler, logger
from emq_compat.shim.beat.watch import BeatWatch
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.surface.imports import load_extension_class_names, symbol_by_name
from emq_compat.shim.surface.names import host_format, nodename, nodesplit
from emq_compat.shim.surface.times import humanize_seconds

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["EmbeddedService", "Service"]

#: How often a sleeping beat looks whether the clock was put on or back, in seconds.
_LOOK_S = 1.0
#: Celery's own schedulers by their paths, which mean ours whether or not Celery is installed.
_OWN = {
    f"celery.beat{sep}{cls.__name__}": f"{cls.__module__}:{cls.__name__}"
    for cls in (PersistentScheduler, Scheduler)
    for sep in ":."
}


class Service:
    """A beat.

    Args:
        max_interval: the longest sleep in seconds; else beat_max_loop_interval.
        schedule_filename: for the scheduler; else beat_schedule_filename.
        scheduler_cls: the scheduler's class, its path, or the name of an entry point of
            celery.beat_schedulers; else beat_scheduler.
        remote_control: answer ``inspect ping``; else beat_enable_remote_control.
        hostname: the node name under which it does.

    Attributes:
        effective_max_interval: the scheduler's longest sleep, once it runs.
        watch: what the loop does.
    """

    def __init__(
        self,
        app: Celery,
        max_interval: float | None = None,
        schedule_filename: str | None = None,
        scheduler_cls: Any = None,
        remote_control: bool | None = None,
        hostname: str | None = None,
        **celery: Any,
    ) -> None:
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_w, False)
        self.app = app
        conf = app.conf
        self.max_interval = max_interval or conf.beat_max_loop_interval
        self.scheduler_cls = scheduler_cls or conf.beat_scheduler
        self.schedule_filename = schedule_filename or conf.beat_schedule_filename
        enabled = conf.beat_enable_remote_control if remote_control is None else remote_control
        self.remote_control = bool(enabled)
        self.hostname = hostname
        self.effective_max_interval: float | None = None
        self.watch = BeatWatch()
        self._is_shutdown = False
        self._is_stopped = threading.Event()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (
            self.app, self.max_interval, self.schedule_filename, self.scheduler_cls, self.remote_control,
            self.hostname,
        )  # fmt: skip

    @cached_property
    def scheduler(self) -> Any:
        """The scheduler, set up."""
        return self.get_scheduler()

    def get_scheduler(
        self, lazy: bool = False, extension_namespace: str = "celery.beat_schedulers"
    ) -> Any:
        """Return a new scheduler; ``lazy``: only to be looked at.

        Raises:
            ImproperlyConfigured: its class can't be imported.
        """
        aliases = {**_OWN, **dict(load_extension_class_names(extension_namespace))}
        try:
            cls = symbol_by_name(self.scheduler_cls, aliases=aliases)
        except (ImportError, AttributeError, ValueError) as exc:
            raise ImproperlyConfigured(
                f"the scheduler {self.scheduler_cls!r} can't be imported: {exc}"
            ) from exc
        return cls(
            app=self.app,
            schedule_filename=self.schedule_filename,
            max_interval=self.max_interval,
            lazy=lazy,
        )

    def start(self, embedded_process: bool = False) -> None:
        """Run until ``stop`` is called."""
        logger.info("beat: Starting...")
        logger.debug(
            "beat: Ticking with max interval->%s", humanize_seconds(self.scheduler.max_interval)
        )
        signals.beat_init.send(sender=self)
        if embedded_process:
            signals.beat_embedded_init.send(sender=self)
        self.effective_max_interval = self.scheduler.max_interval
        self.scheduler.watch = self.watch
        age_s = self.app.conf.beat_remote_control_max_tick_age
        self.watch.begin(getattr(self.scheduler, "leader", None), age_s)
        answering = self._answering()
        steps = StepWatch()
        try:
            while not self._is_shutdown:
                steps.stepped(self.app.now())  # what changes while it looks at the entries counts, too
                interval = self.scheduler.tick()
                self.watch.ticked(None if self.watch.leads is False else self.scheduler)
                if interval and interval > 0:
                    logger.debug("beat: Waking up %s.", humanize_seconds(interval, prefix="in "))
                    self._rest(interval, steps)
                    if self.scheduler.should_sync():
                        self.scheduler._do_sync()
        except (KeyboardInterrupt, SystemExit):
            self._is_shutdown = True
        finally:
            if answering is not None:
                answering.stop()
            self.sync()

    def _answering(self) -> Answering | None:
        if not self.remote_control:
            return None
        if is_kombu(self.app.broker_url):
            over_kombu = AnsweringOverKombu(self, node_name(self.hostname))
            over_kombu.start()
            return over_kombu
        if self.app.stock:
            logger.warning("beat: a stock eventmq router passes no questions on: nothing is answered")
            return None
        answering = Answering(self, node_name(self.hostname))
        answering.start()
        return answering

    def _rest(self, interval_s: float, steps: StepWatch) -> None:
        """Sleep; less if ``stop`` is called, or the clock is put on or back."""
        until = time.monotonic() + interval_s
        while not self._is_shutdown and (left_s := until - time.monotonic()) > 0:
            if readable(self._wake_r, min(left_s, _LOOK_S)):
                return
            self.watch.turned()
            if steps.stepped(self.app.now()):
                logger.warning("beat: the clock was changed")
                return

    def sync(self) -> None:
        """Close the scheduler."""
        self.scheduler.close()
        self._is_stopped.set()

    def stop(self, wait: bool = False) -> None:
        """End ``start``; ``wait``: until it is over. A signal handler or another thread may call it."""
        self._is_shutdown = True
        try:
            os.write(self._wake_w, b"\0")
        except BlockingIOError:
            pass  # woken already
        if wait:
            self._is_stopped.wait()

    def __del__(self) -> None:
        for fd in (self._wake_r, self._wake_w):
            os.close(fd)


def node_name(hostname: str | None) -> str:
    """Return the node name of a beat, ``celerybeat@`` this host where nothing else is said."""
    name, host = nodesplit(hostname or "")
    return host_format(nodename(name or "celerybeat", host or "%h"))


class _Threaded(threading.Thread):
    """A beat in a thread."""

    def __init__(self, app: Celery, **kwargs: Any) -> None:
        super().__init__(name="Beat", daemon=True)
        self.app = app
        self.service = Service(app, **kwargs)

    def run(self) -> None:
        self.app.set_current()
        self.service.start()

    def stop(self) -> None:
        """End it, and wait until it has."""
        self.service.stop(wait=True)


class _Process(multiprocessing.Process):
    """A beat in a process."""

    def __init__(self, app: Celery, **kwargs: Any) -> None:
        super().__init__(name="Beat", daemon=True)
        self.app = app
        self.service = Service(app, **kwargs)

    def run(self) -> None:
        self.app.set_default()
        self.app.set_current()
        self.service.start(embedded_process=True)

    def stop(self) -> None:
        """End it; it keeps nothing that would have to be written down."""
        self.service.stop()
        self.terminate()


def EmbeddedService(  # noqa: N802 - Celery's name
    app: Celery, max_interval: float | None = None, **kwargs: Any
) -> _Threaded | _Process:
    """Return a beat to start beside something else, in a process, or with ``thread=True`` in a thread."""
    kwargs.setdefault("remote_control", False)  # the worker beside it answers
    if kwargs.pop("thread", False):
        return _Threaded(app, max_interval=max_interval, **kwargs)
    return _Process(app, max_interval=max_interval, **kwargs)
