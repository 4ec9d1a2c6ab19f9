"""Where a worker's log goes, and in which form."""

from __future__ import annotations

import io
import logging
import multiprocessing as multiprocessing  # logging asks it for the process's name
import sys
from pathlib import Path

import click

from emq_compat.errors import ConfigurationError

__all__ = ["CELERY_FORMAT", "log_level", "open_log"]

#: Celery's worker_log_format.
CELERY_FORMAT = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL")


def log_level(context: click.Context, option: click.Parameter, written: str) -> str:
    """Read ``-l``: a level's name in small or capital letters (a click callback)."""
    level = written.upper()
    if level not in _LEVELS:
        known = ", ".join(name.lower() for name in _LEVELS)
        raise click.BadParameter(f"{written!r} is none of {known}")
    return level


def open_log(level: str, file: Path | None, form: str, date_form: str | None = None, *, hijack: bool) -> None:
    """Set the root logger up: records of this level and above go to the file, or to standard error.

    Args:
        hijack: replace the handlers that are there; otherwise what the project has configured stays as it is
            (Celery's worker_hijack_root_logger).

    Raises:
        ConfigurationError: the file can't be opened.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What a task prints must not fail it where the locale's encoding has no such character.
        sys.stdout.reconfigure(errors="backslashreplace")
    root = logging.getLogger()
    if root.handlers and not hijack:
        return
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        try:
            handler = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
        except OSError as exc:
            raise ConfigurationError(f"the log file {file} can't be opened: {exc.strerror or exc}") from exc
    handler.setFormatter(logging.Formatter(form, date_form))
    root.handlers[:] = [handler]
    root.setLevel(level)
