"""Coroutines in each pool, and what only the asyncio pool does with them."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from emq_compat.pool.base import Finished, Lost
from tests.pool.conftest import Run
from tests.pool.drive import Driver, assignment, replies

pytestmark = pytest.mark.integration


@pytest.fixture
def in_loop(run: Run) -> Run:
    """``run`` for the asyncio pool."""
    if run.pool != "asyncio":  # type: ignore[attr-defined]
        pytest.skip("only the asyncio pool")
    return run


def test_a_soft_limit_is_raised_where_a_coroutine_awaits(run: Run) -> None:
    """It may be caught there, in time; the next coroutine in the slot isn't hit."""

    def body(driver: Driver) -> None:
        for i in range(3):
            driver.submit(assignment("async 30", f"a{i}", soft_limit_s=0.2))
            [finished] = driver.finished(f"a{i}", timeout_s=5)
            assert b"soft limit" == finished.reply.body
            driver.idle(1)
            driver.submit(assignment("async 0.05", f"b{i}", soft_limit_s=10))
            assert replies(driver.finished(f"b{i}")) == [b"awaited"]

    run(body)


def test_a_hard_limit_ends_a_coroutine(run: Run) -> None:
    """Lost, time-limit, in time, also where its cancellation is ignored; the slot is free again."""

    def body(driver: Driver) -> None:
        for word in ("async", "async_stubborn"):
            driver.idle(1)
            driver.submit(assignment(f"{word} 2.5", word, limit_s=0.3))
            assert "time-limit" == driver.lost(word, timeout_s=3).reason
        driver.idle(1)
        driver.submit(assignment("async 0.05", "b"))
        assert replies(driver.finished("b")) == [b"awaited"]
        assert 1 == len(driver.of(Finished))

    run(body)


def test_a_coroutine_can_be_terminated(run: Run) -> None:
    """Lost, terminated, soon."""

    def body(driver: Driver) -> None:
        key = driver.submit(assignment("async 30", "a"))
        driver.told("a", "STARTED")
        assert driver.pool.terminate(key)
        assert "terminated" == driver.lost("a", timeout_s=3).reason
        driver.idle(1)

    run(body)


def test_a_coroutine_is_stopped_with_its_pool(run: Run) -> None:
    """Lost, stopped, at once."""

    def body(driver: Driver) -> bool:
        driver.submit(assignment("async 30", "a"))
        driver.told("a", "STARTED")
        began = time.monotonic()
        [lost] = [event for event in driver.pool.stop(1.5) if isinstance(event, Lost)]
        assert "stopped" == lost.reason
        assert time.monotonic() - began < 3
        return True

    run(body)


def test_many_coroutines_wait_at_once(in_loop: Run) -> None:
    """A hundred that wait for a second take about one, plain functions among them; nothing is reserved."""

    def body(driver: Driver) -> None:
        began = time.monotonic()
        for i in range(100):
            driver.submit(assignment("async 1" if i % 2 else "sleep 1", f"a{i}"))
        assert 0 == driver.pool.idle() == driver.pool.reserve_per_slot
        driver.finished(*(f"a{i}" for i in range(100)))
        assert time.monotonic() - began < 2.5

    in_loop(body, concurrency=100)


def test_only_slots_that_are_used_have_a_thread(in_loop: Run) -> None:
    """A thread is started with the first assignment of its slot, and used again before others are."""

    def body(driver: Driver) -> None:
        before = threading.active_count()
        for i in range(5):
            driver.submit(assignment("async 0", f"a{i}"))
            driver.finished(f"a{i}")
        assert 1 >= threading.active_count() - before

    in_loop(body, concurrency=1000)


def test_what_blocks_the_loop_is_named(in_loop: Run, caplog: pytest.LogCaptureFixture) -> None:
    """The log names the assignment and the line where it stands, once, and when the loop goes on."""

    def body(driver: Driver) -> None:
        driver.submit(assignment("async_block 2", "blocker"))
        driver.submit(assignment("async 0.1", "other"))
        driver.finished("blocker", "other")
        driver.until(lambda: "the loop goes on" in caplog.text)

    with caplog.at_level(logging.WARNING):
        in_loop(body, concurrency=2)

    assert 1 == caplog.text.count("blocker blocks the loop")
    assert "time.sleep(float(rest))" in caplog.text


def test_a_loop_that_is_blocked_for_good_is_replaced(
    in_loop: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """Past its hard limit a new one runs what hadn't begun, and what comes; the old one ends later."""

    def body(driver: Driver) -> None:
        driver.submit(assignment("async 4", "begun"))
        driver.until(lambda: "in sleep" in driver.pool.dump_stacks())
        driver.submit(assignment("async_block 6", "blocker", limit_s=0.5))
        driver.until(lambda: "time.sleep(float(rest))" in driver.pool.dump_stacks())
        driver.submit(assignment("async 0", "waiting"))
        driver.submit(assignment("async 30", "limited", limit_s=0.6))
        driver.lost("blocker")
        driver.lost("limited")
        driver.finished("waiting")
        driver.submit(assignment("async 0", "later"))
        driver.finished("later")
        assert "the loop goes on" not in caplog.text
        driver.finished("begun")
        driver.until(lambda: 1 == sum(t.name == "emq-asyncio" for t in threading.enumerate()))

    with caplog.at_level(logging.WARNING):
        in_loop(body, concurrency=4)

    assert "blocker was told to stop and blocks the loop" in caplog.text
    assert "waiting for it: begun" in caplog.text


def test_a_body_that_goes_on_is_named(in_loop: Run, caplog: pytest.LogCaptureFixture) -> None:
    """One that ignores its cancellation for two seconds is logged by name."""

    def body(driver: Driver) -> None:
        driver.submit(assignment("async_stubborn 3", "stubborn", limit_s=0.2))
        driver.lost("stubborn")
        driver.until(lambda: "stubborn goes on though it was cancelled" in caplog.text)

    in_loop(body)


def test_stacks_show_where_a_coroutine_awaits(in_loop: Run) -> None:
    """dump_stacks tells the line of a coroutine that awaits."""

    def body(driver: Driver) -> None:
        key = driver.submit(assignment("async 30", "a"))
        driver.told("a", "STARTED")
        driver.until(lambda: "await asyncio.sleep(left)" in driver.pool.dump_stacks())
        driver.pool.terminate(key)
        driver.lost("a")

    in_loop(body)
