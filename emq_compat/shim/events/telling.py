"""The events of a worker: made in its parent, of what its job manager tells.

What the parent can't know without decoding a result (how it looks, and its traceback) comes from the process
that ran the task, beside its reply, and only while task events are on: both sides see one shared byte.
"""

from __future__ import annotations

import json
import logging
import math
import mmap
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from emq_compat.errors import MessageError, OperationalError
from emq_compat.message import (
    FAILURE,
    REJECTED,
    REQUEUED,
    RETRY,
    RETURNED,
    REVOKED,
    SUCCESS,
    Delivery,
    Job,
    Reply,
)
from emq_compat.shim.request import Context, iso_of, request_of
from emq_compat.shim.surface.release import __version__
from emq_compat.shim.surface.saferepr import saferepr

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery
    from emq_compat.shim.events.dispatcher import EventDispatcher
    from emq_compat.shim.task import Task

__all__ = ["SOFTWARE_INFO", "Switch", "Teller"]

logger = logging.getLogger("celery.worker")

SOFTWARE_INFO: Final[dict[str, Any]] = {
    "sw_ident": "py-celery",
    "sw_ver": __version__,
    "sw_sys": os.uname().sysname,
}

#: Events of tasks are sent together: so long the first of them waits, and so many there are at the most.
_TOGETHER_S = 0.02
_TOGETHER = 200
#: Larger messages and replies aren't decoded for an event: it then lacks what is in them.
_DECODED_BYTES = 1 << 20
_LEFT_OUT = "..."


class Switch:
    """One byte that this process shares with all that are forked from it: whether task events are sent."""

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    @property
    def on(self) -> bool:
        """Whether they are."""
        return self._byte[0] != 0

    @on.setter
    def on(self, on: bool) -> None:
        self._byte[0] = on


class _Line:
    """The worker's connection, as what events leave by."""

    def __init__(self) -> None:
        self.send: Callable[[str, bytes], bool] | None = None

    def announce(self, topic: str, payload: bytes) -> None:
        if self.send is None or not self.send(topic, payload):
            raise OperationalError("there is no broker that takes events now")


class Teller:
    """Sends a worker's events.

    Args:
        options: of the worker: ``without_heartbeat``, ``heartbeat_interval`` (seconds).
        switch: is kept up to date with whether task events are sent.

    Attributes:
        dispatcher: what they are sent by, from the first connection on.
    """

    def __init__(self, app: Celery, hostname: str, options: Mapping[str, Any], switch: Switch) -> None:
        self._app = app
        self._hostname = hostname
        self.freq = float(options.get("heartbeat_interval") or 2.0)
        self._beats = not options.get("without_heartbeat")
        self._switch = switch
        self._line = _Line()
        self._online = False
        self._muted = False
        self._beat_at = math.inf
        self._flush_at = math.inf
        self.dispatcher: EventDispatcher = app.events.Dispatcher(
            self._line,
            hostname=hostname,
            groups=None if app.conf.worker_send_task_events else ["worker"],
            buffer_group=["task"],
            buffer_limit=_TOGETHER,
            on_send_buffered=self._collected,
        )

    @property
    def tasks(self) -> bool:
        """Whether events of tasks are sent."""
        return self.dispatcher.sends("task")

    def send_tasks(self, wanted: bool) -> bool:
        """Send events of tasks, or no more, from now on; returns whether that is a change."""
        if self.tasks == wanted:
            return False
        groups = self.dispatcher.groups
        if wanted:
            groups.add("task")
        elif groups:
            groups.discard("task")
        else:
            groups.add("worker")
        self._switch.on = self.tasks
        return True

    # The worker

    def connected(
        self, announce: Callable[[str, bytes], bool] | None, manager: Any, *, anew: bool
    ) -> None:
        """Take up a connection: what was kept is sent, and that this worker is online.

        ``announce`` None: this broker takes no events; none are made until there is another one.
        """
        if announce is None:
            self._mute()
            return
        if self._muted:
            self._muted = False
            self.dispatcher.enable()
        self._line.send = announce
        self._switch.on = self.tasks
        self.dispatcher.flush()
        if self._beats:
            if anew:
                self.beat(manager, "worker-online")
            self._beat_at = time.monotonic() + self.freq
        self._online = True

    def _mute(self) -> None:
        if self.dispatcher.enabled:
            self._muted = True
            self.dispatcher.disable()
            self._switch.on = False
            if self._app.conf.worker_send_task_events:
                logger.warning("this broker takes no events: none are sent")

    def disconnected(self) -> None:
        """Give a connection up: there are no heartbeats until the next one."""
        self._line.send = None
        self._online = False
        self._beat_at = math.inf

    def turn(self, manager: Any, now: float) -> float:
        """Send what is due; returns the monotonic time at which something is."""
        if now >= self._flush_at:
            self._flush_at = math.inf
            self.dispatcher.flush(errors=False)
        if now >= self._beat_at:
            self._beat_at = now + self.freq
            self._switch.on = self.tasks  # the groups may have been changed by hand
            self.beat(manager)
        return min(self._flush_at, self._beat_at)

    def beat(self, manager: Any, type_: str = "worker-heartbeat") -> None:
        """Send a heartbeat, or another event of a worker with the same fields."""
        jobs = list(manager.jobs_in_flight.values())
        self.dispatcher.send(
            type_,
            freq=self.freq,
            active=sum(1 for job in jobs if job.began_at),
            processed=sum(manager.runs_by_task.values()),
            loadavg=[round(load, 2) for load in os.getloadavg()],
            **SOFTWARE_INFO,
        )

    def leaving(self, manager: Any) -> None:
        """Send what is still to be sent, and that this worker is offline."""
        self.dispatcher.flush()
        if self._beats and self._online:
            self.beat(manager, "worker-offline")
        self.disconnected()

    def _collected(self) -> None:
        if self._flush_at == math.inf:
            self._flush_at = time.monotonic() + _TOGETHER_S

    # Tasks

    def _send(self, type_: str, delivery: Delivery, **fields: Any) -> None:
        self.dispatcher.send(type_, uuid=delivery.headers.task_id or delivery.msgid, **fields)

    def _silent(self, delivery: Delivery) -> bool:
        """Tell whether a delivery is none of a registered task that wants its events sent."""
        task = self._task(delivery)
        return delivery.headers.concludes or task is None or not task.send_events

    def _task(self, delivery: Delivery) -> Task[..., Any] | None:
        return self._app.tasks.get(delivery.headers.task)

    def received(self, delivery: Delivery) -> None:
        """Send task-received."""
        if not self.tasks or self._silent(delivery):
            return
        fields: dict[str, Any] = {"args": _LEFT_OUT, "kwargs": _LEFT_OUT}
        context = self._context_of(delivery)
        if context is not None:
            if not context.get("packed"):
                fields = {"args": context.argsrepr, "kwargs": context.kwargsrepr}
            name, root_id, parent_id = context.shadow or context.task, context.root_id, context.parent_id
        else:
            name, root_id, parent_id = delivery.headers.task, None, None
        headers = delivery.headers
        self._send(
            "task-received",
            delivery,
            name=name,
            root_id=root_id,
            parent_id=parent_id,
            retries=headers.retries,
            eta=iso_of(headers.eta),
            expires=iso_of(headers.expires),
            **fields,
        )

    def _context_of(self, delivery: Delivery) -> Context | None:
        """Return the request of a delivery; None: it is large, or can't be read."""
        if len(delivery.payload) > _DECODED_BYTES:
            return None
        try:
            job = Job.decode(delivery.payload)
            context = request_of(delivery.headers.task, job, delivery, self._hostname)
        except (MessageError, ValueError):
            return None
        if "packed" in job.celery:
            context.update(packed=True)
        return context

    def began(self, delivery: Delivery) -> None:
        """Send task-started."""
        if self.tasks and not self._silent(delivery):
            self._send("task-started", delivery)

    def ended(self, delivery: Delivery, reply: Reply) -> None:
        """Send what a run came to by its own word."""
        if not self.tasks or delivery.headers.concludes:
            return
        task = self._task(delivery)
        if task is not None and not task.send_events:
            return
        state = reply.state
        if task is None and state != FAILURE:
            return
        told = json.loads(reply.told) if reply.told else _told_by(reply)
        if state in (SUCCESS, FAILURE, RETRY):
            self._send(_TYPES[state], delivery, **told)
        elif state in (REJECTED, REQUEUED):
            # What was acknowledged before it ran has no way back.
            requeue = state == REQUEUED and task is not None and bool(task.acks_late)
            self._send("task-rejected", delivery, requeue=requeue)
            if told.get("exception") and state == REJECTED and reply.told:
                self._send("task-failed", delivery, **told)

    def unattended(self, delivery: Delivery, reply: Reply, signum: int | None) -> None:
        """Send what a run came to without a word of its own: lost, over its limit, revoked, expired."""
        if not self.tasks or self._silent(delivery):
            return
        state = reply.state
        if state == REVOKED:
            why = _document(reply).get("value")
            self._send(
                "task-revoked",
                delivery,
                terminated=why == "terminated",
                signum=signum,
                expired=why == "expired",
            )
        elif state in (REQUEUED, RETURNED):
            self._send("task-rejected", delivery, requeue=True)
        elif state in (FAILURE, RETRY):
            self._send(_TYPES[state], delivery, **_told_by(reply))


_TYPES = {SUCCESS: "task-succeeded", FAILURE: "task-failed", RETRY: "task-retried"}


def _document(reply: Reply) -> dict[str, Any]:
    if len(reply.body) > _DECODED_BYTES:
        return {}
    document = json.loads(reply.body)
    return document if isinstance(document, dict) else {}


def _told_by(reply: Reply) -> dict[str, Any]:
    """Return what an event tells of a reply beside which nothing was told."""
    document = _document(reply)
    if reply.state == SUCCESS:
        shown = saferepr(document["value"], 1024) if "value" in document else _LEFT_OUT
        return {"result": shown, "runtime": None}
    error = document.get("error") or {}
    arguments = error.get("args") or [error.get("message") or ""]
    kind = str(error.get("type") or "Exception").rpartition(".")[2]
    exception = f"{kind}({', '.join(map(repr, arguments))})"
    return {"exception": exception, "traceback": document.get("traceback") or ""}
