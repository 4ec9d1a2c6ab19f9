"""Tasks that wait for their time, and tasks that run for long (cases 10 and 11)."""

from __future__ import annotations

import time

import psutil
import pytest

from tests.cases.conftest import pass_s
from tests.processes import Proc
from tests.site import POOLS, Site

pytestmark = [pytest.mark.integration, pytest.mark.cases]


def rss_bytes(worker: Proc) -> int:
    """The resident memory of a worker and all its processes."""
    return sum(process.memory_info().rss for process in (psutil.Process(worker.pid), *worker.children()))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("pool", "count"),
    [
        pytest.param("prefork", 5_000, id="short"),
        *(pytest.param(pool, 100_000, id=f"full-{pool}", marks=pytest.mark.long) for pool in POOLS),
    ],
)
def test_many_eta_tasks(site: Site, pool: str, count: int) -> None:
    """10: they cost a worker no memory and no time: what is due runs at once."""
    site.start_broker()
    tasks = site.tasks
    empty = site.start_worker("-P", pool, "-c", "1", "-l", "warning")
    with tasks.app.pipeline():
        for n in range(100):
            tasks.ping.delay(f"before{n}")
    site.wait_runs("ping", 100)
    without = rss_bytes(empty)
    assert 0 == empty.stop()
    for _ in range(count // 5_000):
        with tasks.app.pipeline():
            for n in range(5_000):
                tasks.ping.apply_async((f"far{n}",), countdown=3600)
    with tasks.app.pipeline():
        for n in range(100):
            tasks.ping.delay(f"near{n}")
    assert (100, count) == (site.queue()["waiting"], site.queue()["delayed"])

    worker = site.start_worker("-P", pool, "-c", "1", "-l", "warning")
    began = time.monotonic()

    site.wait_runs("ping", 200, timeout_s=began + 5 - time.monotonic())
    assert rss_bytes(worker) < without + 50_000_000
    assert [] == [line for line in site.runs() if "far" in line]
    assert count == site.queue()["delayed"]


@pytest.mark.parametrize(
    ("pool", "seconds", "countdown_s", "within_s"),
    [
        pytest.param("prefork", 0.5, 1, 6, id="short"),
        *(pytest.param(pool, 2, 3, 16, id=f"full-{pool}", marks=pytest.mark.long) for pool in POOLS),
    ],
)
def test_eta_tasks_are_shared(
    site: Site, pool: str, seconds: float, countdown_s: float, within_s: float
) -> None:
    """10: a worker that comes after they were published has its part of them."""
    site.start_broker()
    site.start_worker("-P", pool, "-c", "1")
    published = time.monotonic()
    for n in range(10):
        site.tasks.sleep.apply_async((seconds, str(n)), countdown=countdown_s)
    pass_s(countdown_s / 3)
    site.start_worker("-P", pool, "-c", "1")

    site.wait_runs("end", 10, timeout_s=published + within_s - time.monotonic())

    # One line for each start, with the pid of the process that runs it: one for each worker of -c 1.
    pids = [line.split()[2] for line in site.runs() if line.startswith("start")]
    assert 2 == len(set(pids))
    assert min(pids.count(pid) for pid in set(pids)) >= 3


@pytest.mark.parametrize(
    ("pool", "dead_after_s", "seconds"),
    [
        pytest.param("prefork", 1, 3, id="short"),
        *(pytest.param(pool, 3, 10, id=f"full-{pool}", marks=pytest.mark.long) for pool in POOLS),
    ],
)
def test_longer_than_any_timeout(site: Site, pool: str, dead_after_s: float, seconds: float) -> None:
    """11: a countdown and a late-acked run that outlast dead_after happen once, whoever else is idle."""
    site.start_broker("--dead-after", f"{dead_after_s}")
    workers = [site.start_worker("-P", pool, "-c", "1") for _ in range(3)]
    delayed = site.tasks.ping.apply_async(("delayed",), countdown=seconds)
    running = site.tasks.sleep_late.delay(seconds, "running")

    assert "running" == running.get(timeout=seconds + 5)
    assert "delayed" == delayed.get(timeout=5)

    for worker in workers:
        assert 0 == worker.stop()
    assert (1, 1, 1) == (
        site.count("ping delayed"),
        site.count("start running"),
        site.count("end running"),
    )
    assert (0, 0) == (site.queue()["waiting"], site.queue()["in_flight"])
