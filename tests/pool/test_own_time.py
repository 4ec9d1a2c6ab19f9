"""What work takes by itself, and what it waits for a processor."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emq_compat.pool.own_time import OwnTime, waited_s

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
    """Where nothing counts it any more the clock's time is what is left."""
    waited = told(7.0, 0.0)
    own_time = OwnTime(lambda: next(waited))
    own_time.begin(10.0)

    assert 0.06 == pytest.approx(own_time.took(10.06))


def fork_busy(processor: int) -> int:
    """Start a process that keeps a processor busy until it is killed; returns its pid."""
    pid = os.fork()
    if pid == 0:
        os.sched_setaffinity(0, {processor})
        while True:
            pass
    return pid


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system doesn't count it")
def test_the_system_counts_it() -> None:
    """A thread that shares its processor with two others waits for it; one that sleeps hardly does."""
    before = os.sched_getaffinity(0)
    asleep, over = threading.Event(), threading.Event()
    waited: list[float] = []

    def sleeps() -> None:
        was = waited_s()
        asleep.set()
        over.wait()
        waited.append(waited_s() - was)

    # Before there is a thread: a copy of a process that has several may hang.
    others = [fork_busy(min(before)) for _ in range(2)]
    thread = threading.Thread(target=sleeps)
    try:
        thread.start()
        asleep.wait()
        os.sched_setaffinity(0, {min(before)})
        was, began, ran = waited_s(), time.monotonic(), time.thread_time()
        while (lasted := waited_s() - was) < 0.2:
            assert time.monotonic() < began + 20
        by_the_clock = time.monotonic() - began - (time.thread_time() - ran)
    finally:
        os.sched_setaffinity(0, before)
        for pid in others:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        over.set()
        thread.join()
    assert lasted == pytest.approx(by_the_clock, abs=0.05)
    assert waited[0] < 0.2
