"""Time limits of work that sits in blocking calls, in each pool (case 14)."""

from __future__ import annotations

import threading
import time

import pytest

from emq_compat.pool.base import Finished, Lost
from tests.pool.conftest import Run
from tests.pool.drive import Driver, assignment, replies
from tests.processes import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.cases]


def test_the_soft_limit_can_be_caught_in_a_loop_of_short_sleeps(run: Run) -> None:
    """Two at once, each with its own limit, each sees its exception about when it is due."""

    def body(driver: Driver) -> None:
        names = "ab"[: driver.pool.concurrency]
        began = time.monotonic()
        for name in names:
            driver.submit(assignment("soft 10", name, soft_limit_s=0.3))
        for finished in driver.finished(*names):
            # By the clock: a run's own time is without that in which it waits for a processor.
            assert time.monotonic() - began > 0.25
            assert b"soft limit" == finished.reply.body
            assert finished.runtime_s < 3

    run(body, concurrency=2)


def test_the_hard_limit_ends_a_long_sleep(run: Run) -> None:
    """A blocking call that goes on far beyond the limit is Lost about when it is due."""

    def body(driver: Driver) -> None:
        began = time.monotonic()
        driver.submit(assignment("block 5", "a", limit_s=0.3))
        assert "time-limit" == driver.lost("a", timeout_s=3).reason
        assert time.monotonic() - began > 0.25
        driver.idle(driver.pool.concurrency)
        driver.submit(assignment("echo hi", "b"))
        assert replies(driver.finished("b")) == [b"hi"]

    run(body, concurrency=2)


def test_slots_that_block_for_ever_are_replaced(run: Run) -> None:
    """Four assignments stuck in a read are all told; ten more run at once; late results are dropped."""

    def body(driver: Driver) -> None:
        began = time.monotonic()
        for i in range(4):
            driver.until(lambda i=i: driver.pool.submit(assignment("block 1.5", f"a{i}", limit_s=0.3)))
        for i in range(10):
            driver.until(lambda i=i: driver.pool.submit(assignment("echo", f"b{i}")))
        driver.finished(*(f"b{i}" for i in range(10)))
        assert time.monotonic() - began < 8
        assert {"time-limit"} == {driver.lost(f"a{i}").reason for i in range(4)}
        # A thread that was given up ends once it has its late result.
        wait_until(lambda: len(_workers()) <= driver.pool.concurrency)
        driver.idle(driver.pool.concurrency)
        assert 10 == len(driver.of(Finished))
        assert 4 == len(driver.of(Lost))

    run(body, concurrency=2)


def _workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("emq-worker")]


def test_a_result_after_the_hard_limit_is_dropped(run: Run) -> None:
    """Results that race with their limit are told once: Finished or Lost, never both."""

    def body(driver: Driver) -> None:
        for i in range(30):
            driver.until(lambda i=i: driver.pool.submit(assignment("sleep 0.02", f"a{i}", limit_s=0.02)))
        driver.until(lambda: len(driver.of(Finished)) + len(driver.of(Lost)) >= 30)
        driver.idle(driver.pool.concurrency)
        driver.submit(assignment("sleep 0.1", "z"))
        driver.finished("z")
        ended = [event.key[0] for event in (*driver.of(Finished), *driver.of(Lost))]
        assert sorted([*(f"a{i}" for i in range(30)), "z"]) == sorted(ended)
        assert {"time-limit"} >= {event.reason for event in driver.of(Lost)}

    run(body, concurrency=2)
