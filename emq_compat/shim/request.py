"""``task.request``: what a running task can know of its message (Celery's Context)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from emq_compat.chain_steps import Steps
from emq_compat.message import Delivery, Job
from emq_compat.shim.codec import mentions_types, revive
from emq_compat.shim.packing import unpack

__all__ = ["Context", "iso_of", "request_of", "request_without_arguments"]


class _Computed:
    """An attribute that is computed where none was set: an entry of the instance's own wins over it."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self._read = read
        self.__doc__ = read.__doc__

    def __get__(self, context: Any, owner: type) -> Any:
        return self if context is None else self._read(context)


class Context:
    """The attributes of one run, under Celery's names; what isn't known has the default below."""

    _children: list[Any] | None = None
    #: Its later steps, where some of them are in runs.
    _steps: Steps | None = None
    #: Message properties that the call set.
    _properties: Mapping[str, Any] | None = None

    args: Sequence[Any] | None = None
    callbacks: list[Any] | None = None
    called_directly: bool = True
    chain: list[Any] | None = None
    chord: Any = None
    correlation_id: str | None = None
    delivery_info: dict[str, Any] | None = None
    errbacks: list[Any] | None = None
    eta: str | None = None
    expires: str | None = None
    group: str | None = None
    group_index: int | None = None
    headers: dict[str, Any] | None = None
    hostname: str | None = None
    id: str | None = None
    ignore_result: bool = False
    is_eager: bool = False
    kwargs: Mapping[str, Any] | None = None
    lang: str = "py"
    logfile: str | None = None
    loglevel: int | None = None
    origin: str | None = None
    parent_id: str | None = None
    retries: int = 0
    reply_to: str | None = None
    replaced_task_nesting: int = 0
    root_id: str | None = None
    shadow: str | None = None
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None
    task: str | None = None
    taskset: str | None = None
    #: [hard, soft] in seconds; None where there is no message.
    timelimit: Sequence[float | None] | None = None
    utc: bool | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.__dict__.update(*args, **kwargs)

    @_Computed
    def properties(self) -> dict[str, Any] | None:
        """AMQP's message properties, as far as there are such here; None: there is no message."""
        if self.called_directly or self.is_eager:
            return None
        return {
            "correlation_id": self.correlation_id,
            "reply_to": self.reply_to,
            "priority": (self.delivery_info or {}).get("priority"),
            "delivery_mode": 2,
            "content_type": "application/json",
            "content_encoding": "utf-8",
            **(self._properties or {}),
        }

    @_Computed
    def argsrepr(self) -> str | None:
        """The positional arguments as text, at most 1024 characters; None: there are none to tell of."""
        return None if self.args is None else _shown(tuple(self.args))

    @_Computed
    def kwargsrepr(self) -> str | None:
        """The keyword arguments as text, at most 1024 characters; None: there are none to tell of."""
        return None if self.kwargs is None else _shown(dict(self.kwargs))

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set attributes, as dict.update does."""
        self.__dict__.update(*args, **kwargs)

    def clear(self) -> None:
        """Forget everything that was set."""
        self.__dict__.clear()

    def get(self, key: str, default: Any = None) -> Any:
        """Return an attribute, or ``default`` where there is none."""
        return getattr(self, key, default)

    @_Computed
    def time_limit(self) -> float | None:
        """The hard time limit of this run, in seconds."""
        return self.timelimit[0] if self.timelimit else None

    @_Computed
    def soft_time_limit(self) -> float | None:
        """The soft time limit of this run, in seconds."""
        return self.timelimit[1] if self.timelimit else None

    @property
    def children(self) -> list[Any]:
        """The results of what this run has published."""
        if self._children is None:
            self._children = []
        return self._children

    def as_execution_options(self) -> dict[str, Any]:
        """Return the options of apply_async that publish this run's task again."""
        hard, soft = self.timelimit or (None, None)
        stamps = {} if self.stamps is None or self.stamped_headers is None else self.stamps
        return {
            "task_id": self.id,
            "root_id": self.root_id,
            "parent_id": self.parent_id,
            "group_id": self.group,
            "group_index": self.group_index,
            "shadow": self.shadow,
            "chord": self.chord,
            "chain": self.chain,
            "link": self.callbacks,
            "link_error": self.errbacks,
            "expires": self.expires,
            "soft_time_limit": soft,
            "time_limit": hard,
            "headers": self.headers,
            "retries": self.retries,
            "reply_to": self.reply_to,
            "replaced_task_nesting": self.replaced_task_nesting,
            "origin": self.origin,
            **({"stamped_headers": self.stamped_headers, **stamps} if stamps else {}),
        }

    def __repr__(self) -> str:
        return f"<Context: {vars(self)!r}>"


class _OfLongChain(Context):
    """The attributes of a run that has many steps behind it, which are read when they are asked for."""

    @_Computed
    def chain(self) -> list[Any] | None:
        """The later steps; the last one is the next."""
        chain = self.__dict__["chain"] = None if self._steps is None else list(self._steps)
        return chain


def request_of(
    task: str, job: Job, delivery: Delivery, hostname: str, *, accept: Sequence[str] | None = None
) -> Context:
    """Return what a task's run can know of its message, on the node ``hostname``.

    ``accept`` is the setting accept_content, for arguments that aren't JSON; None: they are left out.

    Raises:
        ContentDisallowed, DecodeError (kombu's): such arguments are not accepted, or can't be read.
        ValueError: a value in the arguments is of a type that nobody knows here.
    """
    headers, celery = delivery.headers, job.celery
    task_id = headers.task_id or celery.get("id") or delivery.msgid
    typed = mentions_types(delivery.payload)
    request = _OfLongChain() if "rest" in celery else Context()
    own = request.__dict__ = {
        "id": task_id,
        "task": task,
        "args": revive(job.args, accept) if typed else job.args,
        "kwargs": revive(job.kwargs, accept) if typed else job.kwargs,
        "called_directly": False,
        "correlation_id": task_id,
        "root_id": task_id,
        "hostname": hostname,
        "retries": headers.retries,
        "ignore_result": headers.no_result,
        "utc": True,
        "delivery_info": {
            "exchange": "",
            "routing_key": delivery.queue,
            "priority": headers.priority,
            "redelivered": headers.redelivered,
        },
    }
    for key in celery:
        if key in _FROM_MESSAGE:
            own[key] = celery[key]
    if "rest" in celery:
        own["_steps"] = Steps(own.pop("chain", ()), celery["rest"])
    if "packed" in celery and accept is not None:
        # What stands beside is what came before it: a chord's values, the result of a chain's last link.
        args, kwargs, *embedded = unpack(celery["packed"], accept)
        own["args"] = [*own["args"], *args]
        own["kwargs"] = {**kwargs, **own["kwargs"]}
        own.update(embedded[0] if embedded else {})
    if "headers" in celery:
        # Celery's message has them beside its own, and the request, too.
        given = own["headers"]
        for key, value in given.items() if isinstance(given, dict) else ():
            if not hasattr(Context, key):
                own.setdefault(key, value)
    if "properties" in celery:
        own["_properties"] = celery["properties"]
        own["correlation_id"] = celery["properties"].get("correlation_id") or task_id
    if headers.eta:
        own["eta"] = iso_of(headers.eta)
    if headers.expires:
        own["expires"] = iso_of(headers.expires)
    if headers.limit_s is not None or headers.soft_limit_s is not None:
        own["timelimit"] = [_as_given(headers.limit_s), _as_given(headers.soft_limit_s)]
    return request


def request_without_arguments(task: str, job: Job, delivery: Delivery, hostname: str) -> Context:
    """Return what can be known of a message without reading its arguments, which may not be readable."""
    return request_of(task, replace(job, args=(), kwargs={}), delivery, hostname)


#: Members of a Job's Celery part that are the request's attributes as they are.
_FROM_MESSAGE = frozenset(
    {
        "callbacks", "chain", "chord", "errbacks", "exhausted", "group", "group_index", "headers",
        "ignore_result", "origin", "parent_id", "replaced_task_nesting", "reply_to", "root_id", "shadow",
        "stamped_headers", "stamps",
    }
)  # fmt: skip


def _shown(arguments: Any) -> str:
    from emq_compat.shim.surface.saferepr import saferepr  # noqa: PLC0415 - few tasks ask

    return saferepr(arguments, 1024)


def _as_given(seconds: float | None) -> float | None:
    """Return a limit, which the header has as a float, as the whole number that it most likely was."""
    return int(seconds) if seconds is not None and float(seconds).is_integer() else seconds


def iso_of(seconds: float) -> str | None:
    """Return a unix time as ISO text, in UTC; None for 0.0: there is none."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat() if seconds else None
