"""GenuineProgram: what a job manager runs when it serves an app of the package celery (``worker -A``)."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from typing import Any

from celery import signals
from celery._state import _set_task_join_will_block, set_default_app
from celery.exceptions import NotRegistered, SoftTimeLimitExceeded

from emq_compat.address import Address
from emq_compat.decompression import bound
from emq_compat.errors import AddressError, EmqError
from emq_compat.failures import failed
from emq_compat.genuine.log import in_json
from emq_compat.genuine.onlooker import GenuineAnnouncer
from emq_compat.genuine.tracing import Tracing
from emq_compat.message import Delivery, Reply
from emq_compat.pool.slot import Stopped
from emq_compat.run import Onlooker, Report, TaskPolicy
from emq_compat.shim.app_program import AppProgram
from emq_compat.shim.checks import interval_of
from emq_compat.shim.events.telling import Switch
from emq_compat.shim.registry import nearest

__all__ = ["GenuineProgram", "captures", "rebuild"]

logger = logging.getLogger(__name__)


class GenuineProgram(AppProgram):
    """The tasks of a celery.Celery, run by Celery's tracer (run.Program).

    Args:
        app: the app.
        hostname: the node name.
        url: the broker's address that the worker was told.
        found_as: what ``-A`` named it by; empty: a process that is started anew can't find it.
        changes: settings that the command line gave to the app.
        announcer: sends the signals of the parent; None: there are none (where tasks run).
        events: whether task events are sent: told by the parent to where tasks run.
    """

    soft_limit_exceeded: type[BaseException] = SoftTimeLimitExceeded

    def __init__(
        self,
        app: Any,
        *,
        hostname: str,
        url: str = "",
        found_as: str = "",
        changes: Mapping[str, Any] | None = None,
        announcer: GenuineAnnouncer | None = None,
        events: Switch | None = None,
    ) -> None:
        bound()
        self.app = app
        self.hostname = hostname
        self.events = Switch() if events is None else events
        self.announcer = announcer
        self.onlooker: Onlooker = Onlooker() if announcer is None else announcer
        self._url = url
        self.rebuild: tuple[str, tuple[str, ...]] | None = (
            ("emq_compat.genuine.program:rebuild", (found_as, hostname, url, json.dumps(changes or {})))
            if found_as
            else None
        )
        self._made: Tracing | None = None

    def policy_of(self, task: Any) -> TaskPolicy:
        """Return the policy of a registered task.

        Raises:
            ValueError: its rate limit is none.
        """
        limited = not self.app.conf.worker_disable_rate_limits
        acks_on_timeout = getattr(task, "acks_on_timeout", None)
        return TaskPolicy(
            acks_late=bool(task.acks_late),
            reject_on_worker_lost=bool(task.reject_on_worker_lost),
            lost_retry_s=float(task.default_retry_delay or 0)
            if getattr(task, "retry_on_worker_lost", False)
            else None,
            max_retries=task.max_retries,
            limit_s=task.time_limit or None,
            soft_limit_s=task.soft_time_limit or None,
            interval_s=interval_of(task.rate_limit) if limited else None,
            acks_on_timeout=bool(
                task.acks_on_failure_or_timeout if acks_on_timeout is None else acks_on_timeout
            ),
        )

    def load(self) -> None:
        """Make the app current and import its task modules.

        Raises:
            Exception: what importing one of them raises.
        """
        app = self.app
        app.set_current()
        set_default_app(app)
        app.loader.init_worker()
        app.finalize()

    def worker_init(self) -> None:
        """Import the app's task modules and make its result backend, before anything is forked."""
        _ = self.policies, self.app.backend
        if self.announcer is not None:
            self.announcer.worker_init()

    def child_init(self) -> None:
        """Do what Celery does in a process that is to run tasks, and send worker_process_init."""
        self.load()
        _confirm_publishing(self.app)
        _set_task_join_will_block(True)
        self.app.loader.init_worker_process()
        self._tracing.prepare()
        signals.worker_process_init.send(sender=self.hostname)

    def child_exit(self) -> None:
        """Send worker_process_shutdown."""
        signals.worker_process_shutdown.send(sender=self.hostname, pid=os.getpid(), exitcode=0)

    @property
    def _tracing(self) -> Tracing:
        if self._made is None:
            self._made = Tracing(
                self.app,
                self.hostname,
                captures=captures(self.app, self._url),
                tells=lambda: bool(self.events.on),
            )
        return self._made

    def work(self, delivery: Delivery, report: Report) -> Reply:
        """Run one delivery (run.Program.work)."""
        try:
            if delivery.headers.concludes:
                return self._tracing.conclude(delivery)
            return self._tracing.run(delivery, report)
        except NotRegistered as exc:
            name = str(exc.args[0]) if exc.args else str(exc)
            near = ", ".join(nearest(name, self.app.tasks))
            logger.error("no task %r is registered here%s", name, f"; near it: {near}" if near else "")
            return self._fail(delivery, exc)
        except EmqError as exc:
            logger.error("refused %s: %s", delivery.msgid, exc)
            return failed(exc)
        except Stopped:
            raise
        except BaseException as exc:  # a soft limit that comes late ends the task, not the worker
            logger.error("%s failed outside of the task's body", delivery.msgid, exc_info=exc)
            return self._fail(delivery, exc)

    def _fail(self, delivery: Delivery, exc: BaseException) -> Reply:
        """Return the Reply of a run that failed outside of the tracer, stored where results are."""
        try:
            return failed(exc) if delivery.headers.concludes else self._tracing.fail(delivery, exc)
        except EmqError:
            return failed(exc)


def _confirm_publishing(app: Any) -> None:
    """Have RabbitMQ confirm what tasks publish, where the project says nothing else.

    Celery's tracer publishes what follows from a task, and the task is acknowledged then: what only stood in
    the socket of a process that was killed would be gone with it.
    """
    told = app.conf.broker_write_url
    urls = [told] if isinstance(told, str) else list(told or ())
    if any(url.partition("://")[0].lower() in ("amqp", "amqps", "pyamqp") for url in urls):
        options = app.conf.broker_transport_options or {}
        app.conf.broker_transport_options = {"confirm_publish": True, **options}


def captures(app: Any, url: str) -> bool:
    """Whether the broker at ``url`` and the app's result backend are both ours: ends are captured then."""
    backend: Any = type(app.backend)
    if not any(kind.__module__.startswith("emq_compat.genuine.") for kind in backend.__mro__):
        return False
    try:
        return not Address.parse(url)[0].stock
    except AddressError:
        return False


def rebuild(found_as: str, hostname: str, url: str = "", changes: str = "{}") -> GenuineProgram:
    """Make a GenuineProgram again in a new process; ``changes`` are settings in JSON."""
    from emq_compat.shim.find_app import find_app  # noqa: PLC0415 - only a spawned process needs it

    found: Any = find_app(found_as)
    found.conf.update(json.loads(changes))
    program = GenuineProgram(found, hostname=hostname, url=url, found_as=found_as)
    program.events.on = True  # it shares no memory with the parent, which may want them at any time
    _log_as_the_parent(found, hostname)
    return program


def _log_as_the_parent(app: Any, hostname: str) -> None:
    """Set logging up in a process started by one that has: ``app.log.setup`` left it in the environment."""
    environ: Mapping[str, str] = os.environ
    if "CELERY_LOG_LEVEL" in environ:
        app.log.setup(
            int(environ["CELERY_LOG_LEVEL"] or 0),
            environ.get("CELERY_LOG_FILE") or None,
            bool(environ.get("CELERY_LOG_REDIRECT")),
            environ.get("CELERY_LOG_REDIRECT_LEVEL") or "WARNING",
            hostname=hostname,
        )
        in_json()
