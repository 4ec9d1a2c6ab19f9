"""Time limits in each pool (case 14)."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from emq_compat.shim.exceptions import TimeLimitExceeded
from tests.cases.conftest import POOLS_AND_KINDS
from tests.processes import Proc
from tests.site import Site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

TASKS = '''
import asyncio, socket
from emq_compat.celery_shim import SoftTimeLimitExceeded

_sockets = []


@app.task
def naps():
    """Sleeps shortly, again and again, until the soft limit."""
    note("start naps")
    try:
        while True:
            time.sleep(0.01)
    except SoftTimeLimitExceeded:
        return "caught"


@app.task
def read():
    """Reads from a socket that nobody writes to."""
    _sockets[:] += socket.socketpair()
    note("start read")
    _sockets[-1].recv(1)
    note("end read")


@app.task
async def async_naps():
    note("start naps")
    try:
        while True:
            await asyncio.sleep(0.01)
    except SoftTimeLimitExceeded:
        return "caught"


@app.task
async def async_ping(mark):
    return mark


@app.task
async def async_sleep(seconds, mark):
    note(f"start {mark}")
    await asyncio.sleep(seconds)
    note(f"end {mark}")


@app.task
async def async_read():
    """The same as read: it blocks the loop."""
    read.run()
'''


@pytest.mark.parametrize(("pool", "kind"), POOLS_AND_KINDS)
@pytest.mark.parametrize(
    ("limit_s", "hard_s"),
    [pytest.param(0.5, 1, id="short"), pytest.param(1, 2, id="full", marks=pytest.mark.long)],
)
def test_limits(
    site: Site, assert_alive: Callable[[Proc], None], pool: str, kind: str, limit_s: float, hard_s: float
) -> None:
    """14: the soft limit can be caught, the hard one is a failure in time, and no slot is lost by it."""
    site.write_project(TASKS)
    site.start_broker()
    worker = site.start_worker("-P", pool, "-c", "2")
    tasks = site.tasks
    naps, sleep, read, ping = (getattr(tasks, kind + name) for name in ("naps", "sleep", "read", "ping"))

    assert "caught" == naps.apply_async(soft_time_limit=limit_s).get(timeout=limit_s + 3)

    slow = sleep.apply_async((30, "slow"), time_limit=hard_s)
    with pytest.raises(TimeLimitExceeded):
        slow.get(timeout=hard_s + 2)
    assert "FAILURE" == slow.state

    stuck = [read.apply_async(time_limit=limit_s) for _ in range(4)]
    pings = [ping.delay(str(n)) for n in range(10)]
    published = time.monotonic()
    assert [str(n) for n in range(10)] == [
        ping.get(timeout=published + 8 - time.monotonic()) for ping in pings
    ]
    for result in stuck:
        with pytest.raises(TimeLimitExceeded):
            result.get(timeout=published + 8 - time.monotonic())
    # A coroutine that can't be interrupted has the loop until that is replaced: the others never begin.
    began = 1 if kind else 4
    assert (began, 0) == (site.count("start read"), site.count("end read"))
    if kind:
        assert "siteproj.async_read[" in worker.output()
        assert "was told to stop and blocks the loop" in worker.output()
    assert 0 == site.count("end slow")
    assert_alive(worker)
