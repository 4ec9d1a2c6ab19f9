"""Revoked tasks, before, while and after they run (case 38)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from emq_compat.celery_shim import SoftTimeLimitExceeded, chain
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


MORE = """
import asyncio
from emq_compat.celery_shim import SoftTimeLimitExceeded


@app.task
async def async_sleep(seconds, mark):
    note(f"start {mark} {os.getpid()}")
    await asyncio.sleep(seconds)
    note(f"end {mark}")


def tidied(mark):
    time.sleep(0.7)
    note(f"tidied {mark}")
    if mark == "fails":
        raise
    return "tidied"


@app.task
def tidy(mark):
    note(f"start {mark} {os.getpid()}")
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded:
        return tidied(mark)
    note(f"end {mark}")


@app.task
async def async_tidy(mark):
    note(f"start {mark} {os.getpid()}")
    try:
        await asyncio.sleep(30)
    except SoftTimeLimitExceeded:
        return tidied(mark)
    note(f"end {mark}")


@app.task
def link(before, mark):
    note(f"link {mark}")
    return mark
"""


def test_terminate_of_a_coroutine(site: Site, assert_alive: Callable[[Proc], None]) -> None:
    """38: terminate ends a coroutine where it awaits, and the others in its loop go on."""
    site.write_project(MORE)
    site.start_broker()
    worker = site.start_worker("-P", "asyncio", "-c", "3")
    bystander = site.tasks.async_sleep.delay(1.5, "bystander")
    running = site.tasks.async_sleep.delay(30, "running")
    site.wait_runs("start", 2)

    assert "terminating" == running.revoke(terminate=True)

    assert_revoked(running, 3)
    bystander.get(timeout=10)
    assert [1, 0] == [site.count("end bystander"), site.count("end running")]
    assert_alive(worker)


def _by_list(app: Any, running: list[AsyncResult[object]]) -> None:
    app.control.revoke([one.id for one in running], terminate=True, signal="SIGKILL")


def _by_terminate(app: Any, running: list[AsyncResult[object]]) -> None:
    app.control.terminate([one.id for one in running])


def _by_stamp(app: Any, running: list[AsyncResult[object]]) -> None:
    app.control.revoke_by_stamped_headers({"order": ["o-1"]}, terminate=True)


def _by_broadcast(app: Any, running: list[AsyncResult[object]]) -> None:
    ids = [one.id for one in running]
    app.control.broadcast("terminate", {"signal": "INT", "task_id": ids}, pattern="ends@*", reply=True)


@pytest.mark.parametrize("how", [_by_list, _by_terminate, _by_stamp, _by_broadcast])
@pytest.mark.parametrize("pool", ANY_POOL)
def test_terminate_of_several(
    site: Site, pool: str, how: Callable[[Any, list[AsyncResult[object]]], None]
) -> None:
    """38: several are ended at once: by a list, by terminate, by a stamp, by a broadcast to some workers."""
    site.start_broker()
    for number in range(2):
        site.start_worker("-P", pool, "-c", "1", "-n", f"ends@{number}")
    running = []
    for number in range(2):
        sig = site.tasks.sleep.si(30, f"several{number}")
        sig.stamp(order="o-1")
        running.append(sig.delay())
    site.wait_runs("start", 2)

    how(site.tasks.app, running)

    for one in running:
        assert_revoked(one, 3)
    marks = [site.tasks.ping.delay(mark).get(timeout=5) for mark in ("a", "b")]
    assert ["a", "b"] == marks
    assert 0 == site.count("end several0") + site.count("end several1")


@pytest.mark.parametrize("pool", ANY_POOL)
def test_a_chain_whose_head_is_revoked(site: Site, pool: str) -> None:
    """38: no later link of a chain runs whose head is revoked: with no worker up, or while it waits."""
    site.write_project(MORE)
    site.start_broker()
    tasks = site.tasks
    waiting = chain(tasks.ping.s("head"), tasks.link.s("one"), tasks.link.s("two")).apply_async()
    waiting.parent.parent.revoke()
    assert_revoked(waiting.parent.parent, 2)

    worker = site.start_worker("-P", pool, "-c", "1")
    delayed = chain(
        tasks.ping.s("head").set(countdown=1), tasks.link.s("one"), tasks.link.s("two")
    ).apply_async()
    delayed.parent.parent.revoke()
    assert_revoked(delayed.parent.parent, 2)

    pass_s(1.5)
    for tail in (waiting, delayed):
        for link in (tail.parent, tail):
            assert_revoked(link, 2)
    assert "next" == tasks.ping.delay("next").get(timeout=5)
    assert ["ping next"] == site.runs()
    assert worker.alive()


@pytest.mark.parametrize("pool", ANY_POOL)
def test_a_chain_whose_running_head_is_terminated(site: Site, pool: str) -> None:
    """38: no later link of a chain runs whose head was terminated while it ran."""
    site.write_project(MORE)
    site.start_broker()
    worker = site.start_worker("-P", pool, "-c", "1")
    tasks = site.tasks
    tail = chain(tasks.sleep.s(30, "head"), tasks.link.s("one"), tasks.link.s("two")).apply_async()
    site.wait_runs("start head")

    tail.parent.parent.revoke(terminate=True)

    assert_revoked(tail.parent.parent, 3)
    for link in (tail.parent, tail):
        with pytest.raises(TaskRevokedError):
            link.get(timeout=5)
        wait_until(lambda link=link: "REVOKED" == link.state)
    assert "next" == tasks.ping.delay("next").get(timeout=5)
    assert [0, 0] == [site.count("link"), site.count("end head")]
    assert worker.alive()


@pytest.mark.parametrize(
    ("pool", "task"),
    [
        ("prefork", "tidy"),
        ("threads", "async_tidy"),
        pytest.param("asyncio", "async_tidy", marks=pytest.mark.long),
        pytest.param("solo", "tidy", marks=pytest.mark.long),
    ],
)
def test_terminate_by_the_signal_of_the_soft_limit(site: Site, pool: str, task: str) -> None:
    """38: by SIGUSR1 a task is told as at its soft limit; what it then comes to is its end, as in Celery."""
    site.write_project(MORE)
    site.start_broker()
    worker = site.start_worker("-P", pool, "-c", "1")
    control = site.tasks.app.control
    fails, returns = (getattr(site.tasks, task).delay(mark) for mark in ("fails", "returns"))
    for running, mark in ((fails, "fails"), (returns, "returns")):
        site.wait_runs(f"start {mark}")
        control.revoke(running.id, terminate=True, signal="SIGUSR1")
    with pytest.raises(SoftTimeLimitExceeded):
        fails.get(timeout=5)
    assert "tidied" == returns.get(timeout=5)
    assert [2, 0, "FAILURE"] == [site.count("tidied"), site.count("end"), fails.state]
    assert "next" == site.tasks.ping.delay("next").get(timeout=5)
    assert worker.alive()


@pytest.mark.parametrize("restarted", [False, True], ids=["", "restarted"])
def test_revoked_by_a_stamp_before_it_is_sent(site: Site, restarted: bool) -> None:
    """38: what has a revoked stamp never runs, though it is sent later, and the broker started again."""
    broker = site.start_broker()
    tasks = site.tasks
    tasks.app.control.revoke_by_stamped_headers({"order": "o-2"})
    if restarted:
        broker.kill()
        site.start_broker()
    sig = tasks.ping.si("stamped")
    sig.stamp(order="o-2")
    result = sig.delay()
    site.start_worker("-c", "1")
    assert_revoked(result, 5)
    assert "next" == tasks.ping.delay("next").get(timeout=5)
    assert ["ping next"] == site.runs()


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
