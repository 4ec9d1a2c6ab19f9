"""ShimProgram: what a job manager runs when it serves a Celery-style app (``worker -A``)."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from inspect import iscoroutinefunction
from typing import Any

from emq_compat.errors import EmqError, NotAllowed
from emq_compat.failures import failed, failure_of, reply_of
from emq_compat.message import (
    FAILURE,
    REJECTED,
    RETRY,
    REVOKED,
    STARTED,
    SUCCESS,
    Delivery,
    Headers,
    Job,
    Outcome,
    Publish,
    Reply,
)
from emq_compat.pool.slot import Stopped
from emq_compat.run import Onlooker, Report, TaskPolicy, about
from emq_compat.shim import flow, keeping, later
from emq_compat.shim.alias.finder import install
from emq_compat.shim.app import Celery
from emq_compat.shim.app_program import AppProgram
from emq_compat.shim.call_terms import shares_of
from emq_compat.shim.carrying import result_text
from emq_compat.shim.codec import dumps, too_large
from emq_compat.shim.events.telling import Switch
from emq_compat.shim.exceptions import (
    EncodeError,
    ImproperlyConfigured,
    NoImportablePath,
    NotRegistered,
    SoftTimeLimitExceeded,
    TaskRevokedError,
)
from emq_compat.shim.execution import execute
from emq_compat.shim.find_app import find_app
from emq_compat.shim.handlers import ExceptionInfo
from emq_compat.shim.options import interval_of
from emq_compat.shim.paths import path_of
from emq_compat.shim.registry import nearest
from emq_compat.shim.request import Context, request_of, request_without_arguments
from emq_compat.shim.run_plan import run_plan_of
from emq_compat.shim.signals import (
    task_internal_error,
    worker_process_init,
    worker_process_shutdown,
)
from emq_compat.shim.surface.saferepr import saferepr
from emq_compat.shim.task import Task
from emq_compat.shim.worker import Announcer, WorkController

__all__ = ["ShimProgram", "rebuild"]

logger = logging.getLogger("celery.app.trace")


class ShimProgram(AppProgram):
    """Implements run.Program for an app: runs its registered tasks, and nothing else.

    ``found_as`` is what ``-A`` said, by which a spawned process finds the app again; empty: it can't be.
    ``app.hostname`` is the node name that tasks see; set it before anything is forked. ``changes`` are
    settings (JSON values) that the command line gave to the app, and that a spawned process gives it again.
    ``controller`` is the worker that signals are sent with.
    """

    soft_limit_exceeded: type[BaseException] = SoftTimeLimitExceeded

    def __init__(
        self,
        app: Celery,
        *,
        found_as: str = "",
        changes: Mapping[str, Any] | None = None,
        controller: WorkController | None = None,
    ) -> None:
        self.app = app
        #: Whether task events are sent: told by the parent to where tasks run.
        self.events = Switch()
        self.announcer = Announcer(app, controller, self.events)
        self.onlooker: Onlooker = self.announcer
        arguments = (found_as, app.hostname, *((json.dumps(changes),) if changes else ()))
        self.rebuild: tuple[str, tuple[str, ...]] | None = (
            ("emq_compat.shim.program:rebuild", arguments) if found_as else None
        )
        self._by_path: dict[tuple[str, str], Task[..., object]] | None = None

    def policy_of(self, task: Task[..., Any]) -> TaskPolicy:
        """Return the policy of a registered task."""
        limited = not self.app.conf.worker_disable_rate_limits
        return TaskPolicy(
            acks_late=bool(task.acks_late),
            reject_on_worker_lost=bool(task.reject_on_worker_lost),
            lost_retry_s=float(task.default_retry_delay or 0) if task.retry_on_worker_lost else None,
            max_retries=task.max_retries,
            limit_s=task.time_limit,
            soft_limit_s=task.soft_time_limit,
            interval_s=_interval_of(task) if limited else None,
            acks_on_timeout=bool(task.acks_on_timeout),
            shares=shares_of(task),
        )

    def worker_init(self) -> None:
        """Import the app's task modules and say what is odd about its settings and tasks.

        Sends import_modules and worker_init, unless that is done.

        Raises:
            Exception: what importing one of them raises.
        """
        _ = self.policies, self.app.backend
        self._wait_for_rdb(here=False)
        self.announcer.worker_init()
        for line in self.app.problems():
            logger.warning("%s", line)

    def child_init(self) -> None:
        """Make the app current in this process, and send worker_process_init."""
        self.load()
        self.app.loader.init_worker_process()
        if self.announcer.controller.pool_cls not in ("threads", "asyncio"):
            self._wait_for_rdb(here=True)
        worker_process_init.send(sender=None)

    @staticmethod
    def _wait_for_rdb(*, here: bool) -> None:
        if os.environ.get("CELERY_RDBSIG"):
            from emq_compat.shim.surface.rdb import wait_for_signal  # noqa: PLC0415 - where it is wanted

            wait_for_signal(here=here)

    def child_exit(self) -> None:
        """Send worker_process_shutdown."""
        worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0)

    def load(self) -> None:
        """Make the app current and import its task modules.

        Raises:
            Exception: what importing one of them, or a receiver of import_modules, raises.
        """
        later.load()
        self.app.set_current()
        self.app.set_default()
        self.app.loader.init_worker()
        self.app.finalize()
        self.app.conf.settle()
        if any(iscoroutinefunction(task.run) for task in self.app.tasks.values()):
            import_module("emq_compat.coroutines.loops")  # asyncio, which children share then
        if self.app.conf.task_annotations:
            for task in self.app.tasks.values():
                task.annotate()

    def work(self, delivery: Delivery, report: Report) -> Reply:
        """Run one delivery (run.Program.work)."""
        store = keeping.store_of(self.app, delivery.headers.task)
        if store is None:
            return self._ran(delivery, report)
        keeper = keeping.Keeper(store, delivery)
        return keeper.kept(self._ran(delivery, keeper))

    def _ran(self, delivery: Delivery, report: Report) -> Reply:
        try:
            return self._work(delivery, report)
        except (EmqError, ImproperlyConfigured) as exc:
            logger.error("refused %s: %s", delivery.msgid, exc)
            return failed(exc)
        except Stopped:
            raise
        except BaseException as exc:  # a soft limit that comes late ends the task, not the worker
            logger.error("%s failed outside of the task's body", delivery.msgid, exc_info=exc)
            if task_internal_error.receivers:
                self._announce_internal_error(delivery, exc)
            return failed(exc)

    def _announce_internal_error(self, delivery: Delivery, exc: BaseException) -> None:
        job = Job.decode(delivery.payload)
        name = delivery.headers.task or job.celery.get("task")
        task = self.app.tasks.get(name) if isinstance(name, str) else None
        if task is not None:
            accept = self.app.conf.accept_content  # it has been read once: it can be
            try:
                request = request_of(task.name, job, delivery, self.app.hostname, accept=accept)
            except Exception:  # noqa: BLE001 - what can't be read is what went wrong
                request = Context(id=delivery.headers.task_id or delivery.msgid, task=task.name)
            task_internal_error.send(
                sender=task,
                task_id=request.id,
                args=request.args,
                kwargs=request.kwargs,
                request=request,
                exception=exc,
                traceback=exc.__traceback__,
                einfo=ExceptionInfo(exc),
            )

    def _work(self, delivery: Delivery, report: Report) -> Reply:
        headers = delivery.headers
        if headers.concludes:
            heard = report.heard if isinstance(report, keeping.Keeper) else None
            return reply_of(flow.conclude(self.app, delivery, heard))
        job = Job.decode(delivery.payload)
        name = headers.task or job.celery.get("task")
        app = self.app
        task = app.tasks.get(name) if isinstance(name, str) else None
        if task is None:
            if name:
                return self._unknown(str(name))
            task = self._task_at(job)
        plan = run_plan_of(task, app)
        try:
            request = request_of(task.name, job, delivery, app.hostname, accept=plan.accept)
        except Exception as exc:  # noqa: BLE001 - what can't be read, from whatever serializer
            logger.error("Task %s: its arguments can't be read: %s", task.name, exc)
            request = request_without_arguments(task.name, job, delivery, app.hostname)
            return self._ended(request, delivery, FAILURE, exc)
        if isinstance(report, keeping.Keeper):
            report.heard(request)
        if headers.expires and time.time() > headers.expires:
            facts = about(delivery, REVOKED, task.name)
            logger.info("Task %s[%s] expired", task.name, request.id, extra=facts)
            return self._ended(request, delivery, REVOKED, TaskRevokedError("expired"))
        if plan.ignore_result and job.celery.get("ignore_result") is not False:
            request.ignore_result = True
        if plan.track_started and not request.ignore_result:
            started = {"value": {"pid": os.getpid(), "hostname": app.hostname}, "state": STARTED}
            report(STARTED, dumps(started).encode())
        began = time.monotonic()
        loader = self.app.loader
        if loader.hooks_tasks:
            loader.on_task_init(request.id or "", task)
        outcome = execute(task, request, delivery, report)
        if loader.hooks_tasks:
            loader.on_process_cleanup()
        if outcome.follow_ups and not delivery.attempt:
            raise ImproperlyConfigured(f"{task.name}: retries don't pass through a stock eventmq router")
        # A rejected task tells no failure, one that is put aside below has.
        failure = outcome.failure if outcome.state in (FAILURE, RETRY) else None
        failed_so = outcome.state in (FAILURE, REJECTED)
        if request.ignore_result and not (failed_so and task.store_errors_even_if_ignored):
            outcome = replace(outcome, no_result=True)
        unacknowledged = outcome.state == FAILURE and task.acks_late and not task.acks_on_failure
        if delivery.attempt and (unacknowledged or outcome.state == REJECTED):
            outcome = _put_aside(outcome, delivery)
        if outcome.state != SUCCESS:
            reply = reply_of(outcome)
            if self.events.on and failure is not None:
                told = {"exception": failure.shown, "traceback": failure.traceback}
                return replace(reply, told=json.dumps(told))
            return reply
        try:
            reply = self._returned(task, outcome)
        except EncodeError as exc:
            facts = about(delivery, FAILURE, task.name, time.monotonic() - began)
            logger.error("Task %s[%s] failed: %s", task.name, request.id, exc, extra=facts)
            return self._ended(request, delivery, FAILURE, exc)
        logs = logger.isEnabledFor(logging.INFO)
        if logs or self.events.on:
            took_s = time.monotonic() - began
            shown = saferepr(outcome.value, task.resultrepr_maxsize)
            if logs:
                logger.info(
                    "Task %s[%s] succeeded in %.6fs: %s",
                    task.name,
                    request.id,
                    took_s,
                    shown,
                    extra=about(delivery, SUCCESS, task.name, took_s),
                )
            if self.events.on:
                return replace(reply, told=json.dumps({"result": shown, "runtime": took_s}))
        return reply

    def _returned(self, task: Task[..., object], outcome: Outcome) -> Reply:
        """Return the Reply of a task that returned; raises EncodeError where the value can't be carried."""
        text = result_text(task, outcome.value)
        body = f'{{"value":{text},"state":"SUCCESS"{_further(outcome.extra)}}}'
        try:
            encoded = body.encode()
        except ValueError as exc:  # a lone surrogate
            raise EncodeError(f"the result of {task.name} can't be carried: {exc}") from exc
        if why := too_large(encoded):
            raise EncodeError(f"the result of {task.name} is too large: {why}")
        return Reply(
            state=SUCCESS, body=encoded, follow_ups=outcome.follow_ups, no_result=outcome.no_result
        )

    def _ended(self, request: Context, delivery: Delivery, state: str, exc: BaseException) -> Reply:
        """Return the Reply of a run that ended so outside of its body, with all that follows from it."""
        failure = failure_of(exc)
        messages = flow.failed(
            self.app, request, delivery.queue, state=state, exc=exc, failure=failure
        )
        return reply_of(Outcome(state=state, failure=failure, follow_ups=tuple(messages)))

    def _unknown(self, name: str) -> Reply:
        near = ", ".join(nearest(name, self.app.tasks))
        logger.error("no task %r is registered here%s", name, f"; near it: {near}" if near else "")
        return failed(NotRegistered(name))

    def _task_at(self, job: Job) -> Task[..., object]:
        """Return the registered task that a plain eventmq job names by its path.

        Raises:
            NotAllowed: there is none.
        """
        if self._by_path is None:
            self._by_path = {}
            for task in self.app.tasks.values():
                try:
                    path = path_of(task)
                except NoImportablePath:
                    continue
                if not path.class_args:
                    self._by_path[path.path, path.callable] = task
        found = self._by_path.get((job.path, job.callable))
        if found is None:
            raise NotAllowed(f"{job.path}.{job.callable} is no registered task")
        return found


def _interval_of(task: Task[..., object]) -> float | None:
    try:
        return interval_of(task.rate_limit)
    except ValueError as exc:
        raise ImproperlyConfigured(f"task {task.name}: {exc}") from None


def _further(extra: Mapping[str, Any]) -> str:
    """Return further members of the reply's JSON object, each with a comma in front."""
    if not extra:
        return ""
    if len(extra) == 1 and "date_done" in extra:
        return f',"date_done":"{extra["date_done"]}"'
    return "," + dumps(extra)[1:-1]


def _put_aside(outcome: Outcome, delivery: Delivery) -> Outcome:
    """Return a failure that is kept, and whose message is a dead letter: Reject, acks_on_failure=False."""
    headers = delivery.headers
    reply = reply_of(replace(outcome, state=FAILURE))
    settled = Headers(
        task_id=headers.task_id,
        task=headers.task,
        settled=FAILURE,
        chord=headers.chord.rstrip("+"),
        no_result=headers.no_result or outcome.no_result,
        keep_s=headers.keep_s,
    )
    end = Publish(queue=delivery.queue, headers=settled, payload=reply.body)
    return replace(outcome, state=REJECTED, follow_ups=(end, *outcome.follow_ups))


def rebuild(found_as: str, hostname: str, changes: str = "{}") -> ShimProgram:
    """Make a ShimProgram again in a new process; ``changes`` are settings in JSON."""
    install()
    app = find_app(found_as)
    app.hostname = hostname
    app.conf.update(json.loads(changes))
    _log_as_the_parent(app)
    program = ShimProgram(app, found_as=found_as)
    program.events.on = True  # it shares no memory with the parent, which may want them at any time
    return program


def _log_as_the_parent(app: Celery) -> None:
    """Set logging up in a process started by one that has: ``app.log.setup`` left it in the environment."""
    environ = os.environ
    if "CELERY_LOG_LEVEL" in environ:
        app.log.setup(
            int(environ["CELERY_LOG_LEVEL"] or 0),
            environ.get("CELERY_LOG_FILE") or None,
            bool(environ.get("CELERY_LOG_REDIRECT")),
            environ.get("CELERY_LOG_REDIRECT_LEVEL") or "WARNING",
        )
