"""What is asked for when somebody opens a row: a worker's children, a dead letter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emq_compat.errors import MessageError
from emq_compat.message import Headers, Job
from emq_compat.monitor.dashboard.broker import Broker, ask_worker

__all__ = ["arguments_in", "dead_letter", "dead_letters", "worker"]

#: Characters of arguments that are shown; dead letters that are told at once.
_SHOWN = 4000
_MORE = 100


def worker(broker: Broker, name: str, *, show_args: bool) -> dict[str, Any]:
    """Return what a worker tells of itself; raises as ``ask_worker``."""
    told = ask_worker(broker, name, "stats")
    active = ask_worker(broker, name, "active")
    pool = told.get("pool") or {}
    running = {one.get("worker_pid"): one for one in active if one.get("worker_pid")}
    pids = pool.get("processes")
    completed = pool.get("completed") or {}
    return {
        "pool": pool.get("implementation"),
        "concurrency": pool.get("max-concurrency"),
        "uptime_s": told.get("uptime"),
        "total": told.get("total_requests"),
        "memory_kb": (told.get("rusage") or {}).get("maxrss"),
        "autoscaled": "autoscaler" in told,
        "by_task": told.get("total") or {},
        "children": [
            {
                "pid": pid,
                "done": completed.get(str(pid), 0),
                **_running(running.get(pid), show_args=show_args),
            }
            for pid in (pids if isinstance(pids, list) else [])
        ],
    }


def _running(task: Mapping[str, Any] | None, *, show_args: bool) -> dict[str, Any]:
    if task is None:
        return {"task": None}
    told = {"task": task.get("name"), "task_id": task.get("id"), "since": task.get("time_start")}
    if show_args:
        told["arguments"] = f"{task.get('args')!r} {task.get('kwargs')!r}"[:_SHOWN]
    return told


def dead_letters(broker: Broker, after: int) -> list[dict[str, Any]]:
    """Return the dead letters behind this one."""
    rows: list[dict[str, Any]] = broker.ask("dead_list", after=after, limit=_MORE)
    return rows


def dead_letter(broker: Broker, key: int, *, show_args: bool) -> dict[str, Any]:
    """Return more of a dead letter."""
    row = broker.ask("dead_show", key=key)
    headers = Headers.decode(row["headers"])
    told = {
        "deliveries": row["deliveries"],
        "losses": row["losses"],
        "retries": headers.retries,
        "priority": headers.priority,
        "bytes": len(row["payload"]),
    }
    if show_args:
        told["arguments"] = arguments_in(row["payload"])
    return told


def arguments_in(payload: str) -> str:
    """Return a message's arguments for people."""
    try:
        job = Job.decode(payload.encode("utf-8", "surrogatepass"))
    except MessageError:
        return payload[:_SHOWN]
    given = [*map(repr, job.args), *(f"{name}={value!r}" for name, value in job.kwargs.items())]
    return ", ".join(given)[:_SHOWN]
