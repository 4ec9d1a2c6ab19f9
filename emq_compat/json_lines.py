"""A log in JSON (``--log-format json``): one object a line, for programs that read logs.

Members: ``timestamp`` (ISO 8601, UTC), ``level``, ``logger``, ``process``, ``pid``, ``message``; where the
line is about a task, or was logged while one ran, ``task_id``, ``task_name``, ``queue``, and at its end
``state`` and ``runtime_s``; ``exception``, a traceback; ``stack``, where the line was asked to have it.

Facts of a task are in a record's attribute ``data``, where Celery has them, too: id, name, queue, state,
runtime, and traceback where the message ends with it. Nothing else of it is written: Celery has arguments
and values there, too.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

__all__ = ["VARIABLE", "JsonLines", "in_json", "wanted"]

#: In the environment of processes that are started by one that writes JSON.
VARIABLE = "EMQ_LOG_FORMAT"

#: What ``data`` has → the member.
_MEMBERS = {"id": "task_id", "name": "task_name", "queue": "queue", "state": "state", "runtime": "runtime_s"}

#: How Celery's lines describe an end → its state.
_DESCRIBED = {
    "raised expected": "FAILURE",
    "raised unexpected": "FAILURE",
    "ignored": "IGNORED",
    "rejected": "REJECTED",
}


def wanted() -> bool:
    """Whether this process's log is to be in JSON, by its environment."""
    return os.environ.get(VARIABLE) == "json"


class JsonLines(logging.Formatter):
    """Formats records as JSON; what can't be formatted is told in its place.

    Args:
        running: what tells of the task that runs here: ``task_id`` …; empty: none does.
    """

    def __init__(self, running: Callable[[], Mapping[str, Any]] = dict) -> None:
        super().__init__()
        self._running = running

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        at = datetime.fromtimestamp(record.created, timezone.utc)
        try:
            message = record.getMessage()
        except Exception as exc:  # noqa: BLE001 - the arguments' own methods: a line must not be lost
            message = f"{record.msg!r} <can't be formatted: {type(exc).__name__}>"
        line: dict[str, Any] = {
            "timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.processName,
            "pid": record.process,
            "message": message,
            **self._running(),
        }
        traceback = ""
        data = getattr(record, "data", None)
        if isinstance(data, Mapping):
            told = {member: data.get(name) for name, member in _MEMBERS.items()}
            told["state"] = told["state"] or _state_of(data)
            line.update({member: value for member, value in told.items() if value is not None})
            traceback = _in_words(data.get("traceback") or "")
        if traceback:
            line["message"] = message.removesuffix(traceback).rstrip("\n")
        elif record.exc_info:
            traceback = _printed(record, self.formatException)
        if traceback:
            line["exception"] = traceback.rstrip("\n")
        if record.stack_info:
            line["stack"] = record.stack_info
        # ASCII: whatever the encoding of where it is written to, it stays JSON.
        return json.dumps(line, default=_in_words)


def _in_words(value: object) -> str:
    try:
        return str(value)
    except Exception as exc:  # noqa: BLE001 - the value's own method: a line must not be lost
        return f"<{type(value).__name__}: can't be shown: {type(exc).__name__}>"


def _state_of(data: Mapping[str, Any]) -> str | None:
    """Return the state of which a line of Celery's own tells."""
    return "SUCCESS" if "return_value" in data else _DESCRIBED.get(_in_words(data.get("description")))


def _printed(record: logging.LogRecord, printed: Callable[[Any], str]) -> str:
    try:
        return printed(record.exc_info)
    except Exception as exc:  # noqa: BLE001 - the exception's own methods
        return f"<can't be printed: {type(exc).__name__}>"


def in_json(
    handlers: Iterable[logging.Handler],
    plain: tuple[type[logging.Formatter], ...],
    running: Callable[[], Mapping[str, Any]] = dict,
) -> None:
    """Have these handlers write JSON, where their formatters are exactly of these classes.

    So what a project has set up by itself stays as it is.
    """
    for handler in handlers:
        if type(handler.formatter) in plain:
            handler.setFormatter(JsonLines(running))
