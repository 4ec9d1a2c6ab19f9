"""Remote control: what a broker may ask a worker (docs/protocol.md), in the shape of Celery's ``inspect``."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from emq_compat.control_shapes import scheduled_shape
from emq_compat.errors import ConfigurationError, MessageError
from emq_compat.manager import health
from emq_compat.manager.autoscale import Autoscaler
from emq_compat.manager.inflight import JobInFlight
from emq_compat.message import Delivery, Headers, Job, Reply
from emq_compat.pidbox import COMMAND
from emq_compat.pool.base import Pool
from emq_compat.protocol.answers import error_body
from emq_compat.run import Program
from emq_compat.upstream.base import Upstream

__all__ = ["Controlled", "answer", "do"]


logger = logging.getLogger("emq_compat.jobmanager")


#: Messages that wait for their time, in one answer.
_SCHEDULED = 1000


class Controlled(Protocol):
    """What remote control needs of a job manager."""

    name: str
    queues: tuple[tuple[int, str], ...]
    program: Program
    pool: Pool
    upstreams: tuple[Upstream, ...]
    jobs_in_flight: dict[str, JobInFlight]
    total_requests: int
    pid_distribution: dict[int, int]
    runs_by_task: dict[str, int]
    max_tasks_per_child: int | None
    started_at: float
    autoscaler: Autoscaler | None
    received_disconnect: bool

    def is_connected(self, upstream: Upstream) -> bool: ...

    def revoke(self, ids: Sequence[str], *, terminate: bool, signum: int) -> dict[str, str]: ...

    def shut_down(self) -> None: ...

    def listen(self, queues: Sequence[tuple[int, str]]) -> None: ...


def do(manager: Controlled, verb: str, arguments: Mapping[str, Any]) -> Any:
    """Do what was asked and return the answer; raises LookupError for an unknown verb, and what it raises."""
    return _VERBS[verb](manager, arguments)


def answer(manager: Controlled, verb: str, arguments: Mapping[str, Any]) -> bytes:
    """Do what was asked and return the answer's JSON document; never raises an Exception."""
    asked = _VERBS.get(verb)
    try:
        if asked is not None:
            ok = asked(manager, arguments)
        else:
            ok = manager.program.onlooker.asked(manager, verb, arguments)
        document: dict[str, Any] = {"ok": ok}
        return json.dumps(document, default=repr).encode()
    except Exception as exc:  # noqa: BLE001 - a question must not stop the worker; the answer tells the error
        return error_body(type(exc).__name__, str(exc))


def _ping(manager: Controlled, arguments: Mapping[str, Any]) -> Any:
    return "pong"


def _health(manager: Controlled, arguments: Mapping[str, Any]) -> Any:
    return health.checks(manager)


def _active(manager: Controlled, arguments: Mapping[str, Any]) -> Any:
    return [_described(manager, job) for job in manager.jobs_in_flight.values() if job.began_at]


def _reserved(manager: Controlled, arguments: Mapping[str, Any]) -> Any:
    return [_described(manager, job) for job in manager.jobs_in_flight.values() if not job.began_at]


def _scheduled(manager: Controlled, arguments: Mapping[str, Any]) -> Any:
    """Return what is held here for its time; most brokers keep it themselves."""
    held = [delivery for upstream in manager.upstreams for delivery in upstream.scheduled()]
    return [
        scheduled_shape(
            {
                "queue": delivery.queue,
                "msgid": delivery.msgid,
                "headers": delivery.headers.encode(),
                "payload": delivery.payload.decode("utf-8", "replace"),
            },
            manager.name,
        )
        for delivery in held[:_SCHEDULED]
    ]


def _registered(manager: Controlled, arguments: Mapping[str, Any]) -> Any:
    return sorted(manager.program.policies or ())


def _stats(manager: Controlled, arguments: Mapping[str, Any]) -> Any:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    told = {
        "total": {task: count for task, count in manager.runs_by_task.items() if count},
        "pid": os.getpid(),
        "uptime": int(time.monotonic() - manager.started_at),
        "total_requests": manager.total_requests,
        "pool": {
            "implementation": manager.pool.name,
            "max-concurrency": manager.pool.concurrency,
            "processes": manager.pool.pids(),
            "max-tasks-per-child": manager.max_tasks_per_child or "N/A",
            "completed": {str(pid): count for pid, count in manager.pid_distribution.items()},
        },
        "rusage": {
            name.removeprefix("ru_"): getattr(usage, name) for name in dir(usage) if name.startswith("ru_")
        },
    }
    upstreams = [figures for upstream in manager.upstreams if (figures := upstream.stats())]
    if upstreams:
        told["upstreams"] = upstreams
    if manager.autoscaler is not None:
        told["autoscaler"] = manager.autoscaler.info()
    return manager.program.onlooker.stats(told)


def _active_queues(manager: Controlled, arguments: Mapping[str, Any]) -> Any:
    return [{"name": name, "weight": weight} for weight, name in manager.queues]


def _query_task(manager: Controlled, arguments: Mapping[str, Any]) -> Any:
    wanted = set(_ids(arguments))
    return {
        job.task_id: ["active" if job.began_at else "reserved", _described(manager, job)]
        for job in manager.jobs_in_flight.values()
        if job.task_id in wanted
    }


def _revoke(manager: Controlled, arguments: Mapping[str, Any]) -> Any:
    name = str(arguments.get("signal") or "SIGTERM")
    signum = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", None)
    if not isinstance(signum, signal.Signals):
        raise ValueError(f"no signal is named {name!r}")
    return manager.revoke(_ids(arguments), terminate=bool(arguments.get("terminate")), signum=signum)


def _ended(manager: Controlled, arguments: Mapping[str, Any]) -> Any:
    """Take note of a job that the broker ended before any worker had it."""
    told = arguments["reply"]
    delivery = Delivery(
        msgid=str(arguments["msgid"]),
        queue=str(arguments["queue"]),
        headers=Headers.decode(str(arguments["headers"])),
        payload=str(arguments["payload"]).encode(),
    )
    reply = Reply(state=str(told.get("state")), body=json.dumps(told).encode(), unattended=True)
    manager.program.onlooker.unattended(delivery, reply)
    return True


def _command(manager: Controlled, arguments: Mapping[str, Any]) -> Any:
    """Run a command of Celery's remote control; what it raises is told as Celery's workers tell it."""
    method, given = arguments.get("method"), arguments.get("arguments") or {}
    if not isinstance(method, str) or not isinstance(given, dict):
        raise ValueError("a command needs 'method', a name, and 'arguments', an object")
    try:
        return manager.program.onlooker.commanded(manager, method, given)
    except Exception as exc:
        logger.exception("the command %r of remote control failed", method)
        return {"error": repr(exc)}


def _shutdown(manager: Controlled, arguments: Mapping[str, Any]) -> Any:
    manager.shut_down()
    return True


def _pool_grow(manager: Controlled, arguments: Mapping[str, Any]) -> Any:
    count = _count(arguments)
    _refuse_scaled(manager, "pool_grow")
    if manager.pool.name == "solo":
        raise ConfigurationError("the solo pool runs one job at a time")
    manager.pool.grow(count)
    return manager.pool.concurrency


def _pool_shrink(manager: Controlled, arguments: Mapping[str, Any]) -> Any:
    count = _count(arguments)
    _refuse_scaled(manager, "pool_shrink")
    if count >= manager.pool.concurrency:
        raise ValueError(f"a pool of {manager.pool.concurrency} can't shrink by {count}")
    manager.pool.shrink(count)
    return manager.pool.concurrency


def _refuse_scaled(manager: Controlled, verb: str) -> None:
    if manager.autoscaler is not None:
        raise ConfigurationError(f"{verb}: this worker scales itself; change its limits with autoscale")


def _add_consumer(manager: Controlled, arguments: Mapping[str, Any]) -> Any:
    queue = _queue(arguments)
    if all(name != queue for _, name in manager.queues):
        manager.listen((*manager.queues, (manager.queues[0][0] if manager.queues else 10, queue)))
    return [name for _, name in manager.queues]


def _cancel_consumer(manager: Controlled, arguments: Mapping[str, Any]) -> Any:
    queue = _queue(arguments)
    left = tuple(entry for entry in manager.queues if entry[1] != queue)
    if not left:
        raise ValueError(f"{queue!r} is the only queue listened on")
    if len(left) < len(manager.queues):
        manager.listen(left)
    return [name for _, name in manager.queues]


_VERBS: dict[str, Callable[[Controlled, Mapping[str, Any]], Any]] = {
    "ping": _ping,
    "health": _health,
    "active": _active,
    "reserved": _reserved,
    "scheduled": _scheduled,
    "registered": _registered,
    "stats": _stats,
    "active_queues": _active_queues,
    "query_task": _query_task,
    "revoke": _revoke,
    "ended": _ended,
    COMMAND: _command,
    "shutdown": _shutdown,
    "pool_grow": _pool_grow,
    "pool_shrink": _pool_shrink,
    "add_consumer": _add_consumer,
    "cancel_consumer": _cancel_consumer,
}


def _ids(arguments: Mapping[str, Any]) -> list[str]:
    ids = arguments.get("ids")
    if isinstance(ids, str):
        return [ids]
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise ValueError("'ids' is not a list of task ids")
    return ids


def _count(arguments: Mapping[str, Any]) -> int:
    count = arguments.get("n", 1)
    if type(count) is not int or not 1 <= count <= 10_000:
        raise ValueError(f"'n' is {count!r}, not a whole number from 1")
    return count


def _queue(arguments: Mapping[str, Any]) -> str:
    queue = arguments.get("queue")
    if not isinstance(queue, str) or not queue:
        raise ValueError("'queue' is not a name")
    return queue


def _described(manager: Controlled, job: JobInFlight) -> dict[str, Any]:
    headers = job.delivery.headers
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}
    try:
        decoded = Job.decode(job.delivery.payload)
        args, kwargs = decoded.args, decoded.kwargs
    except MessageError:
        pass  # what it is called and where it runs can still be told
    return {
        "id": job.task_id,
        "name": headers.task or job.delivery.msgid,
        "type": headers.task or job.delivery.msgid,
        "args": list(args),
        "kwargs": dict(kwargs),
        "hostname": manager.name,
        "time_start": job.began_at or None,
        "worker_pid": job.pid or None,
        "acknowledged": not job.policy.acks_late,
        "delivery_info": {
            "exchange": "",
            "routing_key": job.delivery.queue,
            "priority": headers.priority,
            "redelivered": headers.redelivered,
        },
    }
