"""How a worker ends: warm, soft and cold, by signals to it alone and to its whole group."""

from __future__ import annotations

import signal
import time

import pytest

from emq_compat.shim.exceptions import WorkerLostError
from tests.processes import Proc, wait_until
from tests.site import Site

pytestmark = [pytest.mark.integration]

#: tests/cases has each pool in its short form, too.
SIDES = ("prefork", "solo", pytest.param("threads", marks=pytest.mark.long))


def end(worker: Proc, timeout_s: float = 30.0) -> tuple[int, float]:
    """Wait for its end; returns the exit status and how long that took."""
    began = time.monotonic()
    status = worker.wait(timeout_s)
    return status, time.monotonic() - began


@pytest.mark.parametrize("pool", SIDES)
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_group_ends_warm(site: Site, pool: str, signum: int) -> None:
    """What runs is finished, what waits stays in its queue, and the exit status is 0."""
    slots = 1 if pool == "solo" else 2
    site.start_broker()
    worker = site.start_worker("-P", pool, "-c", "2")
    running = [site.tasks.sleep.delay(1.5, f"running{n}") for n in range(slots)]
    site.wait_runs("start", slots)
    for n in range(4):
        site.tasks.sleep.delay(1.5, f"queued{n}")

    worker.send_signal_to_group(signum)

    status, took_s = end(worker)
    assert 0 == status
    assert took_s < 6
    assert slots == site.count("end")
    assert [f"running{n}" for n in range(slots)] == [result.get(timeout=5) for result in running]
    assert (4, 0) == (site.queue()["waiting"], site.queue()["in_flight"])
    site.procs.assert_none_left_of(worker)


@pytest.mark.parametrize("pool", SIDES)
def test_soft_shutdown_gives_running_tasks_a_last_while(site: Site, pool: str) -> None:
    """After QUIT and worker_soft_shutdown_timeout a late-acked task goes back and runs on the next worker."""
    site.write_project("\napp.conf.worker_soft_shutdown_timeout = 1.5\n")
    site.start_broker()
    worker = site.start_worker("-P", pool)
    result = site.tasks.sleep_late_tracked.delay(60, "long")
    site.wait_runs("start long")

    worker.send_signal(signal.SIGQUIT)

    status, took_s = end(worker)
    assert 1 == status
    assert 1.4 < took_s < 5
    wait_until(lambda: result.state == "PENDING", what="the result is nobody's again")
    site.start_worker("-P", pool)
    site.wait_runs("start long", 2)


@pytest.mark.parametrize("pool", SIDES)
def test_soft_shutdown_lets_short_tasks_end(site: Site, pool: str) -> None:
    """A task that ends within worker_soft_shutdown_timeout has its result; the worker ends with it."""
    site.write_project("\napp.conf.worker_soft_shutdown_timeout = 20\n")
    site.start_broker()
    worker = site.start_worker("-P", pool)
    result = site.tasks.sleep.delay(1, "short")
    site.wait_runs("start short")

    worker.send_signal(signal.SIGQUIT)

    assert 0 == end(worker)[0]
    assert "short" == result.get(timeout=5)


@pytest.mark.parametrize("pool", SIDES)
def test_a_second_interrupt_is_immediate(site: Site, pool: str) -> None:
    """Two INTs cut running tasks off: an early-acked one fails and says why, a late-acked one goes back."""
    slots = 1 if pool == "solo" else 2
    site.start_broker()
    worker = site.start_worker("-P", pool)
    early = site.tasks.sleep_tracked.delay(60, "early")
    late = site.tasks.sleep_late_tracked.delay(60, "late")
    site.wait_runs("start", slots)

    worker.send_signal(signal.SIGINT)
    counted, them = ("1 running job", "it") if slots == 1 else ("2 running jobs", "them")
    worker.wait_line(f"stops taking jobs; it waits for {counted}: Ctrl-C again cuts {them} off")
    worker.send_signal(signal.SIGINT)

    status, took_s = end(worker)
    assert f"cutting {counted.replace('running ', '')} off" in worker.output()
    assert 1 == status
    assert took_s < 4
    with pytest.raises(WorkerLostError, match="shut down"):
        early.get(timeout=5)
    assert "FAILURE" == early.state
    assert "PENDING" == late.state
    assert (1, 0) == (site.queue()["waiting"], site.queue()["in_flight"])
    site.start_worker("-P", pool)
    site.wait_runs("start late", slots)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGQUIT])
def test_a_cold_end_at_once(site: Site, signum: int) -> None:
    """QUIT ends cold, and with REMAP_SIGTERM=SIGQUIT so does TERM."""
    site.start_broker()
    worker = site.start_worker(env={"REMAP_SIGTERM": "SIGQUIT"})
    result = site.tasks.sleep.delay(60, "long")
    site.wait_runs("start long")

    worker.send_signal(signum)

    status, took_s = end(worker)
    assert 1 == status
    assert took_s < 4
    with pytest.raises(WorkerLostError):
        result.get(timeout=5)


def test_hup_starts_again(site: Site) -> None:
    """HUP finishes what runs and executes the worker again, with the same pid and the project's new code."""
    site.start_broker()
    worker = site.start_worker()
    running = site.tasks.sleep.delay(1, "running")
    site.wait_runs("start running")
    site.write_project('\n@app.task\ndef fresh():\n    return "fresh"\n')

    worker.send_signal(signal.SIGHUP)

    worker.wait_line("is ready", count=2, timeout_s=60)
    assert "running" == running.get(timeout=5)
    assert "fresh" == site.tasks.app.send_task(f"{site.tasks.__name__}.fresh").get(timeout=10)
    assert 0 == worker.stop()
