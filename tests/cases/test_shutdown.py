"""Workers that are told to end while tasks run (cases 7 and 8)."""

from __future__ import annotations

import signal
import time

import pytest

from emq_compat.shim.exceptions import WorkerLostError
from tests.cases.conftest import POOLS_AND_KINDS
from tests.processes import Proc, wait_until
from tests.site import POOLS, Site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

COROUTINES = '''
import asyncio


async def _async_sleep(seconds, mark):
    note(f"start {mark} {os.getpid()}")
    await asyncio.sleep(seconds)
    note(f"end {mark}")


@app.task(track_started=True)
async def async_sleep_tracked(seconds, mark):
    await _async_sleep(seconds, mark)


@app.task(acks_late=True, track_started=True)
async def async_sleep_late_tracked(seconds, mark):
    await _async_sleep(seconds, mark)
'''

#: How long an end takes at most beyond what it waits for.
END_S = 2.0


def end_within(worker: Proc, seconds: float) -> int:
    """Wait for a worker's end, assert that it came in time; return its exit status."""
    began = time.monotonic()
    status = worker.wait(seconds + 20)
    assert time.monotonic() - began < seconds, worker.tail()
    return status


def assert_waiting(site: Site, count: int) -> None:
    """Assert that so many tasks wait in the queue, and none is in flight."""
    queue = site.queue()
    assert (count, 0) == (queue["waiting"], queue["in_flight"])


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("pool", "seconds"),
    [
        pytest.param("prefork", 1, id="short"),
        *(pytest.param(pool, 4, id=f"full-{pool}", marks=pytest.mark.long) for pool in POOLS),
    ],
)
def test_a_signal_to_the_whole_group(site: Site, pool: str, seconds: float, signum: int) -> None:
    """7: what runs ends, what waits goes on waiting, the exit status is 0."""
    slots = 1 if pool == "solo" else 2
    site.start_broker()
    worker = site.start_worker("-P", pool, "-c", "2")
    running = [site.tasks.sleep.delay(seconds, f"running{n}") for n in range(slots)]
    site.wait_runs("start", slots)
    for n in range(4):
        site.tasks.sleep.delay(seconds, f"queued{n}")

    worker.send_signal_to_group(signum)

    assert 0 == end_within(worker, seconds + END_S)
    assert [f"running{n}" for n in range(slots)] == [result.get(timeout=2) for result in running]
    assert slots == site.count("end")
    assert_waiting(site, 4)
    site.procs.assert_none_left_of(worker)


@pytest.mark.parametrize(("pool", "kind"), POOLS_AND_KINDS)
@pytest.mark.parametrize(
    "soft_s", [pytest.param(1, id="short"), pytest.param(3, id="full", marks=pytest.mark.long)]
)
def test_late_acked_tasks_that_are_cut_off(site: Site, pool: str, kind: str, soft_s: float) -> None:
    """8: after a soft end, and after two interrupts, they are back on the queue for the next worker."""
    site.write_project(f"{COROUTINES}\napp.conf.worker_soft_shutdown_timeout = {soft_s}\n")
    site.start_broker()
    soft = site.start_worker("-P", pool, "-c", "2")
    result = getattr(site.tasks, f"{kind}sleep_late_tracked").delay(60, "late")
    site.wait_runs("start late")
    wait_until(lambda: "STARTED" == result.state)

    soft.send_signal(signal.SIGQUIT)

    assert 0 < end_within(soft, soft_s + END_S)
    assert_waiting(site, 1)
    assert "PENDING" == result.state

    site.write_project(COROUTINES)  # two interrupts are immediate where no soft end is set
    cold = site.start_worker("-P", pool, "-c", "2")
    site.wait_runs("start late", 2)
    wait_until(lambda: "STARTED" == result.state)

    interrupt_twice(cold)

    assert_waiting(site, 1)
    assert "PENDING" == result.state
    last = site.start_worker("-P", pool, "-c", "2")
    site.wait_runs("start late", 3)
    last.kill()


@pytest.mark.parametrize(("pool", "kind"), POOLS_AND_KINDS)
def test_early_acked_tasks_that_are_cut_off(site: Site, pool: str, kind: str) -> None:
    """8: after two interrupts they have failed, with the reason; nothing is left STARTED."""
    site.write_project(COROUTINES)
    site.start_broker()
    worker = site.start_worker("-P", pool, "-c", "2")
    result = getattr(site.tasks, f"{kind}sleep_tracked").delay(60, "early")
    site.wait_runs("start early")
    wait_until(lambda: "STARTED" == result.state)

    interrupt_twice(worker)

    with pytest.raises(WorkerLostError, match="shut down"):
        result.get(timeout=2)
    assert "FAILURE" == result.state
    assert_waiting(site, 0)
    assert 1 == site.count("start early")
    assert "raised unexpected" not in worker.output()


def interrupt_twice(worker: Proc) -> None:
    """Send two INTs, as a terminal would, and assert that the end is immediate."""
    worker.send_signal_to_group(signal.SIGINT)
    worker.wait_line("stops taking jobs")
    worker.send_signal_to_group(signal.SIGINT)
    assert 0 < end_within(worker, 3)
