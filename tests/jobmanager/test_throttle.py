"""Rate limits in a worker: the token bucket, what is held for a moment, what goes back."""

from __future__ import annotations

import math
import signal
from typing import Any

import pytest

from emq_compat.manager.inflight import JobInFlight, assignment_of
from emq_compat.manager.throttle import Throttle
from emq_compat.message import Delivery, Headers
from emq_compat.rate import TokenBucket
from emq_compat.run import TaskPolicy
from tests.site import Site

RATE_TASKS = """

@app.task(rate_limit="2/s")
def slow(mark):
    note(f"slow {mark} {time.time():.3f}")
"""


def job(task: str = "slow", n: int = 0) -> JobInFlight:
    delivery = Delivery(msgid=str(n), queue="q", headers=Headers(task=task), payload=b"")
    policy = TaskPolicy()
    upstream: Any = None
    return JobInFlight(delivery, upstream, policy, assignment_of(delivery, policy), short=False)


@pytest.mark.unit
def test_a_bucket_gives_one_token_an_interval() -> None:
    """The first is there at once, each further one an interval later; idle time saves up next to none."""
    bucket = TokenBucket(2.0)
    assert [10.0, 11.95, 13.95] == pytest.approx([bucket.take(10.0) for _ in range(3)])
    assert (5.95, 0.0) == (pytest.approx(bucket.wait_s(10.0)), bucket.wait_s(100.0))
    assert [100.0, 101.95] == pytest.approx([bucket.take(100.0) for _ in range(2)])
    bucket.put_back()
    assert 101.95 == pytest.approx(bucket.take(100.0))


@pytest.mark.unit
def test_what_comes_far_too_early_goes_back() -> None:
    """A little too early is held until its time; a broker that takes nothing back makes us hold it all."""
    throttle = Throttle({"slow": 0.2})
    first, early, late = (job(n=n) for n in range(3))
    assert [True, True, False] == [throttle.reserve(j, 50.0, takes_back=True) for j in (first, early, late)]
    assert (50.0, pytest.approx(50.15), 0.0) == (first.good_at, early.good_at, late.good_at)
    throttle.hold(early)
    assert (1, early.good_at) == (len(throttle), throttle.due)
    assert ([], [early]) == (throttle.released(50.1), throttle.released(50.2))
    assert math.inf == throttle.due
    assert throttle.reserve(late, 50.0, takes_back=False)
    throttle.hold(late)
    assert [late] == throttle.take_back()


@pytest.mark.unit
def test_other_tasks_and_given_tokens_are_not_touched() -> None:
    """A task without a limit is never held; a token is given once, and can be put back."""
    throttle = Throttle({"slow": 10.0})
    free, first = job("free"), job()
    assert throttle.reserve(free, 1.0, takes_back=True)
    assert 0.0 == free.good_at
    assert throttle.reserve(first, 1.0, takes_back=True)
    assert throttle.reserve(first, 1.0, takes_back=True)
    throttle.put_back(first)
    assert throttle.reserve(job(n=1), 1.0, takes_back=True)
    throttle.change("slow", None)
    assert throttle.reserve(job(n=2), 1.0, takes_back=True)
    assert {} == throttle.intervals


@pytest.mark.integration
def test_a_limit_holds_back_its_own_task_only(site: Site) -> None:
    """With -c 1, pings behind 40 of a limited task run at once; a second worker takes its own share.

    What is over the limit stays with the broker, and a worker that stops leaves nothing undone.
    """
    site.write_project(RATE_TASKS)
    site.start_broker()
    with site.tasks.app.pipeline():
        for n in range(40):
            site.tasks.slow.delay(n)
        pings = [site.tasks.ping.delay(f"p{n}") for n in range(20)]
    first = site.start_worker("-c", "1")

    assert [f"p{n}" for n in range(20)] == [ping.get(timeout=10) for ping in pings]
    assert site.count("slow") <= 20
    site.wait_runs("slow", 5)
    assert site.queue()["in_flight"] <= 2
    first.send_signal(signal.SIGTERM)
    first.wait(10)
    ran = site.count("slow")
    assert 40 - ran == site.queue()["waiting"]

    site.start_worker("-c", "4", "-P", "threads")
    site.start_worker("-c", "1", "-P", "solo")
    site.wait_runs("slow", ran + 9)
    times = sorted(float(line.split()[2]) for line in site.runs() if line.startswith("slow"))[ran:]
    # Two workers, two in a second each: nine take more than a second and a half, and less than one alone.
    assert 1.4 <= times[8] - times[0]
