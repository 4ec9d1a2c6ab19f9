"""Remote control and events of a worker with a genuine app: Celery's answers, ours, and the project's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import celery
import pytest
from celery.worker import control

from emq_compat.genuine.onlooker import GenuineAnnouncer
from emq_compat.genuine.program import GenuineProgram
from emq_compat.genuine.view import AppView
from emq_compat.jobmanager import JobManager
from emq_compat.manager.settings import EventmqSettings
from emq_compat.message import Delivery, Headers, Job
from emq_compat.shim.events.telling import Switch, Teller
from tests.jobmanager.fake_upstream import FakeUpstream, running

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def app() -> Iterator[celery.Celery]:
    made = celery.Celery("proj", broker="redis://:secret@127.0.0.1:4711/3", set_as_current=False)

    @made.task(name="proj.add", rate_limit="100/s")
    def add(x: int, y: int) -> int:
        return x + y

    made.finalize()
    made.hostname = "w1@host"
    yield made
    made.close()


@pytest.fixture(scope="module")
def upstream(app: celery.Celery) -> Iterator[FakeUpstream]:
    made = FakeUpstream()
    view = AppView(app)
    view.hostname = "w1@host"
    manager = JobManager(
        "w1@host",
        skip_signal=True,
        pool="threads",
        upstreams=[made],
        program=GenuineProgram(app, hostname="w1@host", announcer=GenuineAnnouncer(view)),
        settings=EventmqSettings(concurrent_jobs=2),
        concurrent_jobs=2,
    )
    try:
        with running(manager, made):
            yield made
    finally:
        manager._signals.close()
        made.close()


def ask(upstream: FakeUpstream, method: str, **arguments: Any) -> Any:
    """Return what a command is answered with."""
    return json.loads(upstream.ask("command", method=method, arguments=arguments))["ok"]


def test_what_celery_answers_of_the_app(upstream: FakeUpstream, app: celery.Celery) -> None:
    """What is only read of the app is told by Celery's functions."""
    assert "proj.add [rate_limit=100/s]" in ask(upstream, "registered")
    assert app.bugreport() == ask(upstream, "report")["ok"]
    told = ask(upstream, "conf")
    assert "secret" not in json.dumps(told)
    assert {"clock"} == set(ask(upstream, "clock"))


def test_what_our_worker_answers(upstream: FakeUpstream) -> None:
    """What is the worker's is told, and done, by ours, in Celery's shapes."""
    assert {"ok": "pong"} == ask(upstream, "ping")
    stats = ask(upstream, "stats")
    assert ("127.0.0.1", 4711, "redis", "3") == tuple(
        stats["broker"][name] for name in ("hostname", "port", "transport", "virtual_host")
    )
    assert "secret" not in json.dumps(stats)
    assert 2 == stats["pool"]["max-concurrency"]
    assert {"ok": "pool will grow"} == ask(upstream, "pool_grow")
    assert {"ok": "new rate limit set successfully"} == ask(
        upstream, "rate_limit", task_name="proj.add", rate_limit="5/s"
    )
    assert {"ok": "time limits set successfully"} == ask(upstream, "time_limit", task_name="proj.add", soft=1)
    assert {"error": "LookupError(\"this worker has no command 'nosuch'\")"} == ask(upstream, "nosuch")


def test_a_command_of_the_projects_own(upstream: FakeUpstream) -> None:
    """A command that is registered with Celery's decorator runs, also in place of a known one."""

    @control.inspect_command(name="whoami")
    def whoami(state: Any, loud: bool = False) -> Any:
        return [state.hostname, state.app.main, loud]

    original = control.Panel.data["ping"]
    control.Panel.data["ping"] = lambda state: "mine"
    try:
        assert ["w1@host", "proj", True] == ask(upstream, "whoami", loud=True)
        assert "mine" == ask(upstream, "ping")
    finally:
        control.Panel.data["ping"] = original
        del control.Panel.data["whoami"]


def test_events_of_a_genuine_app(app: celery.Celery) -> None:
    """The worker's events leave by its own connection, as Celery's do, with names and arguments."""
    told: list[Any] = []

    manager = SimpleNamespace(jobs_in_flight={}, runs_by_task={"proj.add": 2})
    app.conf.worker_send_task_events = True
    try:
        teller = Teller(AppView(app), "w1@host", {}, Switch())
        teller.connected(lambda topic, body: not told.append((topic, json.loads(body))), manager, anew=True)
        payload = Job(path="proj", callable="add", args=(1, 2)).encode()
        headers = Headers(task="proj.add", task_id="u1")
        delivery = Delivery(msgid="m1", queue="celery", headers=headers, payload=payload)
        teller.received(delivery)
        teller.began(delivery)
        teller.leaving(manager)
    finally:
        app.conf.worker_send_task_events = False
    assert ["celeryev.worker.online", "celeryev.task.multi", "celeryev.worker.offline"] == [
        topic for topic, _ in told
    ]
    received, began = told[1][1]
    assert ("task-received", "proj.add", "(1, 2)", "{}", "w1@host", "u1") == tuple(
        received[name] for name in ("type", "name", "args", "kwargs", "hostname", "uuid")
    )
    assert "task-started" == began["type"]
    assert received["clock"] < began["clock"]
