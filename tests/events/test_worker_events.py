"""The events that a worker makes of what its job manager tells: each with exactly Celery's fields."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from emq_compat.celery_shim import Celery, Reject
from emq_compat.manager.losses import reply_to_lost, revoked
from emq_compat.message import REQUEUED, RETURNED, Delivery, Outcome, Reply
from emq_compat.pool.base import Lost
from emq_compat.run import TaskPolicy
from emq_compat.shim.events.telling import _DECODED_BYTES, _TOGETHER_S
from emq_compat.shim.program import ShimProgram
from emq_compat.shim.worker import WorkController
from tests.events.conftest import Announcing
from tests.shim.recorder import delivered

pytestmark = pytest.mark.unit

_ALL = {"type", "timestamp", "hostname", "utcoffset", "pid", "clock"}
_WORKER = {"freq", "sw_ident", "sw_ver", "sw_sys", "active", "processed", "loadavg"}
FIELDS = {
    "task-received": {
        "uuid", "name", "args", "kwargs", "root_id", "parent_id", "retries", "eta", "expires",
    },
    "task-started": {"uuid"},
    "task-succeeded": {"uuid", "result", "runtime"},
    "task-failed": {"uuid", "exception", "traceback"},
    "task-rejected": {"uuid", "requeue"},
    "task-revoked": {"uuid", "terminated", "signum", "expired"},
    "task-retried": {"uuid", "exception", "traceback"},
    "worker-online": _WORKER,
    "worker-heartbeat": _WORKER,
    "worker-offline": _WORKER,
}  # fmt: skip


class Manager:
    """What the onlooker needs of a job manager."""

    def __init__(self, program: ShimProgram) -> None:
        self.program = program
        self.jobs_in_flight: dict[str, Any] = {}
        self.runs_by_task = {"proj.add": 3}
        self.hears: list[bool] = []

    def hear_ends(self, hears: bool) -> None:
        self.hears.append(hears)


class Site:
    """A worker whose job manager is the test: what it tells, and the events that come of it."""

    def __init__(self, app: Celery, client: Announcing, **options: Any) -> None:
        self.app = app
        self.client = client
        self.program = ShimProgram(app, controller=WorkController(app, "w@h", options))
        self.onlooker = self.program.announcer
        self.manager = Manager(self.program)
        self.line = Announcing()
        _ = self.program.policies

    def connect(self, *, anew: bool = True) -> None:
        def announce(topic: str, payload: bytes) -> bool:
            if not self.line.away:
                self.line.announce(topic, payload)
            return not self.line.away

        self.onlooker.connected(self.manager, announce, anew=anew)

    def turn(self, passed_s: float = 0.1) -> list[str]:
        """A turn of the loop so much later; returns the types of all events so far."""
        self.onlooker.turn(self.manager, time.monotonic() + passed_s)
        for event in self.line.events:
            assert _ALL | FIELDS[event["type"]] == event.keys(), event["type"]
            assert "w@h" == event["hostname"]
        return [event["type"] for event in self.line.events]

    def take(self) -> Delivery:
        delivery = delivered(self.client.last)
        self.onlooker.received(delivery)
        return delivery

    def run(self, delivery: Delivery) -> Reply:
        """Have a child run it."""
        self.onlooker.began(delivery)
        reply = self.program.work(delivery, lambda state, body: None)
        self.onlooker.ended(delivery, reply)
        return reply


@pytest.fixture
def site(app: Celery, client: Announcing) -> Site:
    app.conf.worker_send_task_events = True

    @app.task(name="proj.add")
    def add(x: Any, y: Any) -> Any:
        return (x, y)

    @app.task(name="proj.fail")
    def fail() -> None:
        raise ValueError("why", 1)

    @app.task(name="proj.again", bind=True)
    def again(self: Any) -> None:
        raise self.retry(exc=KeyError("k"))

    @app.task(name="proj.reject", acks_late=True)
    def reject(requeue: bool) -> None:
        raise Reject("no", requeue=requeue)

    @app.task(name="proj.aside", acks_late=True, acks_on_failure=False)
    def aside() -> None:
        raise ValueError("aside")

    @app.task(name="proj.silent", send_events=False)
    def silent() -> None:
        pass

    made = Site(app, client)
    made.connect()
    return made


def _told(site: Site, type_: str) -> dict[str, Any]:
    [event] = [event for event in site.line.events if event["type"] == type_]
    return event


def test_success(site: Site) -> None:
    """A task that returns: received, started, succeeded, with the repr of the value as it was."""
    result = site.app.tasks["proj.add"].apply_async((1,), {"y": (2, 3)}, expires=60)
    site.run(site.take())
    assert ["worker-online", "task-received", "task-started", "task-succeeded"] == site.turn()
    received, ended = _told(site, "task-received"), _told(site, "task-succeeded")
    assert (result.id, "proj.add", "(1,)", "{'y': [2, 3]}", 0, None) == tuple(
        received[name] for name in ("uuid", "name", "args", "kwargs", "retries", "eta")
    )
    assert received["expires"].startswith("20")
    assert "(1, [2, 3])" == ended["result"]
    assert 0 < ended["runtime"] < 5
    clocks = [event["clock"] for event in site.line.events]
    assert sorted(set(clocks)) == clocks


def test_failure(site: Site) -> None:
    """A task that raises: failed, with the exception's repr and the traceback."""
    site.app.tasks["proj.fail"].delay()
    site.run(site.take())
    assert "task-failed" == site.turn()[-1]
    event = _told(site, "task-failed")
    assert "ValueError('why', 1)" == event["exception"]
    assert "raise ValueError" in event["traceback"]


def test_retry(site: Site) -> None:
    """A task that is tried again: retried, with what it was for."""
    site.app.tasks["proj.again"].delay()
    site.run(site.take())
    assert "task-retried" == site.turn()[-1]
    assert "KeyError('k')" == _told(site, "task-retried")["exception"]


@pytest.mark.parametrize("requeue", [True, False])
def test_reject(site: Site, requeue: bool) -> None:
    """A task that rejects its message: rejected, and whether it goes back."""
    site.app.tasks["proj.reject"].delay(requeue)
    site.run(site.take())
    assert "task-rejected" == site.turn()[-1]
    assert requeue == _told(site, "task-rejected")["requeue"]


def test_put_aside(site: Site) -> None:
    """A failure whose message isn't acknowledged is both, rejected and failed."""
    site.app.tasks["proj.aside"].delay()
    site.run(site.take())
    assert ["task-rejected", "task-failed"] == site.turn()[-2:]
    assert "ValueError('aside')" == _told(site, "task-failed")["exception"]


@pytest.mark.parametrize(
    ("reply", "terminated", "signum", "expired"),
    [
        (revoked("revoked"), False, None, False),
        (revoked("expired"), False, None, True),
        (revoked("terminated"), True, 15, False),
    ],
)
def test_revoked(site: Site, reply: Reply, terminated: bool, signum: int | None, expired: bool) -> None:
    """A task that was revoked, wherever that was: revoked, and how."""
    site.app.tasks["proj.add"].delay(1, 2)
    site.onlooker.unattended(delivered(site.client.last), reply, signum=signum)
    assert ["worker-online", "task-revoked"] == site.turn()
    event = _told(site, "task-revoked")
    assert (terminated, signum, expired) == (event["terminated"], event["signum"], event["expired"])


@pytest.mark.parametrize(
    ("reason", "exception"),
    [
        ("died", "WorkerLostError('the process that ran proj.add is gone: signal 9')"),
        ("time-limit", "TimeLimitExceeded(3)"),
        ("stopped", "WorkerLostError('the worker was shut down while it ran proj.add')"),
    ],
)
def test_lost(site: Site, reason: Any, exception: str) -> None:
    """A task whose process is lost, that is over its limit, or cut off: failed, and why."""
    site.app.tasks["proj.add"].delay(1, 2)
    delivery = delivered(site.client.last)
    lost = Lost(key=("m", 1), reason=reason, detail="signal 9", pid=5)
    site.onlooker.unattended(delivery, reply_to_lost(lost, delivery, TaskPolicy(), 3))
    assert "task-failed" == site.turn()[-1]
    assert exception == _told(site, "task-failed")["exception"]


@pytest.mark.parametrize("state", [REQUEUED, RETURNED])
def test_put_back(site: Site, state: str) -> None:
    """A late-acked task that is lost and goes back to its queue: rejected."""
    site.app.tasks["proj.add"].delay(1, 2)
    site.onlooker.unattended(delivered(site.client.last), Outcome(state=state).encode())
    assert "task-rejected" == site.turn()[-1]
    assert _told(site, "task-rejected")["requeue"]


def test_an_unknown_task(site: Site) -> None:
    """A task that isn't registered fails, and is told of no further."""
    site.app.send_task("proj.nowhere")
    site.run(site.take())
    assert ["worker-online", "task-failed"] == site.turn()
    assert "NotRegistered('proj.nowhere')" == _told(site, "task-failed")["exception"]


def test_a_silent_task(site: Site) -> None:
    """A task with send_events=False has no events."""
    site.app.tasks["proj.silent"].delay()
    site.run(site.take())
    assert ["worker-online"] == site.turn()


def test_what_is_large_is_not_decoded(site: Site) -> None:
    """Of a very large message an event tells what its headers say."""
    site.app.tasks["proj.add"].delay("x" * _DECODED_BYTES, 1)
    site.take()
    site.turn()
    event = _told(site, "task-received")
    assert ("proj.add", "...", None) == (event["name"], event["args"], event["root_id"])


def test_an_epilogue_has_no_events(site: Site) -> None:
    """What does the rest of a lost task's work is no task."""
    site.app.tasks["proj.add"].delay(1, 2)
    delivery = delivered(site.client.last)
    delivery = replace(delivery, headers=replace(delivery.headers, concludes=True))
    site.onlooker.received(delivery)
    site.onlooker.began(delivery)
    site.onlooker.ended(delivery, Outcome(state="SUCCESS").encode())
    assert ["worker-online"] == site.turn()


def test_a_reply_beside_which_nothing_is_told(site: Site) -> None:
    """Where the child knew of no events yet, the reply itself is looked at."""
    site.app.tasks["proj.add"].delay(1, 2)
    delivery = site.take()
    site.program.events.on = False
    reply = site.program.work(delivery, lambda state, body: None)
    assert "" == reply.told
    site.program.events.on = True
    site.onlooker.ended(delivery, reply)
    site.turn()
    event = _told(site, "task-succeeded")
    assert ("[1, 2]", None) == (event["result"], event["runtime"])


def test_sent_together(site: Site) -> None:
    """Events of tasks wait some milliseconds for each other."""
    site.app.tasks["proj.add"].delay(1, 2)
    site.run(site.take())
    now = time.monotonic()
    due = site.onlooker.turn(site.manager, now - 1)
    assert now - 1 < due <= now + _TOGETHER_S
    assert ["celeryev.worker.online"] == [topic for topic, _ in site.line.announced]
    site.onlooker.turn(site.manager, due)
    assert "celeryev.task.multi" == site.line.announced[-1][0]


def test_heartbeats(site: Site) -> None:
    """Heartbeats tell what runs and what has run, every two seconds, and stop while there is no broker."""
    class Job:
        began_at = 1.0

    site.manager.jobs_in_flight["m"] = Job()
    assert ["worker-online"] == site.turn(1.0)
    assert ["worker-online", "worker-heartbeat"] == site.turn(2.1)
    event = _told(site, "worker-heartbeat")
    assert (2.0, 1, 3, "py-celery", 3) == (
        event["freq"], event["active"], event["processed"], event["sw_ident"], len(event["loadavg"])
    )  # fmt: skip
    site.onlooker.disconnected()
    assert 2 == len(site.turn(60))


def test_the_life_of_a_connection(site: Site) -> None:
    """Online at each new connection, not where the broker only asks again; what was kept comes first."""
    site.line.away = True
    site.onlooker.disconnected()
    site.app.tasks["proj.add"].delay(1, 2)
    site.run(site.take())
    site.turn()
    site.line.away = False
    site.connect()
    tasks = ["task-received", "task-started", "task-succeeded"]
    assert ["worker-online", *tasks, "worker-online"] == site.turn()
    site.onlooker.disconnected()
    site.connect(anew=False)
    assert 5 == len(site.turn())
    site.onlooker.leaving(site.manager)
    assert "worker-offline" == site.turn()[-1]


def test_a_broker_that_knows_no_events(site: Site) -> None:
    """Under a stock router no events are made; under ours they are again."""
    site.onlooker.disconnected()
    site.onlooker.connected(site.manager, None, anew=True)
    assert not site.program.events.on
    site.app.tasks["proj.add"].delay(1, 2)
    site.run(site.take())
    assert ["worker-online"] == site.turn(10)
    site.onlooker.disconnected()
    site.connect()
    site.run(site.take())
    tasks = ["task-received", "task-started", "task-succeeded"]
    assert ["worker-online", "worker-online", *tasks] == site.turn()


def test_options(app: Celery, client: Announcing) -> None:
    """Without -E only the worker's events are sent; --without-heartbeat, none; the interval can be set."""
    site = Site(app, client, heartbeat_interval=5.0)
    site.connect()
    assert ["worker-online"] == site.turn(4.9)
    assert ["worker-online", "worker-heartbeat"] == site.turn(5.1)
    assert 5.0 == _told(site, "worker-heartbeat")["freq"]
    assert not site.onlooker.hears_ends

    silent = Site(app, client, without_heartbeat=True)
    silent.connect()
    silent.onlooker.leaving(silent.manager)
    assert [] == silent.turn(10)


def test_at_run_time(app: Celery, client: Announcing) -> None:
    """Events of tasks can be turned on and off; children and the broker learn of it; twice is no change."""

    @app.task(name="proj.add")
    def add(x: int, y: int) -> int:
        return x + y

    site = Site(app, client)
    site.connect()
    asked: Callable[[str], Any] = lambda verb: site.onlooker.asked(site.manager, verb, {})  # noqa: E731
    add.delay(1, 2)
    site.run(site.take())
    assert ["worker-online"] == site.turn()
    assert not site.program.events.on

    assert {"ok": "task events enabled"} == asked("enable_events")
    assert {"ok": "task events already enabled"} == asked("enable_events")
    assert site.program.events.on
    assert site.onlooker.hears_ends
    site.run(site.take())
    assert "task-succeeded" == site.turn()[-1]
    count = len(site.line.events)

    assert {"ok": "task events disabled"} == asked("disable_events")
    assert {"ok": "task events already disabled"} == asked("disable_events")
    site.run(site.take())
    assert count == len(site.turn())
    assert [True, False] == site.manager.hears
    asked("heartbeat")
    assert "worker-heartbeat" == site.turn()[-1]


def test_a_dispatcher_that_fails(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """What a dispatcher of the project's own raises is logged, and stops no worker."""

    def fails(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no")

    dispatcher = site.onlooker.controller.consumer.event_dispatcher
    assert dispatcher is not None
    dispatcher.send = dispatcher.flush = fails  # type: ignore[method-assign]
    site.app.tasks["proj.add"].delay(1, 2)
    site.run(site.take())
    site.turn(5.0)
    site.connect()
    site.onlooker.leaving(site.manager)
    assert sum("RuntimeError: no" in str(record.exc_text) for record in caplog.records) >= 5


def test_off_after_dash_e(site: Site) -> None:
    """What -E turned on can be turned off; the worker's events stay."""
    assert {"ok": "task events disabled"} == site.onlooker.asked(site.manager, "disable_events", {})
    site.app.tasks["proj.add"].delay(1, 2)
    site.run(site.take())
    assert ["worker-online", "worker-heartbeat"] == site.turn(2.5)
