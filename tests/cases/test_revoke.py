"""Revoked tasks, before, while and after they run (case 38)."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from emq_compat.shim.exceptions import TaskRevokedError
from emq_compat.shim.result import AsyncResult
from tests.cases.conftest import ANY_POOL, pass_s
from tests.processes import Proc, wait_until
from tests.site import Site

pytestmark = [pytest.mark.integration, pytest.mark.cases]


def assert_revoked(result: AsyncResult[object], within_s: float) -> None:
    """Assert that a task ends as REVOKED in time, and that get() says so."""
    with pytest.raises(TaskRevokedError):
        result.get(timeout=within_s)
    assert "REVOKED" == result.state


@pytest.mark.parametrize("pool", ANY_POOL)
def test_revoked_before_a_worker_is_there(site: Site, pool: str) -> None:
    """38: a revoke with no worker up holds for the one that comes, and the state is REVOKED at once."""
    site.start_broker()
    result = site.tasks.ping.delay("revoked")

    result.revoke()

    assert_revoked(result, 2)
    site.start_worker("-P", pool, "-c", "1")
    assert "next" == site.tasks.ping.delay("next").get(timeout=5)
    assert ["ping next"] == site.runs()


@pytest.mark.parametrize(
    ("countdown_s", "workers"),
    [pytest.param(1.5, 1, id="short"), pytest.param(10, 3, id="full", marks=pytest.mark.long)],
)
@pytest.mark.parametrize("broker_restarted", [False, True], ids=["", "broker"])
def test_a_revoked_eta_task(site: Site, countdown_s: float, workers: int, broker_restarted: bool) -> None:
    """38: a task revoked before its time never runs, though all workers (and the broker) start again."""
    broker = site.start_broker()
    before = [site.start_worker("-c", "1") for _ in range(workers)]
    result = site.tasks.ping.apply_async(("revoked",), countdown=countdown_s)
    due = time.monotonic() + countdown_s

    result.revoke()

    assert_revoked(result, 2)
    for worker in before:
        assert 0 == worker.stop()
    if broker_restarted:
        broker.kill()
        site.start_broker()
    for _ in before:
        site.start_worker("-c", "1")
    pass_s(due + 0.5 - time.monotonic())
    assert "next" == site.tasks.ping.delay("next").get(timeout=5)
    assert ["ping next"] == site.runs()
    assert_revoked(result, 2)


@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio"])
def test_terminate(site: Site, assert_alive: Callable[[Proc], None], pool: str) -> None:
    """38: terminate ends a running task, frees its slot, and hurts no other."""
    site.start_broker()
    worker = site.start_worker("-P", pool, "-c", "2")
    tasks = site.tasks
    bystander = tasks.sleep.delay(2, "bystander")
    running = tasks.sleep.delay(30, "running")
    site.wait_runs("start", 2)

    assert "terminating" == running.revoke(terminate=True)

    assert_revoked(running, 3)
    assert "ping" == tasks.ping.delay("ping").get(timeout=1.5)  # in its slot: the other is still busy
    assert 0 == site.count("end bystander")
    assert "bystander" == bystander.get(timeout=10)
    assert 0 == site.count("end running")
    assert_alive(worker)
    assert "raised unexpected" not in worker.output()


@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio"])
def test_terminate_comes_too_late(site: Site, assert_alive: Callable[[Proc], None], pool: str) -> None:
    """38: what has just ended is told as finished, and the task that its child runs now goes on."""
    site.start_broker()
    worker = site.start_worker("-P", pool, "-c", "1")
    tasks = site.tasks
    ended = tasks.ping.delay("ended")
    running = tasks.sleep.delay(1, "running")
    assert "ended" == ended.get(timeout=5)
    site.wait_runs("start running")

    assert "finished" == ended.revoke(terminate=True)

    assert "running" == running.get(timeout=10)
    assert ("SUCCESS", 1) == (ended.state, site.count("start running"))
    assert_alive(worker)


def test_terminate_in_solo(site: Site, assert_alive: Callable[[Proc], None]) -> None:
    """38: terminate ends what the solo pool runs, too, where that can be interrupted."""
    site.start_broker()
    worker = site.start_worker("-P", "solo")
    running = site.tasks.sleep.delay(30, "running")
    site.wait_runs("start running")

    assert "terminating" == running.revoke(terminate=True)

    assert_revoked(running, 3)
    assert 0 == site.count("end running")
    assert_alive(worker)
    assert "raised unexpected" not in worker.output()


def test_a_revoked_task_that_waits_behind_others(site: Site) -> None:
    """38: a task revoked while it waits behind a running one never runs."""
    site.start_broker()
    site.start_worker("-P", "threads", "-c", "1")
    tasks = site.tasks
    first = tasks.sleep.delay(1, "first")
    site.wait_runs("start first")
    second = tasks.sleep.delay(0, "second")

    second.revoke()

    assert_revoked(second, 2)
    assert "first" == first.get(timeout=10)
    wait_until(lambda: 0 == site.queue()["waiting"])
    assert "third" == tasks.ping.delay("third").get(timeout=5)
    assert 0 == site.count("start second")
