"""What is asked of workers, and what they and the broker answer, in the shapes of Celery's remote control."""

from __future__ import annotations

import signal as signals
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from typing import Any, Final

from emq_compat.errors import MessageError
from emq_compat.message import Headers, Job

__all__ = [
    "asked_of_workers",
    "celery_shape",
    "command_named",
    "listed",
    "scheduled_shape",
    "signal_name",
    "told_of_revoke",
    "told_of_stamps",
]

#: Celery's timer gives each task with an ETA this one; it is no message's priority.
_TIMER_PRIORITY = 6


#: Old names of commands → their names.
_OLD_NAMES: Final = {
    "dump_active": "active",
    "dump_conf": "conf",
    "dump_reserved": "reserved",
    "dump_revoked": "revoked",
    "dump_schedule": "scheduled",
    "dump_tasks": "registered",
}


def command_named(name: str) -> str:
    """Return a command's name, where ``name`` may be an old one of it."""
    return _OLD_NAMES.get(name, name)


def asked_of_workers(command: str) -> str:
    """Return the verb by which workers are asked: they tell more of their tasks than a job manager does."""
    return "task_info" if command == "registered" else command


def listed(given: Any) -> list[str]:
    """Return ids that come as one, or as several."""
    return [given] if isinstance(given, str) else [str(one) for one in given]


def signal_name(given: Any) -> str:
    """Return the name of a signal: ``SIGTERM``, of that, ``TERM``, or its number; None: SIGTERM.

    Raises:
        ValueError: there is no such signal.
    """
    if given is None:
        return "SIGTERM"
    text = given if isinstance(given, str) else str(int(given))
    try:
        if text.isdecimal():
            return signals.Signals(int(text)).name
        name = text.upper()
        return signals.Signals[name if name.startswith("SIG") else f"SIG{name}"].name
    except (ValueError, KeyError):
        raise ValueError(f"there is no signal {given!r}") from None


def told_of_stamps(stamps: Mapping[str, Any], *, terminate: bool, ended: Mapping[str, str]) -> str:
    """Return what is told of a revoke by stamps; ``ended``: task id → what became of it."""
    if not terminate:
        return f"headers {dict(stamps)} flagged as revoked, but not terminated"
    done = "revoked" if "terminating" in ended.values() else "were not terminated"
    return f"headers {dict(stamps)} {done}"


def celery_shape(command: str, arguments: Mapping[str, Any], answer: Mapping[str, Any]) -> Any:
    """Return a worker's answer as Celery's worker would have put it."""
    if "error" in answer:
        error = answer["error"]
        told = f"{error.get('type')}({error.get('message')!r})" if isinstance(error, Mapping) else str(error)
        return {"error": told}
    value = answer.get("ok")
    shape = _SHAPES.get(command)
    return value if shape is None else shape(arguments, value)


def _queue(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a queue with the keys that kombu's have."""
    absent = (
        "alias", "binding_arguments", "consumer_arguments", "expires", "max_length", "max_length_bytes",
        "max_priority", "message_ttl", "no_declare", "queue_arguments",
    )  # fmt: skip
    return {
        **dict.fromkeys(absent),
        "name": entry["name"],
        "routing_key": entry["name"],
        "exchange": {
            "name": entry["name"], "type": "direct", "arguments": None, "durable": True, "passive": False,
            "auto_delete": False, "delivery_mode": None, "no_declare": False,
        },
        "bindings": [],
        "durable": True,
        "exclusive": False,
        "auto_delete": False,
        "no_ack": False,
    }  # fmt: skip


def told_of_revoke(ids: Iterable[str], ended: Mapping[str, str], *, terminate: bool) -> dict[str, str]:
    """Return what is told of a revoke; ``ended``: task id → what became of it."""
    if not terminate:
        return {"ok": f"tasks {set(ids)} flagged as revoked"}
    ending = [one for one, what in ended.items() if what == "terminating"]
    return {"ok": f"terminate: {', '.join(ending) or 'tasks unknown'}"}


def _of_revoke(arguments: Mapping[str, Any], value: Any) -> Any:
    terminate = bool(arguments.get("terminate"))
    # What a worker held and hadn't begun has ended by this, too: Celery names it as what ran.
    ended = {one: "terminating" if what == "revoked" else what for one, what in (value or {}).items()}
    return told_of_revoke(arguments.get("ids") or (), ended, terminate=terminate)


def _active(arguments: Mapping[str, Any], value: Iterable[Mapping[str, Any]]) -> list[Any]:
    if not arguments.get("safe"):
        return list(value)
    return [{**one, "args": repr(one.get("args")), "kwargs": repr(one.get("kwargs"))} for one in value]


_SHAPES: dict[str, Callable[[Mapping[str, Any], Any], Any]] = {
    "active": _active,
    "ping": lambda arguments, value: {"ok": value},
    "active_queues": lambda arguments, value: [_queue(entry) for entry in value],
    "add_consumer": lambda arguments, value: {"ok": f"add consumer {arguments.get('queue')}"},
    "cancel_consumer": lambda arguments, value: {"ok": f"no longer consuming from {arguments.get('queue')}"},
    "pool_grow": lambda arguments, value: {"ok": "pool will grow"},
    "pool_shrink": lambda arguments, value: {"ok": "pool will shrink"},
    "revoke": _of_revoke,
    "stats": lambda arguments, value: {"prefetch_count": 0, **value},
}


def scheduled_shape(row: Mapping[str, Any], node: str) -> dict[str, Any]:
    """Return a delayed message of the broker as the worker ``node`` would show it in Celery."""
    headers = Headers.decode(row["headers"])
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    try:
        job = Job.decode((row["payload"] or "").encode())
        args, kwargs = list(job.args), dict(job.kwargs)
    except MessageError:
        pass  # too large to be shown, or no task
    return {
        "eta": datetime.fromtimestamp(headers.eta, timezone.utc).isoformat(),
        "priority": _TIMER_PRIORITY,
        "request": {
            "id": headers.task_id or row["msgid"],
            "name": headers.task or row["msgid"],
            "args": args,
            "kwargs": kwargs,
            "type": headers.task or row["msgid"],
            "hostname": node,
            "time_start": None,
            "acknowledged": False,
            "delivery_info": {
                "exchange": "",
                "routing_key": row["queue"],
                "priority": headers.priority,
                "redelivered": headers.redelivered,
            },
            "worker_pid": None,
        },
    }
