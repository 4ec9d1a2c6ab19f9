"""What the signals of a worker's parent are sent with, and when: the worker as Celery's receivers know it."""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec

from emq_compat.address import Address, is_kombu
from emq_compat.errors import MessageError
from emq_compat.message import FAILURE, RETRY, REVOKED, Delivery, Job, Reply
from emq_compat.run import Onlooker
from emq_compat.shim import current, exceptions, signals
from emq_compat.shim.events.telling import Switch, Teller
from emq_compat.shim.handlers import ExceptionInfo
from emq_compat.shim.remote_error import exception_from
from emq_compat.shim.request import Context, request_of

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery
    from emq_compat.shim.events.dispatcher import EventDispatcher
    from emq_compat.shim.panel_registry import State
    from emq_compat.shim.surface.bootsteps import Steps, Timer
    from emq_compat.shim.task import Task

__all__ = ["Announcer", "Consumer", "Request", "WorkController"]

logger = logging.getLogger("celery.worker")

P = ParamSpec("P")


class WorkController:
    """The worker, as ``sender`` or ``instance``.

    Attributes:
        app, hostname: its app, and its node name.
        options: what the command line said.
        concurrency, pool_cls, loglevel, logfile, pidfile: as far as they are known yet.
        pool, manager: runs the tasks, and gives it them, once there is one.
        autoscaler: what grows and shrinks the pool; None: nothing does.
        consumer: takes tasks in.
        teller: sends events, once a broker is connected.
        timer: calls functions later, for steps that a project adds.
        steps: what the project has added, made (steps of Celery's put themselves there).
    """

    def __init__(self, app: Celery, hostname: str, options: Mapping[str, Any] | None = None) -> None:
        self.app: Any = getattr(app, "real", app)  # a genuine one, as its receivers know it
        self.hostname = hostname
        self.options: dict[str, Any] = dict(options or {})
        self.pid = os.getpid()
        self.concurrency: int | None = None
        self.pool_cls: str | None = None
        self.loglevel: Any = None
        self.logfile: str | None = None
        self.pidfile: str | None = None
        self.pool: Any = None
        self.manager: Any = None
        self.teller: Teller | None = None
        self.autoscaler: Any = None
        self.steps: list[Any] = []
        self.consumer = Consumer(self)
        self._timer: Timer | None = None
        self._steps: list[Steps] = []

    @property
    def timer(self) -> Timer:
        """Calls functions later, from the moment that the worker is ready on."""
        if self._timer is None:
            from emq_compat.shim.surface.bootsteps import Timer  # noqa: PLC0415 - few need it

            self._timer = Timer()
        return self._timer

    def create_steps(self) -> None:
        """Make what the project adds to the worker and to its consumer (``app.steps``)."""
        steps = self.app.steps
        for parent, classes in ((self, steps["worker"]), (self.consumer, steps["consumer"])):
            if classes:
                from emq_compat.shim.surface.bootsteps import Steps  # noqa: PLC0415 - few need it

                self._steps.append(Steps(classes, parent, self.options))

    def start_steps(self) -> None:
        """Start what was made."""
        for steps in self._steps:
            steps.start()
        if self._timer is not None:
            self._timer.begin()

    def stop_steps(self) -> None:
        """Stop it."""
        for steps in reversed(self._steps):
            steps.stop()
        if self._timer is not None:
            self._timer.stop()

    def __repr__(self) -> str:
        return f"<Worker: {self.hostname}>"


class Consumer:
    """What takes tasks in, as ``sender``; ``controller`` is its worker.

    Attributes:
        election_handlers: topic → what the worker that wins an election does with its action; ``task`` sends
            the task that the action is.
    """

    def __init__(self, controller: WorkController) -> None:
        self.controller = controller
        self.app = controller.app
        self.steps: list[Any] = []
        self.election_handlers: dict[str, Callable[[Any], object]] = {"task": self._send}

    def _send(self, action: Any) -> None:
        self.app.signature(action).apply_async()

    @property
    def hostname(self) -> str:
        """The worker's node name."""
        return self.controller.hostname

    @property
    def pool(self) -> Any:
        """The worker's pool."""
        return self.controller.pool

    @property
    def timer(self) -> Timer:
        """The worker's timer."""
        return self.controller.timer

    @property
    def event_dispatcher(self) -> EventDispatcher | None:
        """What the worker's events are sent by; None: it isn't connected yet."""
        teller = self.controller.teller
        return None if teller is None else teller.dispatcher

    def __repr__(self) -> str:
        return f"<Consumer: {self.hostname}>"


class Request:
    """A task that was taken in (task_received): its request's attributes, and what the worker knows of it.

    Attributes:
        task: the task; ``name`` and ``type``: its name.
        message: the delivery.
    """

    def __init__(self, task: Task[..., Any], context: Context, delivery: Delivery) -> None:
        self._context = context
        self.task = task
        self.app = task.app
        self.name = self.task_name = self.type = task.name
        self.task_id = context.id
        self.argsrepr = repr(context.args)
        self.kwargsrepr = repr(context.kwargs)
        self.message = delivery
        self.request_dict = vars(context)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_context"], name)

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Return what ``inspect`` shows of it; ``safe``: with texts for the arguments."""
        context = self._context
        return {
            "id": context.id,
            "name": self.name,
            "args": self.argsrepr if safe else context.args,
            "kwargs": self.kwargsrepr if safe else context.kwargs,
            "type": self.type,
            "hostname": context.hostname,
            "delivery_info": context.delivery_info,
        }

    def humaninfo(self) -> str:
        """Return ``name[id]``."""
        return f"{self.name}[{self.task_id}]"

    __str__ = humaninfo

    def __repr__(self) -> str:
        return f"<Request: {self.humaninfo()} {self.argsrepr} {self.kwargsrepr}>"


def _safe(method: Callable[P, None]) -> Callable[P, None]:
    """Have what a method raises logged: it is called from the worker's loop."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(*args, **kwargs)
        except Exception:
            logger.exception("%s failed", method.__qualname__)

    return call


class Announcer(Onlooker):
    """Sends the signals of the worker's parent.

    Args:
        controller: the worker that they are sent with; None: one is made when the first is sent.
        switch: tells where tasks run whether their events are sent.
    """

    received_log = logging.getLogger("celery.worker.strategy")
    #: Where the signals are, and the exceptions that they tell of.
    signals: Any = signals
    exceptions: Any = exceptions

    def __init__(
        self, app: Celery, controller: WorkController | None = None, switch: Switch | None = None
    ) -> None:
        self._app = app
        self._controller = controller
        self._switch = Switch() if switch is None else switch
        self._teller: Teller | None = None
        self._initialised = False

    @property
    def controller(self) -> WorkController:
        """The worker."""
        if self._controller is None:
            self._controller = WorkController(self._app, self._app.hostname)
        return self._controller

    @property
    def hears_ends(self) -> bool:
        """Whether anybody hears of revokes: a task may expire, or be revoked, in the broker."""
        tells = self._app.conf.worker_send_task_events if self._teller is None else self._teller.tasks
        return bool(tells or self.signals.task_revoked.receivers)

    @property
    def namespace(self) -> str:
        """The setting control_exchange, where remote control is wanted at all."""
        conf = self._app.conf
        return str(conf.control_exchange) if conf.worker_enable_remote_control else ""

    def worker_init(self) -> None:
        """Send worker_init and make the project's steps, once; raises what a step raises."""
        if not self._initialised:
            self._initialised = True
            current.worker = self.controller
            self.signals.worker_init.send(sender=self.controller)
            self.controller.create_steps()

    def before_child(self) -> None:
        """Send worker_before_create_process."""
        self.signals.worker_before_create_process.send(sender=self.controller.pool or self.controller)

    def ready(self) -> None:
        """Start the project's steps and send worker_ready."""
        self.controller.start_steps()
        self.signals.worker_ready.send(sender=self.controller.consumer)

    def heartbeat_sent(self) -> None:
        """Send heartbeat_sent."""
        self.signals.heartbeat_sent.send(sender=self.controller.consumer)

    @_safe
    def connected(
        self, manager: Any, announce: Callable[[str, bytes], bool] | None, *, anew: bool
    ) -> None:
        """Have events sent by this connection."""
        controller = self.controller
        if self._teller is None:
            # Here and not before the fork: it has a clock and locks, and the settings are settled.
            self._teller = Teller(self._app, controller.hostname, controller.options, self._switch)
            controller.teller = self._teller
        self._teller.connected(announce, manager, anew=anew)

    def disconnected(self) -> None:
        """Keep events until there is a connection again."""
        if self._teller is not None:
            self._teller.disconnected()

    def turn(self, manager: Any, now: float) -> float:
        """Send the events that are due."""
        if self._teller is None:
            return math.inf
        try:
            return self._teller.turn(manager, now)
        except Exception:  # a dispatcher of the project's own
            logger.exception("events can't be sent")
            return now + 1.0

    @_safe
    def leaving(self, manager: Any) -> None:
        """Send the last events."""
        if self._teller is not None:
            self._teller.leaving(manager)

    def send_task_events(self, manager: Any, wanted: bool) -> bool:
        """Send events of tasks from now on, or no more; returns whether that is a change."""
        if self._teller is None or not self._teller.send_tasks(wanted):
            return False
        manager.hear_ends(self.hears_ends)
        return True

    def asked(self, manager: Any, verb: str, arguments: Mapping[str, Any]) -> Any:
        """Run a command of remote control that is Celery's, or the project's own (``shim/panel.py``)."""
        from emq_compat.shim.panel_registry import State  # noqa: PLC0415 - start-up doesn't need it

        controller = self.controller
        state = State(self._app, controller.hostname, controller.consumer, manager)
        return self.run_command(state, verb, arguments)

    def run_command(self, state: State, verb: str, arguments: Mapping[str, Any]) -> Any:
        """Run a command; raises LookupError where there is none of this name, and what it raises."""
        from emq_compat.shim import panel  # noqa: PLC0415 - start-up doesn't need it

        return panel.run(state, verb, arguments)

    def commanded(self, manager: Any, method: str, arguments: Mapping[str, Any]) -> Any:
        """Run a command of remote control that was sent as Celery sends them."""
        return self.asked(manager, method, arguments)

    def stats(self, told: dict[str, Any]) -> dict[str, Any]:
        """Return the job manager's statistics and what Celery's have beside them."""
        conf = self._app.conf
        limits = [conf.task_soft_time_limit or 0, conf.task_time_limit or 0]
        return {
            **told,
            "clock": str(int(time.time())),  # as the command ``clock``
            "broker": told_of(_url_of(conf.broker_read_url or conf.broker_url, self._app)),
            "prefetch_count": 0,
            "pool": {**told["pool"], "timeouts": limits, "put-guarded-by-semaphore": False},
        }

    def shutting_down(self, cause: str, how: str, exit_code: int) -> None:
        """Send worker_shutting_down."""
        self.signals.worker_shutting_down.send(
            sender=self.controller.hostname, sig=cause, how=how, exitcode=exit_code
        )

    def shut_down(self) -> None:
        """Stop the project's steps and send worker_shutdown."""
        self.controller.stop_steps()
        self.signals.worker_shutdown.send(sender=self.controller)

    @_safe
    def began(self, delivery: Delivery) -> None:
        """Send the event of a task that begins."""
        if self._switch.on and self._teller is not None:
            self._teller.began(delivery)

    @_safe
    def ended(self, delivery: Delivery, reply: Reply) -> None:
        """Send the event of a task that has ended by its own word."""
        if self._switch.on and self._teller is not None:
            self._teller.ended(delivery, reply)

    def _request(self, task: str, job: Job, delivery: Delivery) -> Any:
        """Return what a message's request would be."""
        return request_of(task, job, delivery, self._app.hostname)

    def _exception(self, reply: Mapping[str, Any]) -> BaseException:
        """Return the exception that a reply's JSON tells of."""
        return exception_from(reply.get("error") or {}, reply.get("traceback") or "")

    def _info(self, exc: BaseException) -> Any:
        """Return Celery's ExceptionInfo of an exception that is being handled."""
        return ExceptionInfo(exc)

    @_safe
    def received(self, delivery: Delivery) -> None:
        """Send task_received; task_unknown for a name that isn't registered, task_rejected for no message."""
        if self._switch.on and self._teller is not None:
            self._teller.received(delivery)
        if not (
            self.signals.task_received.receivers
            or self.signals.task_unknown.receivers
            or self.signals.task_rejected.receivers
        ):
            return
        if delivery.headers.concludes:
            return
        consumer = self.controller.consumer
        try:
            job = Job.decode(delivery.payload)
        except MessageError as exc:
            self.signals.task_rejected.send(sender=consumer, message=delivery, exc=exc)
            return
        name = delivery.headers.task or job.celery.get("task")
        if not name:
            return
        task = self._app.tasks.get(name)
        context = self._request(str(name), job, delivery)
        if task is None:
            unknown = self.exceptions.NotRegistered(name)
            self.signals.task_unknown.send(
                sender=consumer, message=delivery, exc=unknown, name=name, id=context.id
            )
        else:
            self.signals.task_received.send(sender=consumer, request=Request(task, context, delivery))

    @_safe
    def unattended(self, delivery: Delivery, reply: Reply, *, signum: int | None = None) -> None:
        """Send task_failure of a lost task or one over its limit, task_retry, and task_revoked."""
        if self._switch.on and self._teller is not None:
            self._teller.unattended(delivery, reply, signum)
        signal = getattr(self.signals, _ENDS.get(reply.state, ""), None)
        if signal is None or not signal.receivers:
            return
        job = Job.decode(delivery.payload)
        name = delivery.headers.task or job.celery.get("task")
        task = self._app.tasks.get(name) if isinstance(name, str) else None
        if task is None:
            return
        context = self._request(task.name, job, delivery)
        document = json.loads(reply.body)
        if reply.state == REVOKED:
            why = document.get("value")
            self.signals.task_revoked.send(
                sender=task,
                request=context,
                terminated=why == "terminated",
                signum=signum,
                expired=why == "expired",
            )
            return
        try:
            raise self._exception(document)
        except BaseException as exc:  # noqa: BLE001 - raised here, to have a traceback
            info = self._info(exc)
            if reply.state == RETRY:
                again = self.exceptions.Retry(exc=exc, when=task.default_retry_delay)
                self.signals.task_retry.send(sender=task, request=context, reason=again, einfo=info)
                return
            self.signals.task_failure.send(
                sender=task,
                task_id=context.id,
                exception=exc,
                args=context.args,
                kwargs=context.kwargs,
                traceback=info.tb,
                einfo=info,
            )


#: State of what had no word in its end → the name of the signal that tells of it.
_ENDS = {FAILURE: "task_failure", RETRY: "task_retry", REVOKED: "task_revoked"}


def _url_of(setting: Any, app: Any) -> str:
    url = setting or getattr(app, "broker_url", "") or ""
    return url if isinstance(url, str) else ";".join(url)


def told_of(url: str) -> dict[str, Any]:
    """Return what a broker's address is made of, under kombu's names, without passwords."""
    if is_kombu(url):
        from kombu.connection import Connection  # noqa: PLC0415 - heavy
        from kombu.utils.url import maybe_sanitize_url  # noqa: PLC0415 - likewise

        told: dict[str, Any] = dict(Connection(url).info())
        told.pop("password", None)
        told["alternates"] = [maybe_sanitize_url(other) for other in told.get("alternates") or ()]
        return told
    first, *others = Address.parse(url)
    port = first.client_endpoint.rpartition(":")[2]
    return {
        "hostname": first.host,
        "port": int(port) if port.isdecimal() else None,
        "transport": first.url.partition("://")[0],
        "ssl": first.keys_dir is not None,
        "alternates": [str(address) for address in others],
    }
