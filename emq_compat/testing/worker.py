"""``celery.contrib.testing.worker``: a worker in a thread of the test's process.

It is the job manager of ``emq-compat worker`` with its loop in a thread, and the tasks in others: so tests
may look into what tasks did, and patch what they call. What needs a process of its own isn't there: the
prefork pool, and signals.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from emq_compat.address import Address
from emq_compat.errors import ConfigurationError, OperationalError
from emq_compat.jobmanager import JobManager
from emq_compat.manager.settings import DEFAULT_WEIGHT, EventmqSettings
from emq_compat.manager.signals import Stage
from emq_compat.pool.base import PoolOptions
from emq_compat.pool.factory import checked_name
from emq_compat.run import TaskPolicy
from emq_compat.shim import current
from emq_compat.shim.dispatch import Signal
from emq_compat.shim.exceptions import CeleryWarning
from emq_compat.shim.log import handler_for
from emq_compat.shim.loggers import mlevel
from emq_compat.shim.program import ShimProgram
from emq_compat.shim.worker import Announcer, Consumer, WorkController
from emq_compat.testing.broker import keep_real_time
from emq_compat.testing.tasks import ping

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery
    from emq_compat.shim.task import Task

__all__ = [
    "WORKER_LOGLEVEL",
    "TestWorkController",
    "setup_app_for_worker",
    "start_worker",
    "test_worker_started",
    "test_worker_starting",
    "test_worker_stopped",
]

logger = logging.getLogger(__name__)

WORKER_LOGLEVEL = os.environ.get("WORKER_LOGLEVEL", "error")

#: How long a worker may take to be taken in by a broker that answers.
_STARTS_S = 10.0
#: How long one that was asked to end at once may take.
_ENDS_S = 3.0

_numbers = itertools.count(1)

test_worker_starting = Signal(name="test_worker_starting", providing_args=set())
test_worker_started = Signal(name="test_worker_started", providing_args={"worker", "consumer"})
test_worker_stopped = Signal(name="test_worker_stopped", providing_args={"worker"})

#: Each of them has events of tasks sent.
_EVENTS = frozenset({"events", "send_events", "task_events"})
#: What those who send events look up.
_OPTIONS = _EVENTS | {"heartbeat_interval", "without_heartbeat"}
#: Options of Celery's worker that mean nothing here.
_WITHOUT_EFFECT = frozenset({
    "autoscale", "beat", "gossip", "heartbeat", "max_memory_per_child", "max_tasks_per_child", "mingle",
    "no_color", "optimization", "pidfile", "pool_cls", "pool_putlocks", "purge", "quiet", "ready_callback",
    "redirect_stdouts", "redirect_stdouts_level", "schedule_filename", "scheduler", "state_db", "statedb",
    "timer_precision", "use_eventloop", "without_gossip", "without_mingle", "worker_lost_wait",
})  # fmt: skip


class TestWorkController(WorkController):
    """A worker whose ``start`` runs in a thread, and that tells when it is ready.

    Args:
        app: the current one by default.
        concurrency: tasks at once; the pool ``solo`` runs one.
        hostname: its node name.
        pool: ``solo`` (one thread that runs tasks), ``threads`` or ``asyncio``.
        queues, exclude_queues: names of queues to listen on, or not to, in a list or joined by commas; by
            default those of the app.
        time_limit, soft_time_limit: seconds, for tasks that have none of their own.
        prefetch_multiplier: 1: hold nothing but what runs.
        options: ``task_events`` (or ``send_events``, ``events``): send events of tasks;
            ``without_heartbeat``: and none of the worker's beats; ``heartbeat_interval``, in seconds. Further
            ones of Celery's worker have no effect here; another name is warned about.

    Raises:
        ConfigurationError: there is no such pool, or it is ``prefork``, which needs a process of its own.
    """

    # No test class, although its name begins like one.
    __test__ = False

    def __init__(
        self,
        app: Celery | None = None,
        concurrency: int | None = 1,
        hostname: str | None = None,
        pool: str = "solo",
        loglevel: int | str = WORKER_LOGLEVEL,
        logfile: Any = None,
        *,
        queues: Iterable[str] | str | None = None,
        exclude_queues: Iterable[str] | str | None = None,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
        prefetch_multiplier: int | None = None,
        **options: Any,
    ) -> None:
        app = app if app is not None else current.get_app()
        for name in sorted(options.keys() - _WITHOUT_EFFECT - _OPTIONS):
            warnings.warn(CeleryWarning(f"a worker has no option {name!r}"), stacklevel=2)
        super().__init__(app, hostname or f"gen{next(_numbers)}@{os.uname().nodename}", options)
        self.pool_cls = _pool_in_threads(str(pool))
        self.concurrency = 1 if self.pool_cls == "solo" else concurrency or 1
        self.loglevel, self.logfile = loglevel, logfile
        if prefetch_multiplier is None:
            prefetch_multiplier = app.conf.worker_prefetch_multiplier
        self._reserves = self.pool_cls != "solo" and prefetch_multiplier != 1
        self._limits = TaskPolicy(limit_s=time_limit, soft_limit_s=soft_time_limit)
        self._wanted, self._unwanted = _names(queues), _names(exclude_queues)
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self.exitcode: int | None = None

    def start(self) -> None:
        """Run until ``stop``; for a thread of its own (``start_worker``).

        Raises:
            Exception: what importing the app's tasks, or a receiver of a signal of its start, raises.
        """
        app = self.app
        app.hostname, before = self.hostname, app.hostname
        try:
            program = _Program(app, self, self._limits)
            self.manager = JobManager(
                self.hostname,
                [(DEFAULT_WEIGHT, name) for name in self._queues()],
                skip_signal=True,
                concurrent_jobs=self.concurrency,
                program=program,
                pool="threads" if self.pool_cls == "solo" else str(self.pool_cls),
                pool_options=PoolOptions(),
                addresses=Address.parse(app.connection_for_read().url),
                settings=EventmqSettings(),
                reserve=self._reserves,
            )
            self.pool = self.manager.pool
            self.exitcode = self.manager.start()
        except BaseException as exc:
            self._failure = exc
            raise
        finally:
            app.hostname = before
            if current.worker is self:
                current.worker = None
            self._ready.set()

    def _queues(self) -> list[str]:
        known = self.app.amqp.queues
        names = [known[name].name for name in self._wanted] or list(known.consume_from)
        return [name for name in names if name not in self._unwanted]

    def on_consumer_ready(self, consumer: Consumer) -> None:
        """A broker has taken this worker in."""
        self._ready.set()
        test_worker_started.send(sender=self.app, worker=self, consumer=consumer)

    def ensure_started(self) -> None:
        """Wait until it is ready; it must have been started in another thread.

        Raises:
            OperationalError: the broker hasn't taken it in within 10 s.
            Exception: what has kept it from starting.
        """
        if not self._ready.wait(_STARTS_S):
            raise OperationalError(f"no broker has taken {self.hostname} in within {_STARTS_S:g} s")
        if self._failure is not None:
            raise self._failure

    def reload(
        self, modules: Iterable[str] | None = None, reload: bool = False, reloader: Any = None
    ) -> None:
        """Import these modules. Tasks that are declared while it runs need no reload: they are found."""
        for module in modules or ():
            self.app.loader.import_task_module(module)

    def stop(self, *args: Any, **kwargs: Any) -> None:
        """Ask it to end once what runs has ended; returns at once."""
        if self.manager is not None:
            self.manager.end_soon(Stage.WARM)

    def terminate(self, *args: Any, **kwargs: Any) -> None:
        """Ask it to end now: what runs is cut off; returns at once."""
        if self.manager is not None:
            self.manager.end_soon(Stage.COLD)

    def _start_in_thread(self) -> None:
        def run() -> None:
            try:
                self.start()
            except BaseException as exc:  # noqa: BLE001 - told by ensure_started
                self._failure = exc

        self._thread = threading.Thread(target=run, name=f"emq-test-worker {self.hostname}", daemon=True)
        self._thread.start()

    def _end(self, timeout_s: float, *, after_error: bool = False) -> None:
        """End it; ``after_error``: another error is on its way, which this one shall not hide.

        Raises:
            RuntimeError: what runs has not ended in time, and was cut off.
        """
        assert self._thread is not None
        self.stop()
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            return
        jobs = [] if self.manager is None else [*self.manager.jobs_in_flight.values()]
        running = ", ".join(sorted(job.delivery.headers.task for job in jobs))
        self.terminate()
        self._thread.join(_ENDS_S)
        told = (
            f"the worker {self.hostname} had not ended after {timeout_s:g} s ({running or 'nothing'} was "
            "running): raise shutdown_timeout, or have the test wait for its tasks"
        )
        if not after_error:
            raise RuntimeError(told)
        logger.error("%s", told)


class _Program(ShimProgram):
    """What is run: tasks that are declared after the worker's start, too."""

    def __init__(self, app: Celery, controller: TestWorkController, limits: TaskPolicy) -> None:
        super().__init__(app, controller=controller)
        self.announcer = self.onlooker = _Announcer(app, controller)
        self._limits = limits

    @property
    def default_policy(self) -> TaskPolicy:
        return self._limited(super().default_policy)

    @property
    def policies(self) -> dict[str, TaskPolicy]:
        known = super().policies
        if len(known) != len(self.app.tasks):
            for name, task in [*self.app.tasks.items()]:
                if name not in known:
                    known[name] = self.policy_of(task)
                    if self.announcer.controller.manager is not None:
                        self.announcer.controller.manager.runs_by_task.setdefault(name, 0)
        return known

    def policy_of(self, task: Task[..., Any]) -> TaskPolicy:
        return self._limited(super().policy_of(task))

    def _limited(self, policy: TaskPolicy) -> TaskPolicy:
        limits = self._limits
        return replace(
            policy,
            limit_s=limits.limit_s if policy.limit_s is None else policy.limit_s,
            soft_limit_s=limits.soft_limit_s if policy.soft_limit_s is None else policy.soft_limit_s,
        )


class _Announcer(Announcer):
    def connected(self, manager: Any, announce: Any, *, anew: bool) -> None:
        super().connected(manager, announce, anew=anew)
        if any(self.controller.options.get(name) for name in _EVENTS):
            self.send_task_events(manager, True)

    def ready(self) -> None:
        super().ready()
        controller = self.controller
        assert isinstance(controller, TestWorkController)
        controller.on_consumer_ready(controller.consumer)


def _pool_in_threads(name: str) -> str:
    """Return the pool's own name; raises ConfigurationError for one that a test's process can't have."""
    name = checked_name(name)
    if name == "prefork":
        raise ConfigurationError(
            "the pool prefork forks, which a test's process with its threads can't do safely: use solo, "
            "threads or asyncio here, or run `emq-compat worker` beside the tests"
        )
    return name


def _names(written: Iterable[str] | str | None) -> list[str]:
    if isinstance(written, str):
        return [name.strip() for name in written.split(",") if name.strip()]
    return list(written or ())


@contextmanager
def start_worker(
    app: Celery,
    concurrency: int = 1,
    pool: str = "solo",
    loglevel: int | str = WORKER_LOGLEVEL,
    logfile: Any = None,
    perform_ping_check: bool = True,
    ping_task_timeout: float = 10.0,
    shutdown_timeout: float = 10.0,
    **kwargs: Any,
) -> Iterator[TestWorkController]:
    """Run a worker of ``app`` in a thread during the block.

    The app is made the current and the default one, and stays it. At the block's end the worker finishes
    what runs and gives the rest back.

    Args:
        loglevel, logfile: the file, if any, is written what the worker and its tasks log from this level on.
            Otherwise the logging of the test's process stays as it is.
        perform_ping_check: run the task ``celery.ping`` first; needs a result backend.
        ping_task_timeout: seconds that it may take.
        shutdown_timeout: seconds that running tasks may take at the end.
        kwargs: of TestWorkController (``without_heartbeat`` is the default here); ``WorkController``: another
            class instead of it.

    Raises:
        OperationalError: the broker doesn't answer.
        celery.exceptions.TimeoutError: the ping didn't come back.
        RuntimeError: tasks still ran after ``shutdown_timeout``.
        Exception: what importing the app's tasks raises.
    """
    keep_real_time()
    kwargs.setdefault("without_heartbeat", True)
    cls: type[TestWorkController] = kwargs.pop("WorkController", TestWorkController)
    test_worker_starting.send(sender=app)
    worker: TestWorkController | None = None
    try:
        with ExitStack() as stack:
            stack.enter_context(setup_app_for_worker(app, loglevel, logfile))
            app.connection_for_read().connect()
            worker = cls(
                app=app, concurrency=concurrency, pool=pool, loglevel=loglevel, logfile=logfile, **kwargs
            )
            worker._start_in_thread()
            end = partial(worker._end, shutdown_timeout)
            stack.push(lambda kind, exc, traceback: end(after_error=exc is not None))
            worker.ensure_started()
            if perform_ping_check:
                answer = ping.delay()
                assert answer.get(timeout=ping_task_timeout, disable_sync_subtasks=False) == "pong"
            yield worker
    finally:
        test_worker_stopped.send(sender=app, worker=worker)


def setup_app_for_worker(app: Celery, loglevel: int | str, logfile: Any) -> ExitStack:
    """Make the app the current and the default one, and have a log file written, if there is one.

    Returns what ends the log file. An app without worker_hijack_root_logger, as test apps are, has its
    logging set up; one that would replace the process's handlers hasn't.
    """
    app.finalize()
    app.set_current()
    app.set_default()
    stack = ExitStack()
    if logfile is not None:
        handler = handler_for(logfile)
        handler.setLevel(mlevel(loglevel) or logging.ERROR)
        handler.setFormatter(logging.Formatter(app.conf.worker_log_format))
        stack.callback(handler.close)
        for name in ("celery", "emq_compat"):
            logging.getLogger(name).addHandler(handler)
            stack.callback(logging.getLogger(name).removeHandler, handler)
    elif not app.conf.worker_hijack_root_logger:
        app.log.setup_logging_subsystem(loglevel)
    return stack
