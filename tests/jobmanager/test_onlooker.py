"""What a job manager tells its program's onlooker."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from emq_compat.jobmanager import JobManager
from emq_compat.manager.settings import EventmqSettings
from emq_compat.message import Delivery, Headers, Reply
from emq_compat.paths import PathProgram
from emq_compat.run import Onlooker
from emq_compat.upstream.base import Connected
from tests.jobmanager.fake_upstream import FakeUpstream, running
from tests.processes import wait_until

pytestmark = pytest.mark.integration


class Diary(Onlooker):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def ready(self) -> None:
        self.lines.append("ready")

    def received(self, delivery: Delivery) -> None:
        self.lines.append(f"received {delivery.msgid}")

    def unattended(self, delivery: Delivery, reply: Reply, *, signum: int | None = None) -> None:
        error = json.loads(reply.body)["error"]["type"]
        self.lines.append(f"{delivery.msgid} {reply.state} {error} {signum}")

    def shutting_down(self, cause: str, how: str, exit_code: int) -> None:
        self.lines.append(f"{cause} {how} {exit_code}")

    def shut_down(self) -> None:
        self.lines.append("shut down")


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
def manager(upstream: FakeUpstream, diary: Diary) -> Iterator[JobManager]:
    program = PathProgram(("operator.*", "_operator.*", "time.sleep"))
    program.onlooker = diary
    made = JobManager(
        skip_signal=True,
        pool="threads",
        upstreams=[upstream],
        program=program,
        settings=EventmqSettings(concurrent_jobs=1),
        concurrent_jobs=1,
    )
    yield made
    made._signals.close()


def test_a_life_in_order(manager: JobManager, upstream: FakeUpstream, diary: Diary) -> None:
    """Ready is told once, each job when it is taken in, and the end with what asked for it."""
    with running(manager, upstream):
        upstream.deliver("m1", "operator", "add", 2, 3)
        upstream.reply_to("m1")
        upstream.put(Connected(address="tcp://again"))
        upstream.deliver("m2", "operator", "add", 2, 3)
        upstream.reply_to("m2")
    assert ["ready", "received m1", "received m2", "SIGTERM Warm 0", "shut down"] == diary.lines


def test_the_end_is_told_before_the_pool_ends(
    manager: JobManager, upstream: FakeUpstream, diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes with nothing to do leave, and tell so, after the worker has told that it shuts down."""
    close = manager.pool.close

    def closing() -> None:
        diary.lines.append("the pool closes")
        close()

    monkeypatch.setattr(manager.pool, "close", closing)
    with running(manager, upstream):
        pass
    assert ["SIGTERM Warm 0", "the pool closes", "shut down"] == diary.lines[-3:]


def test_jobs_that_end_without_a_word(
    manager: JobManager, upstream: FakeUpstream, diary: Diary, caplog: pytest.LogCaptureFixture
) -> None:
    """A job over its limit, one that is terminated, and one revoked before it began are told."""
    caplog.set_level(logging.INFO)
    with running(manager, upstream):
        upstream.deliver("m1", "time", "sleep", 60, headers=Headers(limit_s=0.05, task="t", attempt=1))
        upstream.reply_to("m1")
        upstream.deliver("m2", "time", "sleep", 60, headers=Headers(task_id="i2", attempt=1))
        wait_until(lambda: ("m2", 1) in upstream.begun, what="m2 to begin")
        upstream.ask("revoke", ids=["i2"], terminate=True, signal="SIGINT")
        upstream.reply_to("m2")
    assert [
        "m1 FAILURE TimeLimitExceeded None",
        "m2 REVOKED TaskRevokedError 2",
    ] == [line for line in diary.lines if line[:2] in ("m1", "m2")]
    logged = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert ("INFO", "Task -[i2] revoked (terminated by SIGINT)") in logged
    assert ["Task t[m1] lost"] == [text[:15] for level, text in logged if level == "ERROR"]
