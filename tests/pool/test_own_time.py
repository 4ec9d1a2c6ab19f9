"""What work takes by itself, and what it waits for a processor."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from emq_compat.pool.own_time import OwnTime, waiting_counted

pytestmark = pytest.mark.unit


def told(*seconds: float) -> Iterator[float]:
    yield from seconds


def test_what_was_waited_is_no_part_of_it() -> None:
    """Of 60 ms by the clock, 55 of them without a processor, 5 are its own."""
    waited = told(1.0, 1.055)
    own_time = OwnTime(lambda: next(waited))

    own_time.begin(10.0)

    assert 0.005 == pytest.approx(own_time.took(10.06))


def test_brief_work_is_taken_as_it_is() -> None:
    """Work of half a millisecond costs no look, and neither does what begins right behind a look."""
    waited = told(1.0)
    own_time = OwnTime(lambda: next(waited))
    for i in range(3):
        began = 10.0 + i * 0.0006
        own_time.begin(began)
        assert 0.0005 == pytest.approx(own_time.took(began + 0.0005))


def test_what_was_waited_before_it_does_not_count() -> None:
    """A wait of a second before the work began makes the work no shorter."""
    waited = told(1.0, 2.0, 2.01)
    own_time = OwnTime(lambda: next(waited))
    own_time.begin(10.0)
    own_time.took(10.0005)

    own_time.begin(11.1)

    assert 0.05 == pytest.approx(own_time.took(11.16))


def test_a_count_that_can_be_read_no_more_adds_nothing() -> None:
    """A task that closes descriptors that aren't its own: the clock's time is what is left."""
    waited = told(7.0, 0.0)
    own_time = OwnTime(lambda: next(waited))
    own_time.begin(10.0)

    assert 0.06 == pytest.approx(own_time.took(10.06))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts it")
def test_the_system_counts_it() -> None:
    """A thread that shares its processor with another waits; one that sleeps hardly does."""
    before = os.sched_getaffinity(0)
    took: dict[str, float] = {}

    def busy(until: float) -> None:
        while time.monotonic() < until:
            pass

    def sleeps() -> None:
        with waiting_counted() as waited_s:
            was = waited_s()
            time.sleep(0.2)
            took["asleep"] = waited_s() - was

    pid = os.fork()
    if pid == 0:
        os.sched_setaffinity(0, {min(before)})
        busy(time.monotonic() + 0.5)
        os._exit(0)
    try:
        thread = threading.Thread(target=sleeps)
        thread.start()
        thread.join()
        os.sched_setaffinity(0, {min(before)})
        with waiting_counted() as waited_s:
            was = waited_s()
            busy(time.monotonic() + 0.3)
            took["busy"] = waited_s() - was
    finally:
        os.sched_setaffinity(0, before)
        os.waitpid(pid, 0)
    assert took["asleep"] < 0.19
    assert took["busy"] > 0.02
