"""Celery's commands at a worker: what each answers, in the shape of Celery's."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from emq_compat.celery_shim import Celery
from emq_compat.jobmanager import JobManager
from emq_compat.manager.settings import EventmqSettings
from emq_compat.message import Delivery, Headers, Job
from emq_compat.shim import current
from emq_compat.shim.program import ShimProgram
from emq_compat.stamps import tags_of
from emq_compat.upstream.base import Delivered
from tests.jobmanager.fake_upstream import FakeUpstream, running
from tests.processes import wait_until

pytestmark = pytest.mark.integration


class Asker:
    """A worker in a thread, and what it answers."""

    def __init__(self, upstream: FakeUpstream, manager: JobManager) -> None:
        self.upstream = upstream
        self.manager = manager

    def __call__(self, method: str, **arguments: Any) -> Any:
        """Return what a command is answered with."""
        return json.loads(self.upstream.ask("command", method=method, arguments=arguments))["ok"]

    def deliver(self, msgid: str, task: str = "add", **headers: Any) -> None:
        """Deliver a call of a task: of add, or of one without arguments."""
        payload = Job(path="proj", callable=task, args=(1, 2) if task == "add" else ()).encode()
        told = Headers(task=f"proj.{task}", task_id=msgid, **headers)
        delivery = Delivery(msgid=msgid, queue="celery", headers=told, payload=payload)
        self.upstream.put(Delivered(delivery=delivery))


@pytest.fixture(scope="module")
def ask() -> Iterator[Asker]:
    app = Celery("proj", broker="emq://127.0.0.1:4711")

    @app.task(name="proj.add", rate_limit="100/s")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="proj.nap")
    def nap() -> None:
        while True:
            time.sleep(0.01)

    upstream = FakeUpstream()
    manager = JobManager(
        "w1@host",
        skip_signal=True,
        pool="threads",
        upstreams=[upstream],
        program=ShimProgram(app),
        settings=EventmqSettings(concurrent_jobs=2),
        concurrent_jobs=2,
    )
    app.hostname = "w1@host"
    try:
        with running(manager, upstream):
            yield Asker(upstream, manager)
    finally:
        manager._signals.close()
        upstream.close()
        app.close()
        current.set_default_app(None)


def test_looking(ask: Asker) -> None:
    """Commands that only look answer what Celery's workers do."""
    assert {"ok": "pong"} == ask("ping")
    assert [] == ask("active") == ask("reserved") == ask("scheduled")
    assert {} == ask("query_task", ids=["nobody"])
    assert ["proj.add [rate_limit=100/s]", "proj.nap"] == ask("registered")
    named = ask("registered", taskinfoitems=["name"])
    assert ["proj.add [name=proj.add]", "proj.nap [name=proj.nap]"] == named
    assert ["celery"] == [queue["name"] for queue in ask("active_queues")]
    assert {"total", "pid", "clock", "uptime", "broker", "prefetch_count", "pool", "rusage"} <= set(
        ask("stats")
    )
    assert isinstance(ask("clock")["clock"], int)
    assert ask("report")["ok"]
    assert "task_default_queue" in ask("conf", with_defaults=True)
    assert ask("dump_tasks") == ask("registered")


def test_changing(ask: Asker) -> None:
    """Commands that change something do it, and answer what Celery's workers do."""
    assert {"ok": "pool will grow"} == ask("pool_grow", n=2)
    assert 4 == ask("stats")["pool"]["max-concurrency"]
    assert {"ok": "pool will shrink"} == ask("pool_shrink", n=2)
    assert {"ok": "add consumer extra"} == ask("add_consumer", queue="extra", exchange=None)
    assert ["celery", "extra"] == [queue["name"] for queue in ask("active_queues")]
    assert {"ok": "no longer consuming from extra"} == ask("cancel_consumer", queue="extra")
    assert {"ok": "new rate limit set successfully"} == ask(
        "rate_limit", task_name="proj.add", rate_limit="50/s"
    )
    assert {"error": "unknown task"} == ask("rate_limit", task_name="none", rate_limit="1/s")
    assert {"ok": "time limits set successfully"} == ask("time_limit", task_name="proj.add", soft=1, hard=2)
    assert None is ask("heartbeat")


def test_errors(ask: Asker) -> None:
    """An unknown command, and what one raises, are answered as errors."""
    assert "nosuch" in ask("nosuch")["error"]
    assert "Pool restarts not enabled" in ask("pool_restart", modules=None, reload=False)["error"]
    assert "ValueError" in ask("pool_grow", n=-3)["error"]


def test_what_is_terminated_twice_is_told_twice(ask: Asker) -> None:
    """A second revoke of a task that the first has ended, running or held, is answered as the first was."""
    for msgid in ("n1", "n2"):
        ask.deliver(msgid, "nap")
    wait_until(lambda: len(ask("active")) == 2)
    ask.deliver("n3", "nap")
    wait_until(lambda: [one["id"] for one in ask("reserved")] == ["n3"])
    for msgid in ("n3", "n1", "n2"):
        assert {"ok": f"terminate: {msgid}"} == ask("terminate", task_id=msgid, signal="KILL")
        assert "REVOKED" == ask.upstream.reply_to(msgid).state
        assert {"ok": f"terminate: {msgid}"} == ask("terminate", task_id=msgid, signal="KILL")
    wait_until(lambda: ask("active") == [])


def test_what_is_revoked_does_not_run_when_it_comes(ask: Asker) -> None:
    """A revoke is kept in mind: by id, by a stamp, and as a neighbour tells it."""
    assert "flagged as revoked" in ask("revoke", task_id="m1", terminate=False, signal="SIGTERM")["ok"]
    assert {"ok": "terminate: tasks unknown"} == ask("revoke", task_id=["m2"], terminate=True)
    told = ask("hello", from_node="w2@host", revoked=["m3"])
    assert {"m1", "m2", "m3"} <= set(told["revoked"])
    assert None is ask("hello", from_node="w1@host")
    assert {"ok": "headers {'who': ['me']} flagged as revoked, but not terminated"} == ask(
        "revoke_by_stamped_headers", headers={"who": ["me"]}
    )
    for msgid in ("m1", "m2", "m3"):
        ask.deliver(msgid)
    ask.deliver("m4", tags=";".join(tags_of({"who": ["me", "you"]})))
    ask.deliver("m5")
    states = [ask.upstream.reply_to(msgid).state for msgid in ("m1", "m2", "m3", "m4", "m5")]
    assert ["REVOKED"] * 4 + ["SUCCESS"] == states
    assert {"m1", "m2", "m3"} <= set(ask("revoked"))
