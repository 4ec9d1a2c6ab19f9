"""The commands of remote control: Celery's, and a project's own.

A project registers its own in its task modules, as with Celery::

    @control_command(args=[("n", int)], signature="[N=1]")
    def increase(state, n=1):
        return {"ok": ...}

They run in the worker's parent, from its loop: a command that takes long holds everything up. What a job
manager can do without an app (``manager/control.py``) it does itself; here is the same under Celery's names
and arguments, which the command line reads.
"""

from __future__ import annotations

import importlib
import io
import logging
import sys
import tempfile
from collections.abc import Iterable, Mapping
from signal import Signals
from typing import Any

from emq_compat.control_shapes import celery_shape, signal_name, told_of_stamps
from emq_compat.manager import control
from emq_compat.shim.canvas.launch import LAUNCH
from emq_compat.shim.checks import check_limits, interval_of, limit_of
from emq_compat.shim.panel_registry import (
    Panel,
    State,
    control_command,
    controller_info_t,
    inspect_command,
    nok,
    ok,
)
from emq_compat.shim.revoked_states import note_revoked
from emq_compat.shim.surface import debug
from emq_compat.shim.surface.apps import bugreport
from emq_compat.shim.surface.serialization import strtobool
from emq_compat.stamps import stamps_in, tags_of

__all__ = [
    "Panel",
    "State",
    "active",
    "active_queues",
    "add_consumer",
    "autoscale",
    "cancel_consumer",
    "clock",
    "conf",
    "control_command",
    "controller_info_t",
    "election",
    "heartbeat",
    "hello",
    "inspect_command",
    "memdump",
    "memsample",
    "nok",
    "objgraph",
    "ok",
    "ping",
    "pool_grow",
    "pool_restart",
    "pool_shrink",
    "query_task",
    "rate_limit",
    "registered",
    "report",
    "reserved",
    "revoke",
    "revoke_by_stamped_headers",
    "revoked",
    "run",
    "scheduled",
    "shutdown",
    "stats",
    "terminate",
    "time_limit",
]

logger = logging.getLogger("celery.worker.control")


def run(state: State, verb: str, arguments: Mapping[str, Any]) -> Any:
    """Run a command and return its answer.

    Raises:
        LookupError: there is none of this name.
        Exception: what the command raises.
    """
    command = Panel.data.get(verb)
    if command is None:
        raise LookupError(f"this worker has no command {verb!r}")
    return command(state, **arguments)


def _done(state: State, verb: str, **arguments: Any) -> Any:
    """Have the job manager do what it can do by itself; returns the answer in Celery's shape."""
    return celery_shape(verb, arguments, {"ok": control.do(state.worker, verb, arguments)})


# What only looks.


@inspect_command()
def report(state: State, **kwargs: Any) -> Any:
    """Versions and settings, for bug reports."""
    return ok(bugreport(state.app))


@inspect_command(alias="dump_conf", args=[("with_defaults", strtobool)], signature="[include_defaults=False]")
def conf(state: State, with_defaults: bool = False, **kwargs: Any) -> Any:
    """The settings, secrets masked, and which of Celery 3's names they were read by."""
    found = state.app.conf.table(with_defaults=with_defaults)
    shown = {str(name): value for name, value in found.items()}
    return {**shown, "deprecated_settings": state.app.conf.deprecated_settings}


@inspect_command(variadic="ids", signature="[id1 [id2 [... [idN]]]]")
def query_task(state: State, ids: Any, **kwargs: Any) -> Any:
    """What is known of tasks that a worker has, by their ids."""
    return _done(state, "query_task", ids=_ids(ids))


@inspect_command()
def clock(state: State, **kwargs: Any) -> Any:
    """The number by which this worker's events are ordered."""
    return {"clock": state.app.clock.forward()}


@inspect_command(visible=False)
def hello(state: State, from_node: str, revoked: Any = None, **kwargs: Any) -> Any:
    """What a worker that starts asks of the others."""
    if from_node == state.hostname:
        return None
    if revoked:
        state.worker.revokes.add(str(one) for one in revoked)
    return {"revoked": sorted(state.worker.revoked), **clock(state)}


@inspect_command(default_timeout=0.2)
def ping(state: State, **kwargs: Any) -> Any:
    """Whether a worker is there: it answers pong."""
    return _done(state, "ping")


@inspect_command()
def stats(state: State, **kwargs: Any) -> Any:
    """The process, its pool, how many tasks ran, the resources in use."""
    return _done(state, "stats")


@inspect_command(alias="dump_schedule")
def scheduled(state: State, **kwargs: Any) -> Any:
    """The tasks that wait here for their ETA; an emq:// broker keeps them itself."""
    return _done(state, "scheduled")


@inspect_command(alias="dump_reserved")
def reserved(state: State, **kwargs: Any) -> Any:
    """The tasks that were taken in and have not begun."""
    return _done(state, "reserved")


@inspect_command(alias="dump_active")
def active(state: State, safe: bool = False, **kwargs: Any) -> Any:
    """The tasks that run."""
    return _done(state, "active", safe=safe)


@inspect_command(alias="dump_revoked")
def revoked(state: State, **kwargs: Any) -> Any:
    """The ids of revoked tasks."""
    return sorted(state.worker.revoked)


@inspect_command(alias="dump_tasks", variadic="taskinfoitems", signature="[attr1 [attr2 [... [attrN]]]]")
def registered(
    state: State, taskinfoitems: Iterable[str] | None = None, builtins: bool = False, **kwargs: Any
) -> Any:
    """The names of the registered tasks, each with the attributes asked for."""
    items = [item for item in taskinfoitems or _TASK_INFO if not item.startswith("_")]

    def described(name: str) -> str:
        task = state.app.tasks[name]
        found = {item: getattr(task, item, None) for item in items}
        shown = [f"{item}={value}" for item, value in found.items() if value is not None]
        return f"{name} [{' '.join(shown)}]" if shown else name

    return [described(name) for name in sorted(state.app.tasks) if builtins or not _is_builtin(name)]


#: The job manager's own verb ``registered`` tells names only, and of plain functions, too.
Panel.data["task_info"] = registered


#: What is told of a task unless something else is asked for.
_TASK_INFO = ("exchange", "routing_key", "rate_limit")


def _is_builtin(name: str) -> bool:
    return name.startswith("celery.") or name == LAUNCH


@inspect_command(
    default_timeout=60.0,
    args=[("type", str), ("num", int), ("max_depth", int)],
    signature="[object_type=Request] [num=200 [max_depth=10]]",
)
def objgraph(
    state: State,
    num: int = 200,
    max_depth: int = 10,
    type: str = "Request",  # noqa: A002 - Celery's name
) -> Any:
    """Draw what keeps the objects of a type alive, into a file (needs the library objgraph)."""
    try:
        drawing = importlib.import_module("objgraph")
    except ImportError as exc:
        raise ImportError("the library objgraph is not installed on this worker") from exc
    found = drawing.by_type(type)[:num]
    with tempfile.NamedTemporaryFile(prefix="cobjg", suffix=".png", delete=False) as file:
        drawing.show_backrefs(
            found, max_depth=max_depth, highlight=lambda value: value in found, filename=file.name
        )
    return {"filename": file.name}


@inspect_command()
def memsample(state: State, **kwargs: Any) -> Any:
    """Note the memory in use, for memdump, and tell it."""
    return debug.sample_mem()


@inspect_command(args=[("samples", int)], signature="[n_samples=10]")
def memdump(state: State, samples: int = 10, **kwargs: Any) -> Any:
    """The notes that memsample has made, and the memory in use now."""
    out = io.StringIO()
    debug.memdump(samples, file=out)
    return out.getvalue()


@inspect_command()
def active_queues(state: State, **kwargs: Any) -> Any:
    """The queues that are listened on."""
    return _done(state, "active_queues")


# What changes something.


@control_command(variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
def revoke(state: State, task_id: Any, terminate: bool = False, signal: Any = None, **kwargs: Any) -> Any:
    """Keep tasks from running, by their ids."""
    ids = _ids(task_id)
    state.worker.revokes.add(ids)
    arguments = {"ids": ids, "terminate": terminate, "signal": signal and signal_name(signal)}
    ended = control.do(state.worker, "revoke", arguments)
    if not all(upstream.keeps_revokes for upstream in state.worker.upstreams):
        # Their messages may come to a worker much later.
        note_revoked(state.app.backend, [one for one in ids if ended[one] == "unknown"])
    return celery_shape("revoke", arguments, {"ok": ended})


@control_command(visible=False, name="note_revoked")
def _note_revoked(state: State, task_id: Any, **kwargs: Any) -> Any:
    """The broker has revoked tasks that it knows nothing of: their state is this worker's to store."""
    note_revoked(state.app.backend, _ids(task_id))
    return ok("noted")


@control_command(args=[("signal", str)], variadic="task_id", signature="<signal> [id1 [id2 [... [idN]]]]")
def terminate(state: State, signal: str, task_id: Any, **kwargs: Any) -> Any:
    """Keep tasks from running, and end those that run by a signal (TERM, KILL …)."""
    return revoke(state, task_id, terminate=True, signal=signal)


@control_command(variadic="headers", signature="[key1=value1 [key2=value2 [... [keyN=valueN]]]]")
def revoke_by_stamped_headers(
    state: State, headers: Any, terminate: bool = False, signal: Any = None, **kwargs: Any
) -> Any:
    """Keep tasks from running that have one of these stamps."""
    stamps = stamps_in(headers)
    tags = tags_of(stamps)
    state.worker.revoked_tags.add(tags)
    held = [
        job
        for job in state.worker.jobs_in_flight.values()
        if not set(tags).isdisjoint(job.delivery.headers.tags.split(";"))
    ]
    ids = [job.task_id for job in held]
    ended = state.worker.revoke(ids, terminate=bool(terminate), signum=Signals[signal_name(signal)])
    return ok(told_of_stamps(stamps, terminate=bool(terminate), ended=ended))


@control_command()
def enable_events(state: State, **kwargs: Any) -> Any:
    """Send events of tasks."""
    changed = state.worker.program.onlooker.send_task_events(state.worker, True)
    return ok("task events enabled" if changed else "task events already enabled")


@control_command()
def disable_events(state: State, **kwargs: Any) -> Any:
    """Send no events of tasks."""
    changed = state.worker.program.onlooker.send_task_events(state.worker, False)
    return ok("task events disabled" if changed else "task events already disabled")


@control_command(
    args=[("task_name", str), ("rate_limit", str)],
    signature="<task_name> <rate_limit (e.g., 5/s | 5/m | 5/h)>",
)
def rate_limit(state: State, task_name: str, rate_limit: Any = None, **kwargs: Any) -> Any:
    """Change how often a task may run on this worker."""
    if task_name not in state.app.tasks:
        return nok("unknown task")
    if state.app.conf.worker_disable_rate_limits:
        return nok("rate limits are disabled")
    try:
        interval_s = interval_of(rate_limit)
    except ValueError as exc:
        return nok(f"Invalid rate limit string: {exc}")
    state.worker.limit_rate(task_name, interval_s)
    state.app.tasks[task_name].rate_limit = rate_limit
    return ok("new rate limit set successfully" if interval_s else "rate limit disabled successfully")


@control_command(
    args=[("task_name", str), ("soft", float), ("hard", float)],
    signature="<task_name> <soft_secs> [hard_secs]",
)
def time_limit(
    state: State, task_name: str, hard: float | None = None, soft: float | None = None, **kwargs: Any
) -> Any:
    """Change a task's limits on this worker."""
    if task_name not in state.app.tasks:
        return nok("unknown task")
    hard_s, soft_s = limit_of("time_limit", hard), limit_of("soft_time_limit", soft)
    check_limits(hard_s, soft_s)
    state.worker.program.limit_time(task_name, hard_s, soft_s)
    return ok("time limits set successfully")


@control_command()
def election(state: State, id: str, topic: str, action: Any = None, **kwargs: Any) -> Any:  # noqa: A002
    """Do what an election was held for; the one who asked has chosen this worker."""
    handler = state.consumer.election_handlers.get(topic)
    if handler is None:
        return nok(f"unknown election topic {topic!r}")
    logger.info("elected by %s for %s", id, topic)
    handler(action)
    return ok("elected")


@control_command()
def heartbeat(state: State, **kwargs: Any) -> None:
    """Send the event worker-heartbeat now, where events are sent."""
    teller = state.consumer.controller.teller
    if teller is not None:
        teller.beat(state.worker)


@control_command(args=[("n", int)], signature="[N=1]")
def pool_grow(state: State, n: int = 1, **kwargs: Any) -> Any:
    """Run so many tasks more at once."""
    return _done(state, "pool_grow", n=n)


@control_command(args=[("n", int)], signature="[N=1]")
def pool_shrink(state: State, n: int = 1, **kwargs: Any) -> Any:
    """Run so many tasks less at once."""
    return _done(state, "pool_shrink", n=n)


@control_command()
def pool_restart(
    state: State, modules: Iterable[str] | None = None, reload: bool = False, **kwargs: Any
) -> Any:
    """Replace the pool's processes or threads; with modules to load, or reload, start the worker again.

    It starts again once what runs is done, and imports those modules, too: nothing of an old one stays.
    """
    if not state.app.conf.worker_pool_restarts:
        raise ValueError("Pool restarts not enabled")
    if modules is not None and not (
        isinstance(modules, (list, tuple)) and all(isinstance(name, str) for name in modules)
    ):
        raise ValueError("'modules' is not a list of names")
    new = [name for name in modules or () if name not in sys.modules]
    if reload or new:
        state.worker.start_again(new)
    else:
        state.worker.renew_pool()
    return ok("reload started")


@control_command(args=[("max", int), ("min", int)], signature="[max [min]]")
def autoscale(
    state: State,
    max: int | None = None,  # noqa: A002 - Celery's name
    min: int | None = None,  # noqa: A002 - Celery's name
) -> Any:
    """Change between how many tasks at once, at most and at least, a worker scales itself."""
    scaler = state.worker.autoscaler
    if scaler is None:
        raise ValueError("Autoscale not enabled")
    most, least = scaler.update(max, min)
    return ok(f"autoscale now max={most} min={least}")


@control_command()
def shutdown(state: State, msg: str = "", **kwargs: Any) -> Any:
    """End once what runs is done."""
    return _done(state, "shutdown")


@control_command(
    args=[("queue", str), ("exchange", str), ("exchange_type", str), ("routing_key", str)],
    signature="<queue> [exchange [type [routing_key]]]",
)
def add_consumer(state: State, queue: str, **options: Any) -> Any:
    """Listen on one more queue; what Celery says of exchanges has no meaning here."""
    if any(name == queue for _, name in state.worker.queues):
        return ok(f"already consuming from {queue!r}")
    return _done(state, "add_consumer", queue=queue)


@control_command(args=[("queue", str)], signature="<queue>")
def cancel_consumer(state: State, queue: str, **options: Any) -> Any:
    """Stop listening on a queue."""
    return _done(state, "cancel_consumer", queue=queue)


def _ids(given: Any) -> list[str]:
    """Return ids that come as one, or as a list."""
    return [given] if isinstance(given, str) else [str(one) for one in given or ()]
