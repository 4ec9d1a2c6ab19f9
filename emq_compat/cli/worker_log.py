"""Where a job manager's log goes; a worker's is its app's (shim/log.py)."""

from __future__ import annotations

import io
import logging
import multiprocessing as multiprocessing  # logging asks it for the process's name
import sys
from pathlib import Path

import click

from emq_compat.errors import ConfigurationError
from emq_compat.json_lines import JsonLines
from emq_compat.shim.log import handler_for

__all__ = ["log_level", "open_log"]

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL")


def log_level(context: click.Context, option: click.Parameter, written: str) -> str:
    """Read ``-l``: a level's name in small or capital letters (a click callback)."""
    level = written.upper()
    if level not in _LEVELS:
        known = ", ".join(name.lower() for name in _LEVELS)
        raise click.BadParameter(f"{written!r} is none of {known}")
    return level


def open_log(level: str, file: Path | None, form: str, *, json: bool) -> None:
    """Set the root logger up: records of this level and above go to the file, or to standard error;
    in this format, or in JSON.

    Raises:
        ConfigurationError: the file can't be opened.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What a task prints must not fail it where the locale's encoding has no such character.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        handler = handler_for(file)
    except OSError as exc:
        raise ConfigurationError(f"the log file {file} can't be opened: {exc.strerror or exc}") from exc
    handler.setFormatter(JsonLines() if json else logging.Formatter(form))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
