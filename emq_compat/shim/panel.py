"""Commands of remote control that a worker's program has: Celery's that need the app, and a project's own.

A project registers its own in its task modules, as with Celery::

    @control_command(args=[("n", int)])
    def increase(state, n=1):
        return {"ok": ...}

They run in the worker's parent, from its loop: a command that takes long holds everything up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from emq_compat.shim.app import Celery
from emq_compat.shim.canvas.launch import LAUNCH
from emq_compat.shim.checks import check_limits, interval_of, limit_of
from emq_compat.shim.surface.apps import bugreport
from emq_compat.shim.surface.debug import mem_rss

__all__ = [
    "Panel",
    "State",
    "add_consumer",
    "cancel_consumer",
    "control_command",
    "controller_info_t",
    "inspect_command",
    "nok",
    "ok",
    "run",
]

Command = Callable[..., Any]


class controller_info_t(NamedTuple):  # noqa: N801 - Celery's name
    """What is known of a command besides its function."""

    alias: str | None
    type: str
    visible: bool
    default_timeout: float
    help: str | None
    signature: str | None
    args: Any
    variadic: str | None


class State:
    """What a command gets first: the app, the worker's node name, and the worker.

    Attributes:
        app: the app.
        hostname: the node name.
        consumer: the worker's consumer, as signals have it.
        worker: the job manager.
    """

    def __init__(self, app: Celery, hostname: str, consumer: Any, worker: Any) -> None:
        self.app = app
        self.hostname = hostname
        self.consumer = consumer
        self.worker = worker
        self.tset = set


class Panel:
    """The registry of commands: name → function in ``data``, name → controller_info_t in ``meta``."""

    data: ClassVar[dict[str, Command]] = {}
    meta: ClassVar[dict[str, controller_info_t]] = {}

    @classmethod
    def register(cls, *args: Command, **kwargs: Any) -> Any:
        """Add a function: ``@Panel.register``, or ``@Panel.register(name=…, alias=…, type=…)``."""
        if args:
            return cls._register(**kwargs)(args[0])
        return cls._register(**kwargs)

    @classmethod
    def _register(
        cls,
        name: str | None = None,
        alias: str | None = None,
        type: str = "control",  # noqa: A002 - Celery's name
        visible: bool = True,
        default_timeout: float = 1.0,
        help: str | None = None,  # noqa: A002 - Celery's name
        signature: str | None = None,
        args: Any = None,
        variadic: str | None = None,
    ) -> Callable[[Command], Command]:
        def registered(fun: Command) -> Command:
            known_as = name or fun.__name__
            said = help or (fun.__doc__ or "").strip().split("\n")[0]
            cls.data[known_as] = fun
            cls.meta[known_as] = controller_info_t(
                alias, type, visible, default_timeout, said, signature, args, variadic
            )
            if alias:
                cls.data[alias] = fun
            return fun

        return registered


def control_command(**kwargs: Any) -> Callable[[Command], Command]:
    """Add a command that changes something: ``@control_command(name=…)``."""
    return Panel._register(type="control", **kwargs)


def inspect_command(**kwargs: Any) -> Callable[[Command], Command]:
    """Add a command that only looks."""
    return Panel._register(type="inspect", **kwargs)


def ok(value: Any) -> dict[str, Any]:
    """Return a command's answer."""
    return {"ok": value}


def nok(value: Any) -> dict[str, Any]:
    """Return a command's answer: it went wrong."""
    return {"error": value}


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


@inspect_command()
def report(state: State, **kwargs: Any) -> Any:
    """Versions and settings, for bug reports."""
    return ok(bugreport(state.app))


@inspect_command(alias="dump_conf")
def conf(state: State, with_defaults: bool = False, **kwargs: Any) -> Any:
    """The settings, secrets masked, and which of Celery 3's names they were read by."""
    found = state.app.conf.table(with_defaults=with_defaults)
    shown = {str(name): value for name, value in found.items()}
    return {**shown, "deprecated_settings": state.app.conf.deprecated_settings}


def _is_builtin(name: str) -> bool:
    return name.startswith("celery.") or name == LAUNCH


@inspect_command()
def task_info(state: State, items: Any = None, builtins: bool = False, **kwargs: Any) -> Any:
    """The names of the registered tasks, each with the attributes asked for."""

    def described(name: str) -> str:
        task = state.app.tasks[name]
        found = {item: getattr(task, item, None) for item in items or ()}
        shown = [f"{item}={value}" for item, value in found.items() if value is not None]
        return f"{name} [{' '.join(shown)}]" if shown else name

    return [described(name) for name in sorted(state.app.tasks) if builtins or not _is_builtin(name)]


@inspect_command()
def clock(state: State, **kwargs: Any) -> Any:
    """A number that grows: there is no logical clock here, and the broker's order decides."""
    return {"clock": int(time.time())}


@inspect_command()
def memsample(state: State, **kwargs: Any) -> Any:
    """The memory in use."""
    return mem_rss()


@control_command()
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


@control_command()
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


def add_consumer(state: State, queue: str, **options: Any) -> Any:
    """Listen on one more queue; what Celery says of exchanges has no meaning here."""
    worker = state.worker
    if all(name != queue for _, name in worker.queues):
        weight = worker.queues[0][0] if worker.queues else 10
        worker.listen((*worker.queues, (weight, queue)))
        return ok(f"add consumer {queue}")
    return ok(f"already consuming from {queue!r}")


def cancel_consumer(state: State, queue: str, **options: Any) -> Any:
    """Stop listening on a queue."""
    worker = state.worker
    worker.listen(tuple(entry for entry in worker.queues if entry[1] != queue))
    return ok(f"no longer consuming from {queue}")
