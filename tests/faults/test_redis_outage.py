"""Redis, where the results are kept, is gone for a while: workers live, and no outcome is lost."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.processes import Proc, Procs, wait_until
from tests.services import redis
from tests.site import Site

pytestmark = pytest.mark.faults


class OwnRedis:
    """A Redis of the test's own: it ends and starts again, empty, at one port."""

    def __init__(self, program: str, port: int, procs: Procs) -> None:
        self.url = f"redis://127.0.0.1:{port}/0"
        self._argv = (program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no")
        self._procs = procs
        self._proc: Proc | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._proc = self._procs.start(*self._argv, ready="Ready to accept connections")

    def stop(self) -> None:
        """End it; what it had is gone."""
        assert self._proc is not None
        self._proc.kill()


@pytest.fixture
def own_redis(free_port: Callable[[], int], procs: Procs) -> OwnRedis:
    program = redis.program()
    if program is None:
        missing = "redis-server isn't installed: run `make services`"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    made = OwnRedis(program, free_port(), procs)
    made.start()
    return made


@pytest.fixture
def start(site: Site, own_redis: OwnRedis) -> Callable[..., None]:
    """A function that starts broker and worker of a site with results in this Redis, and settings."""

    def started(**settings: object) -> None:
        settings["result_backend"] = own_redis.url
        site.write_project(f"\napp.conf.update({settings!r})\n")
        site.start_broker()
        site.start_worker()
        assert "before" == site.tasks.ping.delay("before").get(timeout=20)

    return started


def lives(site: Site) -> None:
    """The worker is the process it was, and runs tasks whose results are read."""
    [worker] = site.workers
    assert worker.alive(), worker.tail()
    assert "after" == site.tasks.ping.delay("after").get(timeout=20)


def test_results_of_a_short_outage_are_stored_when_it_is_over(
    site: Site, own_redis: OwnRedis, start: Callable[..., None]
) -> None:
    """Redis is tried again; what waits for results hears of them, a chain goes on, and no task runs twice."""
    start()
    own_redis.stop()
    results = [site.tasks.ping.delay(f"p{n}") for n in range(6)]
    chained = (site.tasks.ping.s("first") | site.tasks.ping.si("second")).delay()
    [worker] = site.workers
    wait_until(lambda: "can't be reached" in worker.output(), 20, what="a word about Redis")
    assert worker.alive()

    own_redis.start()
    assert [f"p{n}" for n in range(6)] == [result.get(timeout=30) for result in results]
    assert "second" == chained.get(timeout=20)
    marks = [*(f"p{n}" for n in range(6)), "first", "second"]
    assert [1] * 8 == [site.count(f"ping {mark}") for mark in marks]
    lives(site)


#: A store that gives up at once, as it does else after some 20 s.
NO_TRIES = {"retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}}


def test_what_could_not_be_stored_is_with_the_broker(
    site: Site, own_redis: OwnRedis, start: Callable[..., None]
) -> None:
    """Once Redis was tried often enough the broker keeps the result, and the log says which."""
    start(result_backend_transport_options=NO_TRIES)
    own_redis.stop()
    result = site.tasks.ping.delay("gone")
    [worker] = site.workers
    worker.wait_line(f"the result of {result.id} stays with the broker")
    kept = wait_until(lambda: site.client.results([result.id])[result.id], what="a result at the broker")
    assert ("SUCCESS", "gone") == (kept.state, kept.reply["value"])

    own_redis.start()
    lives(site)
    assert not result.ready()


def test_a_store_that_is_always_tried_again_gets_every_result(
    site: Site, own_redis: OwnRedis, start: Callable[..., None]
) -> None:
    """With result_backend_always_retry the worker goes on after the store itself has given up."""
    start(
        result_backend_transport_options=NO_TRIES,
        result_backend_always_retry=True,
        result_backend_max_sleep_between_retries_ms=200,
    )
    own_redis.stop()
    results = [site.tasks.ping.delay(f"p{n}") for n in range(6)]
    [worker] = site.workers
    tried = "the result store is tried again"
    wait_until(lambda: worker.output().count(tried) >= 8, 20, what="several tries")

    own_redis.start()
    assert [f"p{n}" for n in range(6)] == [result.get(timeout=30) for result in results]
    assert "stays with the broker" not in worker.output()
    lives(site)
