"""A worker on Redis that waits for messages."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.processes import wait_until
from tests.upstream.kombu_bench import Bench, id_of

pytestmark = pytest.mark.integration


@pytest.fixture
def redis(redis_url: str) -> Iterator[Bench]:
    made = Bench(redis_url)
    yield made
    made.close()


def test_an_idle_worker_has_a_message_at_once_whatever_its_priority(redis: Bench) -> None:
    """Each is noted as unacknowledged when it is delivered, and none stays anywhere."""
    worker = redis.upstream().connected()
    worker.upstream.ready(10)
    assert worker.quiet()

    for n, priority in enumerate((0, 3, 6, 9)):
        began = time.monotonic()
        redis.publish(f"t{n}", priority=priority)
        [one] = worker.get()
        assert time.monotonic() - began < 0.5
        assert f"t{n}" == id_of(one)
        worker.end(one)
    worker.stop()
    assert [] == redis.waiting()
    assert [] == left(redis)


def test_what_comes_beyond_what_was_asked_for_goes_back(redis: Bench) -> None:
    """A worker that waits for one gets one, though it waits for messages of each priority."""
    worker = redis.upstream().connected()
    worker.upstream.ready(1)
    assert worker.quiet()
    for priority in (0, 3, 6, 9):
        redis.publish(f"t{priority}", priority=priority)
    [first] = worker.get()
    assert worker.quiet(1.5)

    other = redis.upstream("w2@here").connected()
    ids = {id_of(first), *(id_of(one) for one in other.take(3))}
    assert {"t0", "t3", "t6", "t9"} == ids


def test_a_message_that_came_to_a_dying_worker_goes_to_another(redis: Bench) -> None:
    """One that was killed before it had read what Redis gave it has lost nothing."""
    dying = redis.upstream("dying@here", dead_after_s=1.0).connected()
    dying.upstream.ready(1)
    assert dying.quiet()
    gone, resurrected = threading.Event(), threading.Event()

    def die(own: str, origin: str) -> None:
        gone.set()
        resurrected.wait(20)

    dying.upstream._worker._tap._idle._came = die  # type: ignore[union-attr]
    try:
        redis.publish("t1")
        assert gone.wait(5)
        other = redis.upstream("other@here", dead_after_s=1.0).connected()
        [one] = other.take(timeout_s=10)
        assert "t1" == id_of(one)
        other.end(one)
    finally:
        resurrected.set()
    wait_until(lambda: [] == redis.waiting())


def left(bench: Bench) -> list[str]:
    """The lists of workers that wait for messages of this queue."""
    with bench.connection() as connection:
        return [str(key) for key in connection.channel().client.keys(f"emq-compat.moved.*{bench.queue}*")]
