"""What is known of a worker and of a task by their events."""

from __future__ import annotations

import logging
import time
from bisect import insort
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakSet

from emq_compat.shim import states

if TYPE_CHECKING:
    from emq_compat.shim.events.state import State

__all__ = [
    "HEARTBEAT_DRIFT_MAX",
    "HEARTBEAT_EXPIRE_WINDOW",
    "TASK_EVENT_TO_STATE",
    "Task",
    "Worker",
    "heartbeat_expires",
]

logger = logging.getLogger("celery.events.state")

#: Percent of its interval after which a heartbeat that doesn't come means that the worker is offline.
HEARTBEAT_EXPIRE_WINDOW = 200
#: Seconds between the sending and the receiving of an event from which the clocks are said to differ.
HEARTBEAT_DRIFT_MAX = 16

#: What a task's event says of its state.
TASK_EVENT_TO_STATE = {
    "sent": states.PENDING,
    "received": states.RECEIVED,
    "started": states.STARTED,
    "failed": states.FAILURE,
    "retried": states.RETRY,
    "succeeded": states.SUCCESS,
    "revoked": states.REVOKED,
    "rejected": states.REJECTED,
}


def heartbeat_expires(
    timestamp: float | Decimal, freq: float | Decimal = 60, expire_window: float = HEARTBEAT_EXPIRE_WINDOW
) -> float:
    """Return the unix time until which a worker counts as alive after a heartbeat.

    ``freq`` is the interval of its heartbeats in seconds, ``expire_window`` so many percent of it.
    """
    return float(timestamp) + float(freq) * expire_window / 100


#: Workers that were complained about.
_drifting: set[str | None] = set()


def _warn_of_drift(hostname: str | None, received: float, sent: float) -> None:
    if hostname not in _drifting:
        _drifting.add(hostname)
        logger.warning(
            "the clock of %s differs from this one's by %d s: an event of %s came at %s",
            hostname,
            abs(int(received) - int(sent)),
            datetime.fromtimestamp(sent),  # noqa: DTZ006 - for people, in their time
            datetime.fromtimestamp(received),  # noqa: DTZ006
        )


class Worker:
    """A worker; two with the same node name are equal.

    Attributes:
        heartbeats: unix times at which the last four were received.
        freq: seconds between them; active: tasks that run; processed: those begun so far; the others as in
            its events.
    """

    heartbeat_max: ClassVar[int] = 4
    expire_window = HEARTBEAT_EXPIRE_WINDOW
    _fields = (
        "hostname", "pid", "freq", "heartbeats", "clock", "active", "processed", "loadavg", "sw_ident",
        "sw_ver", "sw_sys",
    )  # fmt: skip

    def __init__(
        self,
        hostname: str | None = None,
        pid: int | None = None,
        freq: float = 60,
        heartbeats: list[float] | None = None,
        clock: int = 0,
        active: int | None = None,
        processed: int | None = None,
        loadavg: Any = None,
        sw_ident: str | None = None,
        sw_ver: str | None = None,
        sw_sys: str | None = None,
    ) -> None:
        self.hostname = hostname
        self.pid = pid
        self.freq = freq
        self.heartbeats = [] if heartbeats is None else heartbeats
        self.clock = clock or 0
        self.active = active
        self.processed = processed
        self.loadavg = loadavg
        self.sw_ident = sw_ident
        self.sw_ver = sw_ver
        self.sw_sys = sw_sys

    def event(
        self,
        type_: str | None,
        timestamp: float | None = None,
        local_received: float | None = None,
        fields: Mapping[str, Any] | None = None,
        max_drift: float = HEARTBEAT_DRIFT_MAX,
    ) -> None:
        """Take in an event of its: ``online``, ``heartbeat``, ``offline``; None: a sign of life."""
        self.__dict__.update(fields or {})
        if type_ == "offline":
            self.heartbeats.clear()
            return
        if not local_received or not timestamp:
            return
        if abs(int(local_received) - int(timestamp)) > max_drift:
            _warn_of_drift(self.hostname, local_received, timestamp)
        insort(self.heartbeats, local_received)
        del self.heartbeats[: -self.heartbeat_max]

    def update(self, f: Mapping[str, Any], **kw: Any) -> None:
        """Set attributes."""
        self.__dict__.update(f, **kw)

    @property
    def heartbeat_expires(self) -> float:
        """The unix time until which it counts as alive."""
        return heartbeat_expires(self.heartbeats[-1], self.freq, self.expire_window)

    @property
    def alive(self) -> bool:
        """Whether it has been heard lately."""
        return bool(self.heartbeats) and time.time() < self.heartbeat_expires

    @property
    def status_string(self) -> str:
        """``ONLINE`` or ``OFFLINE``."""
        return "ONLINE" if self.alive else "OFFLINE"

    @property
    def id(self) -> str:
        """Its node name and its pid."""
        return f"{self.hostname}.{self.pid}"

    def __eq__(self, other: object) -> bool:
        return self.hostname == other.hostname if isinstance(other, Worker) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.hostname)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in self._fields)

    def __repr__(self) -> str:
        return f"<Worker: {self.hostname} ({self.status_string} clock:{self.clock})>"


class Task:
    """A task; two with the same id are equal. What no event has told is None.

    Attributes:
        received, sent, started, succeeded, failed, retried, revoked, rejected: unix times.
        timestamp: that of the event that told ``state``.
        worker: the Worker that has it; client: the name of who sent it.
        children: tasks that have it as their parent.
    """

    name: str | None = None
    received: float | None = None
    sent: float | None = None
    started: float | None = None
    succeeded: float | None = None
    failed: float | None = None
    retried: float | None = None
    revoked: float | None = None
    rejected: float | None = None
    args: str | None = None
    kwargs: str | None = None
    eta: str | None = None
    expires: str | None = None
    retries: int | None = None
    worker: Worker | None = None
    result: str | None = None
    exception: str | None = None
    timestamp: float | None = None
    runtime: float | None = None
    traceback: str | None = None
    exchange: str | None = None
    routing_key: str | None = None
    root_id: str | None = None
    parent_id: str | None = None
    client: str | None = None
    state: str = states.PENDING
    clock: int = 0

    _fields = (
        "uuid", "name", "state", "received", "sent", "started", "rejected", "succeeded", "failed", "retried",
        "revoked", "args", "kwargs", "eta", "expires", "retries", "worker", "result", "exception",
        "timestamp", "runtime", "traceback", "exchange", "routing_key", "clock", "client", "root", "root_id",
        "parent", "parent_id", "children",
    )  # fmt: skip
    _info_fields = (
        "args", "kwargs", "retries", "result", "eta", "runtime", "expires", "exception", "exchange",
        "routing_key", "root_id", "parent_id",
    )  # fmt: skip

    #: State whose event came too late → the fields that are still taken from it.
    merge_rules: ClassVar[dict[str, tuple[str, ...]]] = {
        states.RECEIVED: (
            "name", "args", "kwargs", "parent_id", "root_id", "retries", "eta", "expires",
        ),
    }  # fmt: skip

    def __init__(
        self,
        uuid: str | None = None,
        cluster_state: State | None = None,
        children: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.uuid = uuid
        self.cluster_state = cluster_state
        known = cluster_state.tasks if cluster_state is not None else {}
        self.children: WeakSet[Task] = WeakSet(known[one] for one in children or () if one in known)
        # The two that are looked up follow from others.
        followed = ("root", "parent")
        self.__dict__.update({name: value for name, value in kwargs.items() if name not in followed})

    def event(
        self,
        type_: str,
        timestamp: float | None = None,
        local_received: float | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Take in an event of its: ``received``, ``started`` …, or one of a custom type.

        Events may come in another order than they were sent in: one that is of an earlier state than this
        changes no state, except after a retry, from which all begins again.
        """
        told: dict[str, Any] = dict(fields or {})
        state = TASK_EVENT_TO_STATE.get(type_)
        if state is None:
            state = type_.upper()
        else:
            self.__dict__[type_] = timestamp
        retried = states.RETRY in (state, self.state)
        if not retried and states.precedence(state) > states.precedence(self.state):
            kept = self.merge_rules.get(state)
            if kept is not None:
                told = {name: told[name] for name in kept if name in told}
        else:
            told.update(state=state, timestamp=timestamp)
        self.__dict__.update(told)

    def info(self, fields: Iterable[str] | None = None, extra: Iterable[str] | None = None) -> dict[str, Any]:
        """Return what is known of it, for people."""
        names = [*(self._info_fields if fields is None else fields), *(extra or ())]
        return {name: value for name in names if (value := getattr(self, name, None)) is not None}

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, with the ids of other tasks."""
        told = {name: getattr(self, name) for name in self._fields}
        told.update(root=self.root_id, parent=self.parent_id, children=[task.id for task in self.children])
        return told

    @property
    def id(self) -> str | None:
        """Its id: ``uuid``."""
        return self.uuid

    @property
    def origin(self) -> str | None:
        """Who told of it: its worker's id, or its client."""
        return self.client if self.worker is None else self.worker.id

    @property
    def ready(self) -> bool:
        """Whether it has ended."""
        return self.state in states.READY_STATES

    @property
    def parent(self) -> Task | None:
        """The task that published it, if it is known."""
        return self._other(self.parent_id)

    @property
    def root(self) -> Task | None:
        """The task with which its workflow began, if it is known."""
        return self._other(self.root_id)

    def _other(self, uuid: str | None) -> Task | None:
        return self.cluster_state.tasks.get(uuid) if uuid and self.cluster_state is not None else None

    def __eq__(self, other: object) -> bool:
        return self.uuid == other.uuid if isinstance(other, Task) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.uuid)

    def __reduce__(self) -> tuple[Any, ...]:
        return _task_again, (type(self), self.as_dict())

    def __repr__(self) -> str:
        return f"<Task: {self.name}({self.uuid}) {self.state} clock:{self.clock}>"


def _task_again(cls: type[Task], fields: Mapping[str, Any]) -> Task:
    return cls(**fields)
