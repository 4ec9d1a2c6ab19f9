"""Tasks that are coroutine functions (case 32)."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from emq_compat.shim.exceptions import TaskRevokedError, TimeLimitExceeded
from tests.processes import Proc, wait_until
from tests.site import POOLS, Site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

TASKS = '''
import asyncio
from contextvars import ContextVar
from emq_compat.celery_shim import SoftTimeLimitExceeded

seen = ContextVar("seen", default="clean")


@app.task
async def later(seconds, mark):
    before = seen.get()
    seen.set(mark)
    note(f"start {mark}")
    try:
        await asyncio.sleep(seconds)
    except SoftTimeLimitExceeded:
        return "soft"
    except asyncio.CancelledError:
        note(f"cancelled {mark}")
        raise
    return [before, seen.get()]


@app.task
async def blocks(seconds):
    time.sleep(seconds)
    return "blocked"


@app.task(bind=True, max_retries=2)
async def again(self):
    await asyncio.sleep(0.01)
    if self.request.retries < 2:
        raise self.retry(countdown=0.05)
    return self.request.retries
'''


MORE = '''
from emq_compat.celery_shim import chain, group


@app.task
async def doubled(x):
    await asyncio.sleep(0)
    return 2 * x


@app.task
def plus_one(x):
    return x + 1


@app.task(bind=True, max_retries=2)
async def flaky(self, x):
    note(f"flaky {self.request.retries} {self.request.root_id}")
    await asyncio.sleep(0)
    if self.request.retries < 2:
        raise self.retry(countdown=0.05)
    return x


@app.task(bind=True, max_retries=1)
def plain_flaky(self, x):
    if self.request.retries < 1:
        raise self.retry(countdown=0.05)
    return x
'''


@pytest.fixture
def asite(site: Site) -> Site:
    """A site with coroutine tasks and a broker."""
    site.write_project(TASKS + MORE)
    site.start_broker()
    return site


@pytest.mark.parametrize("pool", POOLS)
def test_in_every_pool(asite: Site, assert_alive: Callable[[Proc], None], pool: str) -> None:
    """32 (a): results are right, retries too, soft and hard limit end it, the worker lives."""
    worker = asite.start_worker("-P", pool)
    tasks = asite.tasks

    assert ["clean", "a"] == tasks.later.delay(0.01, "a").get(timeout=5)
    assert ["clean", "b"] == tasks.later.delay(0.01, "b").get(timeout=5)
    assert 2 == tasks.again.delay().get(timeout=5)
    assert "soft" == tasks.later.apply_async((30, "c"), soft_time_limit=0.5).get(timeout=4)
    with pytest.raises(TimeLimitExceeded):
        tasks.later.apply_async((30, "d"), time_limit=1).get(timeout=4)
    assert_alive(worker)


def test_many_in_one_loop(asite: Site) -> None:
    """32 (b): a hundred wait a second in 2.5 s, none sees another's context; plain tasks run among them."""
    asite.start_worker("-P", "asyncio", "-c", "100")
    tasks = asite.tasks
    tasks.ping.delay("warm").get(timeout=5)

    began = time.monotonic()
    results = [tasks.later.delay(1, f"m{n}") for n in range(100)]
    found = [result.get(timeout=20) for result in results]
    took_s = time.monotonic() - began

    assert [["clean", f"m{n}"] for n in range(100)] == found
    assert took_s < 2.5


def test_one_that_blocks_the_loop(site: Site) -> None:
    """32 (b): it is named in the log, and the worker's heartbeat to the broker doesn't lapse."""
    asite = site
    asite.write_project(TASKS + MORE)
    asite.start_broker("--dead-after", "1.5")
    worker = asite.start_worker("-P", "asyncio", "-c", "100")
    tasks = asite.tasks

    other = tasks.sleep_late.delay(2, "meanwhile")
    asite.wait_runs("start meanwhile")
    result = tasks.blocks.delay(3)
    worker.wait_line("blocks the loop")

    # A plain task runs beside the blocked loop.
    assert "beside" == tasks.ping.delay("beside").get(timeout=2)
    assert "blocked" == result.get(timeout=6)
    assert "meanwhile" == other.get(timeout=2)
    assert 1 == asite.count("start meanwhile")
    assert f"siteproj.blocks[{result.id}] blocks the loop" in worker.output()
    assert asite.broker is not None
    assert "is lost" not in asite.broker.output()


def test_cancelled_by_limit_and_revoke(asite: Site) -> None:
    """32 (b): the body sees CancelledError; the state is FAILURE, or REVOKED."""
    asite.start_worker("-P", "asyncio", "-c", "100")
    tasks = asite.tasks

    limited = tasks.later.apply_async((30, "limited"), time_limit=1)
    revoked = tasks.later.delay(30, "revoked")
    asite.wait_runs("start revoked")
    revoked.revoke(terminate=True)

    with pytest.raises(TaskRevokedError):
        revoked.get(timeout=3)
    with pytest.raises(TimeLimitExceeded):
        limited.get(timeout=4)
    assert ("FAILURE", "REVOKED") == (limited.state, revoked.state)
    asite.wait_runs("cancelled limited")
    asite.wait_runs("cancelled revoked")


def test_a_warm_shutdown_waits_for_coroutines(asite: Site) -> None:
    """32 (b): after TERM what runs ends with its value, the exit status is 0."""
    worker = asite.start_worker("-P", "asyncio", "-c", "100")
    results = [asite.tasks.later.delay(1, f"m{n}") for n in range(5)]
    asite.wait_runs("start", 5)

    worker.send_signal_to_group(signal.SIGTERM)

    assert 0 == worker.wait(10)
    assert [["clean", f"m{n}"] for n in range(5)] == [result.get(timeout=2) for result in results]
    wait_until(lambda: 0 == asite.queue()["in_flight"])
    assert 0 == asite.count("cancelled")


@pytest.mark.parametrize("pool", ["asyncio", *(pytest.param(p, marks=pytest.mark.long) for p in POOLS[:3])])
def test_chains_of_both_kinds(asite: Site, pool: str) -> None:
    """32 (b): coroutine and plain tasks in a chain, a chord and with retries give their values, once each."""
    asite.start_worker("-P", pool)
    t = asite.tasks

    steps = t.doubled.s(1) | t.plus_one.s() | t.flaky.s() | t.plain_flaky.s() | t.doubled.s()
    result = (steps | t.chain(t.plus_one.s(), t.doubled.s())).apply_async()
    assert 14 == result.get(timeout=15)
    head = result
    while head.parent is not None:
        head = head.parent
    assert [f"flaky {n} {head.id}" for n in range(3)] == asite.runs()
    header = [t.doubled.s(3), t.plus_one.s(4), t.flaky.s(5) | t.doubled.s(), t.plain_flaky.s(6)]
    assert [6, 5, 10, 6] == (t.group(header) | t.ping.s()).apply_async().get(timeout=15)
