"""``start_worker``: a worker in a thread of the test's process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emq_compat.celery_shim import Celery, OperationalError, chain, chord
from emq_compat.errors import ConfigurationError
from emq_compat.shim import current, signals
from emq_compat.shim.exceptions import CeleryWarning, SoftTimeLimitExceeded, TimeoutError  # noqa: A004
from emq_compat.shim.log import get_task_logger
from emq_compat.testing.broker import MemoryBroker
from emq_compat.testing.worker import (
    TestWorkController,
    start_worker,
    test_worker_started,
    test_worker_starting,
    test_worker_stopped,
)
from tests.processes import wait_until

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("backend", ["cache+memory://", "emq://"])
def test_what_tasks_do_works(make_app: Callable[..., Celery], backend: str) -> None:
    """Calls, workflows, chords, retries, ETA and remote control work over the broker in memory."""
    app = make_app(backend=backend)

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    @app.task
    def total(values: list[int]) -> int:
        return sum(values)

    @app.task(bind=True, max_retries=3)
    def third_time(self: Any) -> int:
        if self.request.retries < 2:
            raise self.retry(countdown=0.01)
        return self.request.retries  # type: ignore[no-any-return]

    @app.task
    async def waits() -> str:
        return "awaited"

    with start_worker(app) as worker:
        assert 5 == add.delay(2, 3).get(timeout=10)
        assert 20 == chain(add.s(1, 2), add.s(17)).delay().get(timeout=10)
        assert 90 == chord([add.s(i, i) for i in range(10)])(total.s()).get(timeout=10)
        assert 2 == third_time.delay().get(timeout=10)
        assert "awaited" == waits.delay().get(timeout=10)
        assert 3 == add.apply_async((1, 2), countdown=0.05).get(timeout=10)
        asked = app.control.inspect()
        assert {worker.hostname: {"ok": "pong"}} == asked.ping()
        calls = asked.stats()[worker.hostname]["total"]
        assert 14 == calls[add.name]
        later = add.apply_async((1, 2), countdown=60)
        assert [later.id] == [row["request"]["id"] for row in asked.scheduled()[worker.hostname]]


def test_a_revoked_task_does_not_run(app: Celery) -> None:
    """A task that is revoked while it waits for the worker never runs."""
    ran = []

    @app.task
    def note(what: str) -> None:
        ran.append(what)

    with start_worker(app):
        note.apply_async(("revoked",), countdown=0.2).revoke()
        note.apply_async(("kept",), countdown=0.3).get(timeout=10)
    assert ["kept"] == ran


def test_time_is_put_ahead(app: Celery) -> None:
    """With the broker's clock ahead what has its ETA by then runs, and what expires by then does not."""
    ran = []

    @app.task
    def note(what: str) -> None:
        ran.append(what)

    with start_worker(app):
        results = [
            note.apply_async(("in half an hour",), countdown=1800),
            note.apply_async(("in two hours",), countdown=7200),
            note.apply_async(("expired",), countdown=600, expires=1200),
        ]
        MemoryBroker().advance(3600)
        results[0].get(timeout=10)
        MemoryBroker().advance(3600)
        results[1].get(timeout=10)
    assert ["in half an hour", "in two hours"] == ran


def test_a_frozen_clock_stops_no_worker(app: Celery) -> None:
    """While freezegun has stopped the process's clock, tasks run, and timeouts end."""
    freezegun = pytest.importorskip("freezegun")

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    with start_worker(app), freezegun.freeze_time("2031-02-03") as frozen:
        later = add.apply_async((1, 2), countdown=3600)
        assert 5 == add.delay(2, 3).get(timeout=10)
        frozen.tick(3600)
        with pytest.raises(TimeoutError):
            later.get(timeout=0.1)
        MemoryBroker().advance(3600)
        assert 3 == later.get(timeout=10)


def test_it_is_the_worker_of_its_app(app: Celery) -> None:
    """During the block the app is current, tasks see the worker's name, and Celery's signals are sent."""
    seen: list[Any] = []

    def note(sender: Any = None, signal: Any = None, **_: Any) -> None:
        seen.append(signal.name)

    @app.task(bind=True)
    def whereabouts(self: Any) -> list[Any]:
        return [self.request.hostname, current.get_app() is app, threading.current_thread().name]

    hostname = app.hostname
    followed = (
        test_worker_starting, signals.worker_init, signals.worker_process_init, test_worker_started,
        signals.worker_shutting_down, signals.worker_shutdown, test_worker_stopped,
    )  # fmt: skip
    for signal in followed:
        signal.connect(note, weak=False, dispatch_uid="note")
    try:
        with start_worker(app, hostname="w@here") as worker:
            assert current.get_app() is app
            assert current.worker is worker
            assert ["w@here", True, "emq-worker-1"] == whereabouts.delay().get(timeout=10)
    finally:
        for signal in followed:
            signal.disconnect(dispatch_uid="note")
    assert [signal.name for signal in followed] == seen
    assert (None, hostname, 0) == (current.worker, app.hostname, worker.exitcode)


@pytest.mark.parametrize("pool", ["threads", "asyncio"])
def test_tasks_at_once(app: Celery, pool: str) -> None:
    """With more than one thread tasks run beside each other."""
    both = threading.Barrier(2)

    @app.task
    def meet() -> bool:
        both.wait(10)
        return True

    with start_worker(app, pool=pool, concurrency=2):
        assert [True, True] == [result.get(timeout=10) for result in [meet.delay(), meet.delay()]]


def test_solo_runs_one_at_a_time(app: Celery) -> None:
    """The pool solo runs one task at a time, whatever concurrency says; others wait in the broker."""
    begun, end = threading.Event(), threading.Event()

    @app.task
    def hold() -> None:
        begun.set()
        end.wait(10)

    with start_worker(app, concurrency=4):
        results = [hold.delay() for _ in range(3)]
        assert begun.wait(10)
        row = app.connection().default_channel.queue_declare("celery")
        end.set()
        for result in results:
            result.get(timeout=10)
    assert 2 == row.message_count


def test_tasks_declared_later_keep_their_options(app: Celery) -> None:
    """A task declared while the worker runs has its own limits, and the worker's where it has none."""

    @app.task(soft_time_limit=0.1)
    def early() -> str:
        return _until_told()

    with start_worker(app, soft_time_limit=30, time_limit=60):

        @app.task(soft_time_limit=0.1)
        def late() -> str:
            return _until_told()

        assert ["told"] * 2 == [task.delay().get(timeout=10) for task in (early, late)]
    with start_worker(app, soft_time_limit=0.1):

        @app.task
        def without() -> str:
            return _until_told()

        assert "told" == without.delay().get(timeout=10)


def _until_told() -> str:
    try:
        for _ in range(1000):
            time.sleep(0.01)
    except SoftTimeLimitExceeded:
        return "told"
    return "never told"


def test_only_the_queues_that_it_is_told(app: Celery) -> None:
    """``queues`` and ``exclude_queues`` choose what the worker listens on; the next one has the app's."""

    @app.task
    def where() -> str:
        return "here"

    with start_worker(app, queues="celery,high", exclude_queues=["celery"], perform_ping_check=False):
        waits = where.delay()
        assert "here" == where.apply_async(queue="high").get(timeout=10)
        with pytest.raises(TimeoutError):
            waits.get(timeout=0.05)
    with start_worker(app):
        assert "here" == waits.get(timeout=10)


def test_what_has_not_begun_goes_back(app: Celery) -> None:
    """At the end the running task is finished, and what waits stays in the broker for the next worker."""
    begun, end = threading.Event(), threading.Event()

    @app.task
    def hold() -> str:
        begun.set()
        end.wait(10)
        return "held"

    with start_worker(app):
        first, second = hold.delay(), hold.delay()
        assert begun.wait(10)
        threading.Timer(0.05, end.set).start()
    assert ("SUCCESS", "PENDING") == (first.state, second.state)
    with start_worker(app):
        assert "held" == second.get(timeout=10)


def test_a_task_that_does_not_end(make_app: Callable[..., Celery]) -> None:
    """What still runs after shutdown_timeout is named in a RuntimeError, and the worker has ended."""
    app = make_app(backend="emq://")
    begun, end = threading.Event(), threading.Event()

    @app.task(name="endless")
    def endless() -> None:
        begun.set()
        end.wait(20)

    block = start_worker(app, shutdown_timeout=0.1)
    worker = block.__enter__()
    result = endless.delay()
    assert begun.wait(10)
    with pytest.raises(RuntimeError, match=r"gen\d+@.*\(endless was running\).*shutdown_timeout"):
        block.__exit__(None, None, None)
    end.set()
    assert (1, "FAILURE") == (worker.exitcode, result.state)


def test_an_error_of_the_block_comes_first(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    """Where the block fails while a task runs, its own error is raised, and the task is named in the log."""
    begun, end = threading.Event(), threading.Event()

    @app.task(name="endless")
    def endless() -> None:
        begun.set()
        end.wait(20)

    def fail() -> None:
        with start_worker(app, shutdown_timeout=0.1):
            endless.delay()
            assert begun.wait(10)
            raise KeyError("the test's own")

    with pytest.raises(KeyError, match="the test's own"):
        fail()
    end.set()
    assert "(endless was running)" in caplog.text


@pytest.mark.parametrize("pool", ["prefork", "processes", "gevent", "fork"])
def test_pools_that_cant_be(app: Celery, pool: str) -> None:
    """A pool that needs processes of its own, or that there isn't, is refused and says what to use."""
    with pytest.raises(ConfigurationError, match="threads"), start_worker(app, pool=pool):
        pass


def test_no_broker(make_app: Callable[..., Celery], free_port: Callable[[], int]) -> None:
    """Where no broker answers, start_worker says so within broker_connection_timeout, and nothing stays."""
    url = f"emq://127.0.0.1:{free_port()}"
    app = make_app(broker=url, changes={"broker_connection_timeout": 0.3})
    threads = threading.active_count()
    with pytest.raises(OperationalError, match=url), start_worker(app):
        pass
    assert threads == threading.active_count()


def test_a_failing_start(app: Celery) -> None:
    """What a module of ``include`` raises at its import is raised by start_worker."""
    app.conf.include = ["no.such.module"]
    with pytest.raises(ModuleNotFoundError, match="no"), start_worker(app):
        pass
    assert "gen" not in app.hostname


def test_a_ping_that_does_not_come_back(app: Celery) -> None:
    """Where the worker doesn't listen on the queue of celery.ping, the check runs out of time and says so."""
    with pytest.raises(TimeoutError), start_worker(app, queues=["other"], ping_task_timeout=0.1):
        pass


def test_a_misspelt_option(app: Celery) -> None:
    """An option that Celery's worker hasn't is warned about; one of Celery's without effect isn't."""
    with pytest.warns(CeleryWarning, match="'concurency'"):
        TestWorkController(app, concurency=3)
    TestWorkController(app, without_heartbeat=False, without_gossip=True, autoscale="3,1")


def test_events(app: Celery) -> None:
    """With task_events a receiver hears of tasks, over the broker in memory."""

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    heard: list[tuple[str, str]] = []

    def note(event: dict[str, Any]) -> None:
        heard.append((event["type"], event["hostname"]))
        receiver.should_stop = event["type"] == "task-succeeded"

    with start_worker(app, task_events=True, hostname="w@here", perform_ping_check=False):
        receiver = app.events.Receiver(app.connection(), handlers={"*": note})
        receiver.queue.declare()
        add.delay(2, 3)
        receiver.capture(limit=None, timeout=10, wakeup=False)
    assert {"task-received", "task-started", "task-succeeded"} <= {kind for kind, _ in heard}
    assert "worker-heartbeat" not in {kind for kind, _ in heard}
    assert ("task-succeeded", "w@here") in heard


def test_a_log_file(app: Celery, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A log file has what tasks log, from its level on; the test's own logging goes on."""
    logger = get_task_logger("the.task")

    @app.task
    def speak() -> None:
        logger.info("quiet")
        logger.warning("loud")

    file = tmp_path / "log"
    with start_worker(app, logfile=str(file), loglevel="WARNING"):
        speak.delay().get(timeout=10)
    assert (True, False) == ("loud" in file.read_text(), "quiet" in file.read_text())
    assert "loud" in [record.message for record in caplog.records]


def test_stop_and_terminate(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that was told to stop ends by itself, in silence; remote control can tell it, too."""
    with start_worker(app) as worker:
        worker.stop()
        wait_until(lambda: worker.exitcode == 0, 10)
    assert [] == [record for record in caplog.records if record.levelname == "WARNING"]
    with start_worker(app) as worker:
        app.control.shutdown()
        wait_until(lambda: worker.exitcode == 0, 10)


def test_a_worker_of_a_real_broker(make_app: Callable[..., Celery], site: Any) -> None:
    """The same worker serves a broker in a process of its own."""
    site.start_broker("--memory")
    app = make_app(broker=site.url, backend=site.url)

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    with start_worker(app):
        assert 5 == add.delay(2, 3).get(timeout=10)
