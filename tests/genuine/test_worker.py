"""`emq-compat worker -A` with an app of genuine Celery, in a Django project."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chord, signature
from celery.exceptions import NotRegistered, TaskRevokedError, TimeLimitExceeded, WorkerLostError

from tests.broker_process import Broker
from tests.processes import Procs, unused_port, wait_until

pytestmark = pytest.mark.integration

PROJECT = '''
import os, signal, time
import click
from celery import Celery, bootsteps, shared_task, signals

os.environ["DJANGO_SETTINGS_MODULE"] = "genuine_settings"
app = Celery("genuine_proj")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.user_options["worker"].add(click.Option(("--flavour",)))


def note(*words):
    with open(os.environ["NOTES"], "a") as file:
        print(*words, file=file)


class Step(bootsteps.StartStopStep):
    requires = {"celery.worker.components:Pool"}

    def __init__(self, parent, flavour=None, **options):
        note("step", type(self).__name__, "made", flavour)
        super().__init__(parent)

    def start(self, parent):
        note("step", type(self).__name__, "started")

    def stop(self, parent):
        note("step", type(self).__name__, "stopped")


class OfTheConsumer(Step):
    pass


app.steps["worker"].add(Step)
app.steps["consumer"].add(OfTheConsumer)


def _told(name):
    def receiver(sender=None, **_):
        note("signal", name, getattr(sender, "name", ""))

    getattr(signals, name).connect(receiver, weak=False)


for name in (
    "celeryd_init", "worker_init", "celeryd_after_setup", "worker_process_init", "worker_ready",
    "task_failure", "task_revoked", "task_unknown", "worker_shutting_down", "worker_shutdown",
):
    _told(name)


@shared_task
def add(x, y):
    return x + y


@shared_task
def total(numbers):
    return sum(numbers)


@app.task(acks_late=True, reject_on_worker_lost=True, bind=True)
def lost_once(self):
    if not self.request.delivery_info["redelivered"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return "lived"


@app.task
def lost():
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(time_limit=1)
def endless():
    time.sleep(60)


@app.task
def errback(request, exc, traceback):
    note("errback", request.id, type(exc).__name__)


@app.task(bind=True, max_retries=3)
def third_time(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0.01)
    return self.request.retries


@app.task
async def later(value):
    return value


@app.task
def database_was_closed():
    from django.db import connection

    closed = connection.connection is None
    connection.ensure_connection()
    return closed
'''

SETTINGS = '''
import os

SECRET_KEY = "not one"
USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["NOTES"] + ".sqlite3"}}
CELERY_BROKER_URL = os.environ["BROKER"]
CELERY_RESULT_BACKEND = os.environ["RESULTS"]
'''


class World:
    """A worker of the project, and a client of it.

    Attributes:
        app: the client's; it knows none of the project's tasks.
    """

    def __init__(self, procs: Procs, folder: Path, broker: str, results: str) -> None:
        (folder / "genuine_proj.py").write_text(PROJECT)
        (folder / "genuine_settings.py").write_text(SETTINGS)
        self._notes = folder / "notes"
        self._notes.touch()
        self.app = Celery("client", broker=broker, backend=results, set_as_current=False)
        environment = {"BROKER": broker, "RESULTS": results, "NOTES": str(self._notes)}
        self.worker = procs.emq(
            "worker", "-A", "genuine_proj", "-c", "2", "-n", "w@h", "--flavour", "sweet",
            cwd=folder, env=environment, ready="is ready", timeout_s=60,
        )  # fmt: skip

    def send(self, task: str, *args: Any, **options: Any) -> Any:
        """Send a task of the project."""
        return self.app.send_task(f"genuine_proj.{task}", args, **options)

    def signature(self, task: str, *args: Any) -> Any:
        """Return a signature of a task of the project."""
        return signature(f"genuine_proj.{task}", args=args, app=self.app)

    def notes(self) -> list[str]:
        """What the project has noted."""
        return [line.strip() for line in self._notes.read_text().splitlines()]


@pytest.fixture(scope="module", params=["emq", "redis"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    procs = Procs(folder)
    broker = Broker(procs, unused_port, folder / "data")
    try:
        broker.start()
        broker.client.close()
        results = broker.url if request.param == "emq" else request.getfixturevalue("redis_url")
        made = World(procs, folder, broker.url, results)
        yield made
        assert 0 == made.worker.stop()
        assert [
            "signal worker_shutting_down", "step OfTheConsumer stopped", "step Step stopped",
            "signal worker_shutdown",
        ] == made.notes()[-4:]  # fmt: skip
        made.app.close()
    finally:
        procs.close()


def test_its_tasks_run_and_workflows_end(world: World) -> None:
    """Plain, shared and async tasks, retries, and a chord."""
    assert 5 == world.send("add", 2, 3).get(timeout=30)
    assert "x" == world.send("later", "x").get(timeout=30)
    assert 2 == world.send("third_time").get(timeout=30)
    header = [world.signature("add", i, i) for i in range(5)]
    assert 20 == chord(header, world.signature("total"), app=world.app).delay().get(timeout=30)


def test_a_lost_child_costs_a_late_acked_task_no_more_than_a_second_run(world: World) -> None:
    """acks_late and reject_on_worker_lost have it run again."""
    assert "lived" == world.send("lost_once").get(timeout=30)


@pytest.mark.parametrize(
    ("task", "error", "signal"),
    [
        ("lost", WorkerLostError, "task_failure genuine_proj.lost"),
        ("endless", TimeLimitExceeded, "task_failure genuine_proj.endless"),
        ("nowhere", NotRegistered, "task_unknown"),
    ],
)
def test_an_end_without_the_tasks_word_is_told(
    world: World, task: str, error: type[Exception], signal: str
) -> None:
    """Celery's exception is stored, its errback is called, and its signal sent."""
    result = world.send(task, link_error=world.signature("errback"))
    with pytest.raises(error):
        result.get(timeout=30)
    expected = {f"errback {result.id} {error.__name__}", f"signal {signal}"}
    wait_until(lambda: expected <= set(world.notes()), 30, what="the errback and the signal")


def test_what_comes_too_late_is_revoked(world: World) -> None:
    """An expired task doesn't run, and who waits for it is told."""
    with pytest.raises(TaskRevokedError, match="expired"):
        world.send("add", 1, 1, expires=-1).get(timeout=30)


def test_the_parents_signals_come_in_celerys_order(world: World) -> None:
    """Steps that the app adds are made with the worker's options, and started when it is ready."""
    told = [one for one in world.notes() if one.startswith(("signal", "step")) and "_process" not in one]
    assert [
        "signal celeryd_init", "signal worker_init", "step Step made sweet",
        "step OfTheConsumer made sweet", "signal celeryd_after_setup", "step Step started",
        "step OfTheConsumer started", "signal worker_ready",
    ] == told[:8]  # fmt: skip
    assert "signal worker_process_init" in world.notes()


def test_djangos_connections_are_closed_after_each_task(world: World) -> None:
    """Celery's own fixup looks after them: it knows the worker as its app's."""
    assert [True] * 4 == [world.send("database_was_closed").get(timeout=30) for _ in range(4)]


def test_a_consumer_step_is_refused(procs: Procs, write: Callable[[str, str], Path]) -> None:
    """It would consume by an AMQP channel of the worker's, which isn't there: the error says what to do."""
    project = write(
        "stepping.py",
        "from celery import Celery, bootsteps\n"
        "app = Celery('stepping', broker='emq://127.0.0.1:4711')\n"
        "class Own(bootsteps.ConsumerStep):\n"
        "    def get_consumers(self, channel):\n        return []\n"
        "app.steps['consumer'].add(Own)\n",
    )
    worker = procs.emq("worker", "-A", "stepping", cwd=project.parent)
    assert 1 == worker.wait()
    assert "stepping.Own, a ConsumerStep" in worker.output()
