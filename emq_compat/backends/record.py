"""Celery's record of a result, ``{"status", "result", "traceback", "children", …}``, and the reply JSON.

A genuine Celery client reads what we write, and we read what a genuine Celery worker has written.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from emq_compat.message import FAILURE, RETRY, REVOKED, SUCCESS
from emq_compat.stored import StoredResult

__all__ = ["EXTENDED", "record_of", "result_of"]

_EXCEPTION_STATES = frozenset({FAILURE, RETRY, REVOKED})
#: What result_extended adds, under the same names in both.
EXTENDED = ("name", "args", "kwargs", "worker", "retries", "queue")
_SAME = (*EXTENDED, "group_id", "parent_id", "stamped_headers", "stamps")
_OUR_EXCEPTIONS = "emq_compat.shim.exceptions"


def record_of(task_id: str, reply: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record that Celery's stores keep for a reply."""
    state = str(reply.get("state") or SUCCESS)
    value = reply.get("value")
    error = reply.get("error")
    if state in _EXCEPTION_STATES and isinstance(error, Mapping):
        value = _exception_record(error)
    record: dict[str, Any] = {
        "status": state,
        "result": value,
        "traceback": reply.get("traceback") or None,
        "children": list(reply.get("children") or ()),
        "date_done": reply.get("date_done"),
        "task_id": task_id,
    }
    for name in _SAME:
        if name in reply:
            record[name] = reply[name]
    # Celery spreads the stamps over the record.
    record.update(record.pop("stamps", None) or {})
    return record


def _exception_record(error: Mapping[str, Any]) -> dict[str, Any]:
    module = error.get("module")
    args = list(error.get("args") or ())
    written = {
        "exc_type": error.get("type"),
        "exc_message": args,
        "exc_module": "celery.exceptions" if module == _OUR_EXCEPTIONS else module,
    }
    message = error.get("message")
    if message is not None and message != _text_of(args):
        # Celery reads past it; ours shows what the exception said, which its arguments don't tell.
        written["exc_text"] = message
    return written


def _text_of(args: list[Any]) -> str:
    """Return what BaseException.__str__ makes of these arguments."""
    if not args:
        return ""
    return str(args[0]) if len(args) == 1 else str(tuple(args))


def result_of(record: Mapping[str, Any]) -> StoredResult:
    """Return a record as a StoredResult."""
    state = str(record.get("status") or SUCCESS)
    value = record.get("result")
    reply: dict[str, Any] = {"state": state, "value": value}
    if state in _EXCEPTION_STATES and isinstance(value, Mapping) and "exc_type" in value:
        reply["error"] = _error_of(value)
        reply["value"] = reply["error"]["message"]
    if record.get("traceback"):
        reply["traceback"] = record["traceback"]
    if record.get("children"):
        reply["children"] = record["children"]
    date_done = record.get("date_done")
    if date_done:
        reply["date_done"] = date_done.isoformat() if isinstance(date_done, datetime) else date_done
    for name in _SAME:
        if record.get(name) is not None:
            reply[name] = record[name]
    stamps = {name: record[name] for name in record.get("stamped_headers") or () if name in record}
    if stamps:
        reply["stamps"] = stamps
    return StoredResult(state, reply=reply)


def _error_of(written: Mapping[str, Any]) -> dict[str, Any]:
    said = written.get("exc_message")
    args = list(said) if isinstance(said, (list, tuple)) else [said] if said not in (None, "") else []
    return {
        "type": written.get("exc_type"),
        "module": written.get("exc_module"),
        "args": args,
        # None: whatever the class makes of its arguments.
        "message": written.get("exc_text"),
    }
