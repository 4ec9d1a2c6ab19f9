"""A worker's logging as Celery's: ``app.log`` (``celery.app.log``), and the names of ``celery.utils.log``."""

from __future__ import annotations

import io
import logging
import multiprocessing as multiprocessing  # logging asks it for the process's name
import os
import sys
import warnings
from collections.abc import Mapping
from logging.handlers import WatchedFileHandler
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from emq_compat import json_lines
from emq_compat.shim import signals
from emq_compat.shim.current import frame_var
from emq_compat.shim.exceptions import CDeprecationWarning, CPendingDeprecationWarning
from emq_compat.shim.loggers import (
    LOG_LEVELS,
    ColorFormatter,
    LoggingProxy,
    Redirect,
    base_logger,
    current_process_index,
    get_logger,
    get_multiprocessing_logger,
    get_task_logger,
    in_sighandler,
    mlevel,
    reset_multiprocessing_logger,
    set_in_sighandler,
    task_logger,
    worker_logger,
)

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = [
    "LOG_LEVELS",
    "ColorFormatter",
    "Logging",
    "LoggingProxy",
    "TaskFormatter",
    "base_logger",
    "current_process_index",
    "get_logger",
    "get_multiprocessing_logger",
    "get_task_logger",
    "handler_for",
    "in_sighandler",
    "mlevel",
    "reset_multiprocessing_logger",
    "set_in_sighandler",
    "task_logger",
    "worker_logger",
]

#: A file's name, an open text file, or None: standard error.
LogFile: TypeAlias = "str | os.PathLike[str] | IO[str] | None"


class TaskFormatter(ColorFormatter):
    """Fills in %(task_name)s and %(task_id)s: those of the running task, else ``???``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        frame = frame_var.get()
        if frame is not None and frame.request.id is not None:
            record.task_id, record.task_name = frame.request.id, frame.task.name
        else:
            record.__dict__.setdefault("task_id", "???")
            record.__dict__.setdefault("task_name", "???")
        return super().format(record)


def _running() -> dict[str, Any]:
    """Return what lines in JSON tell of the task that runs."""
    frame = frame_var.get()
    if frame is None or frame.request.id is None:
        return {}
    told = {"task_id": frame.request.id, "task_name": frame.task.name}
    return told if frame.delivery is None else {**told, "queue": frame.delivery.queue}


def handler_for(logfile: LogFile = None) -> logging.Handler:
    """Return a handler that writes there, as UTF-8 or escaped, whatever the locale is.

    A file that is renamed (logrotate) is opened anew.

    Raises:
        OSError: the file can't be opened.
    """
    if logfile is None or not isinstance(logfile, (str, os.PathLike)):
        stream = logfile if logfile is not None else sys.__stderr__
        if stream is sys.__stderr__ and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # PYTHONIOENCODING makes it strict
        return logging.StreamHandler(stream)
    return WatchedFileHandler(logfile, encoding="utf-8", errors="backslashreplace")


class Logging:
    """``app.log``: sets a process's logging up, once.

    Attributes:
        loglevel: where none is given.
        format, task_format, colorize: worker_log_format, worker_task_log_format and worker_log_color.
    """

    _setup = False

    def __init__(self, app: Celery) -> None:
        conf = app.conf
        self.app = app
        self.loglevel: int = logging.WARNING
        self.format: str = conf.worker_log_format
        self.task_format: str = conf.worker_task_log_format
        self.colorize: bool | None = conf.worker_log_color

    @property
    def already_setup(self) -> bool:
        """Whether this process's logging is set up, by whichever app; nothing changes it any more then."""
        return Logging._setup

    @already_setup.setter
    def already_setup(self, value: bool) -> None:
        Logging._setup = value

    def setup(
        self,
        loglevel: int | str | None = None,
        logfile: LogFile = None,
        redirect_stdouts: bool = False,
        redirect_level: int | str = "WARNING",
        colorize: bool | None = None,
        hostname: str | None = None,
    ) -> Any:
        """Set logging up and, unless a receiver of setup_logging did that, have print() logged.

        Returns what setup_logging_subsystem does. The choice is left in the environment, for processes that
        are started from here.
        """
        level = mlevel(loglevel)
        handled = self.setup_logging_subsystem(level, logfile, colorize=colorize, hostname=hostname)
        if json_lines.wanted():
            handlers = (*logging.getLogger().handlers, *task_logger.handlers)
            json_lines.in_json(handlers, (ColorFormatter, TaskFormatter), _running)
        if not handled and redirect_stdouts:
            self.redirect_stdouts(redirect_level)
        named = isinstance(logfile, (str, os.PathLike))
        os.environ.update(
            CELERY_LOG_LEVEL=str(level) if level else "",
            CELERY_LOG_FILE=str(logfile) if named else "",
        )
        for category in (CDeprecationWarning, CPendingDeprecationWarning):
            warnings.filterwarnings("always", category=category)
        logging.captureWarnings(True)
        return handled

    def setup_logging_subsystem(
        self,
        loglevel: int | str | None = None,
        logfile: LogFile = None,
        format: str | None = None,  # noqa: A002 - Celery's name
        colorize: bool | None = None,
        hostname: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Give the root and the task logger their handlers, unless setup_logging has a receiver: it decides.

        Without worker_hijack_root_logger, where the root has handlers, nothing is changed.

        Returns the answers of the receivers of setup_logging; None: logging has been set up before.

        Raises:
            OSError: the file can't be opened.
        """
        if self.already_setup:
            return None
        self.already_setup = True
        level = mlevel(loglevel or self.loglevel)
        form = format or self.format
        color = self.supports_color(colorize, logfile)
        facts: Mapping[str, Any] = {
            "loglevel": level, "logfile": logfile, "format": form, "colorize": color
        }  # fmt: skip
        # What is printed must not fail where the locale's encoding has no such character.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        answers = signals.setup_logging.send(sender=None, **facts)
        if answers:
            return answers
        root = logging.getLogger()
        if self.app.conf.worker_hijack_root_logger:
            for each in (root, base_logger, task_logger, get_logger("celery.redirected")):
                each.handlers = []
        elif self._is_configured(root):
            # The project's own: a handler at the task logger would take lines from it, or double them.
            signals.after_setup_logger.send(sender=None, logger=root, **facts)
            signals.after_setup_task_logger.send(sender=None, logger=task_logger, **facts)
            return answers
        self.setup_handlers(root, logfile, form, color, datefmt=self.app.conf.worker_log_datefmt, **kwargs)
        root.setLevel(level)
        signals.after_setup_logger.send(sender=None, logger=root, **facts)
        self.setup_task_loggers(level, logfile, colorize=colorize)
        return answers

    def setup_task_loggers(
        self,
        loglevel: int | str | None = None,
        logfile: LogFile = None,
        format: str | None = None,  # noqa: A002
        colorize: bool | None = None,
        propagate: bool = False,
        **kwargs: Any,
    ) -> logging.Logger:
        """Give the logger ``celery.task`` a handler whose lines name the task; returns it."""
        level = mlevel(loglevel or self.loglevel)
        form = format or self.task_format
        color = self.supports_color(colorize, logfile)
        kwargs.setdefault("datefmt", self.app.conf.worker_task_log_datefmt)
        self.setup_handlers(task_logger, logfile, form, color, formatter=TaskFormatter, **kwargs)
        task_logger.setLevel(level)
        task_logger.propagate = bool(propagate)
        signals.after_setup_task_logger.send(
            sender=None, logger=task_logger, loglevel=level, logfile=logfile, format=form, colorize=color
        )
        return task_logger

    def setup_handlers(
        self,
        logger: logging.Logger,
        logfile: LogFile,
        format: str,  # noqa: A002
        colorize: bool | None,
        formatter: type[ColorFormatter] = ColorFormatter,
        **kwargs: Any,
    ) -> logging.Logger:
        """Give a logger a handler unless it has one; ``kwargs`` go to the formatter. Returns the logger."""
        if not self._is_configured(logger):
            handler = handler_for(logfile)
            handler.setFormatter(formatter(format, use_color=colorize, **kwargs))
            logger.addHandler(handler)
        return logger

    def redirect_stdouts(
        self, loglevel: int | str | None = None, name: str = "celery.redirected"
    ) -> None:
        """Have what is printed logged, by the logger ``name`` and at this level."""
        self.redirect_stdouts_to_logger(get_logger(name), loglevel=loglevel)
        os.environ.update(CELERY_LOG_REDIRECT="1", CELERY_LOG_REDIRECT_LEVEL=str(loglevel or ""))

    def redirect_stdouts_to_logger(
        self,
        logger: logging.Logger,
        loglevel: int | str | None = None,
        stdout: bool = True,
        stderr: bool = True,
    ) -> LoggingProxy:
        """Put a file that logs in the place of standard output and error; returns it."""
        proxy: Any = Redirect(logger, loglevel)
        if stdout:
            sys.stdout = proxy
        if stderr:
            sys.stderr = proxy
        return proxy  # type: ignore[no-any-return]

    def supports_color(self, colorize: bool | None = None, logfile: LogFile = None) -> bool:
        """Return whether lines have colours: asked for, or nothing said, and written to a terminal.

        The variable NO_COLOR, where it isn't empty, says that there are none.
        """
        wanted = self.colorize if colorize is None else colorize
        if (wanted is not None and not wanted) or os.environ.get("NO_COLOR"):
            return False
        stream = sys.__stderr__
        return logfile is None and stream is not None and not stream.closed and stream.isatty()

    def get_default_logger(self, name: str = "celery", **kwargs: Any) -> logging.Logger:
        """Return the logger of this name."""
        return get_logger(name)

    @staticmethod
    def _is_configured(logger: logging.Logger) -> bool:
        return any(not isinstance(handler, logging.NullHandler) for handler in logger.handlers)
