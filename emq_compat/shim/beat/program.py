"""``app.Beat``: the beat as a program: log, banner, signals, and the service between them."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from emq_compat import __version__
from emq_compat.shim.beat.scheduler import logger
from emq_compat.shim.beat.service import Service as _Service
from emq_compat.shim.beat.service import node_name
from emq_compat.shim.beat.watch import BeatWatch
from emq_compat.shim.surface import platforms
from emq_compat.shim.surface.imports import qualname
from emq_compat.shim.surface.times import humanize_seconds

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["Beat"]


class Beat:
    """A beat in this process; ``run()`` returns when TERM or INT has ended it.

    Args:
        max_interval: the longest sleep in seconds; else beat_max_loop_interval.
        pidfile: holds the pid, and a second beat from starting.
        loglevel, logfile: where the log goes.
        schedule: for the scheduler; else beat_schedule_filename.
        scheduler, scheduler_cls: the scheduler's class or path; else beat_scheduler.
        redirect_stdouts, redirect_stdouts_level: as worker_redirect_stdouts, and its level.
        quiet: no banner.
        remote_control, hostname: whether it answers ``inspect ping``, and under which node name.
        embedded: it runs beside a worker: beat_embedded_init is sent, too.
        ready: called when all is set up.
        watch: is told what it does.
    """

    Service: type[Any] = _Service
    app: Celery

    def __init__(
        self,
        max_interval: float | None = None,
        app: Celery | None = None,
        socket_timeout: float = 30,
        pidfile: str | None = None,
        no_color: bool | None = None,
        loglevel: str | int = "WARN",
        logfile: str | None = None,
        schedule: str | None = None,
        scheduler: Any = None,
        scheduler_cls: Any = None,
        redirect_stdouts: bool | None = None,
        redirect_stdouts_level: str | None = None,
        quiet: bool = False,
        remote_control: bool | None = None,
        hostname: str | None = None,
        embedded: bool = False,
        ready: Callable[[], object] | None = None,
        watch: BeatWatch | None = None,
        **celery: Any,
    ) -> None:
        if app is not None:
            self.app = app
        either = self.app.either
        self.loglevel, self.logfile, self.pidfile = loglevel, logfile, pidfile
        self.schedule = either("beat_schedule_filename", schedule)
        self.scheduler_cls = either("beat_scheduler", scheduler, scheduler_cls)
        self.redirect_stdouts = either("worker_redirect_stdouts", redirect_stdouts)
        self.redirect_stdouts_level = either("worker_redirect_stdouts_level", redirect_stdouts_level)
        self.max_interval = max_interval
        self.remote_control, self.hostname = remote_control, hostname
        self.quiet, self.embedded, self.ready, self.watch = quiet, embedded, ready, watch

    def run(self) -> None:
        """Run it.

        Raises:
            ImproperlyConfigured: the scheduler, or an entry, can't be used.
            OSError: the log file can't be opened.
        """
        self.init_loader()
        self.set_process_title()
        self.start_scheduler()

    def init_loader(self) -> None:
        """Import the tasks: their modules may add entries."""
        self.app.loader.init_worker()
        self.app.finalize()

    def set_process_title(self) -> None:
        """Name the process, where setproctitle is installed."""
        platforms.set_process_title("emq-compat beat", info=" ".join(sys.argv[1:]))

    def setup_logging(self) -> None:
        """Set the log up as the settings say."""
        file = Path(self.logfile) if self.logfile else None
        self.app.log.setup(
            self.loglevel, file, bool(self.redirect_stdouts), self.redirect_stdouts_level
        )

    def start_scheduler(self) -> None:
        """Set the scheduler up, and run it."""
        if self.pidfile:
            platforms.create_pidlock(self.pidfile)
        service = self.Service(
            app=self.app,
            max_interval=self.max_interval,
            scheduler_cls=self.scheduler_cls,
            schedule_filename=self.schedule,
            remote_control=self.remote_control,
            hostname=self.hostname,
        )
        if self.watch is not None:
            service.watch = self.watch
        if not self.quiet:
            print(self.startup_info(service), file=sys.__stdout__, flush=True)
        self.setup_logging()
        self.install_sync_handler(service)
        _ = service.scheduler  # what is wrong with the schedule is told before anybody is told of the start
        if self.ready is not None:
            self.ready()
        service.start(embedded_process=self.embedded)

    def startup_info(self, service: _Service) -> str:
        """Return the banner."""
        scheduler = service.get_scheduler(lazy=True)
        longest_s = scheduler.max_interval
        now = datetime.now().astimezone().replace(microsecond=0)
        lines = [
            f"emq-compat beat v{__version__}",
            f"LocalTime -> {now:%Y-%m-%d %H:%M:%S}",
            "Configuration ->",
            f"    . broker -> {self.app.connection_for_write().as_uri()}",
            f"    . loader -> {qualname(self.app.loader)}",
            f"    . scheduler -> {qualname(scheduler)}",
            getattr(scheduler, "info", ""),
            f"    . logfile -> {self.logfile or '[stderr]'}@%{self.loglevel}",
            f"    . maxinterval -> {humanize_seconds(longest_s)} ({longest_s}s)",
        ]
        if service.remote_control:
            lines.append(f"    . remote control -> {node_name(service.hostname)}")
        return "\n".join(line for line in lines if line)

    def install_sync_handler(self, service: _Service) -> None:
        """Have TERM and INT end the service; a second one ends the process at once."""

        def stop(signum: int, frame: FrameType | None) -> None:
            for each in (signal.SIGTERM, signal.SIGINT):
                signal.signal(each, signal.SIG_DFL)
            service.stop()

        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, stop)
        logger.debug("beat: TERM and INT end it")
