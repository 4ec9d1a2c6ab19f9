"""What the broker keeps, refuses and gives out (case 5)."""

from __future__ import annotations

import random
import threading

import pytest

from emq_compat.celery_shim import OperationalError, QueueFull
from emq_compat.shim.exceptions import WorkerLostError
from tests.processes import wait_until
from tests.site import POOLS, Site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 12))]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_broker_is_killed_while_tasks_are_published(site: Site, seed: int) -> None:
    """5: of 1,000 publishes every one that returned runs exactly once; the others raised."""
    site.start_broker()
    ping = site.tasks.ping
    confirmed: set[int] = set()
    raised: set[int] = set()

    def publish() -> None:
        for n in range(1000):
            try:
                ping.delay(n)
            except OperationalError:
                raised.add(n)
            else:
                confirmed.add(n)

    publisher = threading.Thread(target=publish, name="publisher")
    publisher.start()
    kill_after = random.Random(seed).randrange(1000)
    wait_until(lambda: len(confirmed) > kill_after, 60)
    assert site.broker is not None
    site.broker.kill()
    site.start_broker()
    publisher.join(60)
    assert not publisher.is_alive()
    assert 1000 == len(confirmed) + len(raised)

    site.start_worker("-P", POOLS[seed % len(POOLS)], "-l", "warning")

    wait_until(lambda: 0 == site.queue()["waiting"] + site.queue()["in_flight"], 60)
    ran = [int(line.split()[1]) for line in site.runs()]
    assert set() == confirmed - set(ran)
    assert len(ran) == len(set(ran))


def test_a_full_queue_refuses(site: Site) -> None:
    """5: past the queue's limit each publish raises QueueFull, and nothing that was accepted is lost."""
    site.start_broker("--queue-limit", "100")
    ping = site.tasks.ping
    refused = 0
    for n in range(150):
        try:
            ping.delay(n)
        except QueueFull:
            refused += 1

    assert 50 == refused
    assert 100 == site.queue()["waiting"]
    site.start_worker("-P", "threads", "-l", "warning")
    site.wait_runs("ping", 100)
    assert list(range(100)) == sorted(int(line.split()[1]) for line in site.runs())
    assert 150 == ping.delay(150).get(timeout=5)


def test_a_queue_that_nobody_listens_on(site: Site) -> None:
    """5: its tasks wait for a worker that does, and run on no other."""
    site.start_broker()
    result = site.tasks.whereabouts.apply_async(queue="later")

    site.start_worker("-Q", "celery", "-n", "one@%h", "-c", "1")
    for n in range(3):
        assert n == site.tasks.ping.delay(n).get(timeout=5)
    assert "PENDING" == result.state
    assert 1 == site.queue("later")["waiting"]

    site.start_worker("-Q", "later", "-n", "two@%h", "-c", "1")
    assert "two" == result.get(timeout=5)[1].partition("@")[0]


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.long)])
def test_the_worker_is_killed_with_tasks_in_flight(site: Site, pool: str) -> None:
    """5: the late-acked ones run on the next worker, the early-acked ones fail and say why."""
    site.start_broker()
    worker = site.start_worker("-P", pool, "-c", "4")
    tasks = site.tasks
    early = [tasks.sleep.delay(0.5, f"early{n}") for n in range(2)]
    late = [tasks.sleep_late.delay(0.5, f"late{n}") for n in range(2)]
    site.wait_runs("start", 4)
    worker.kill()

    site.start_worker("-P", pool, "-c", "4")

    assert ["late0", "late1"] == [result.get(timeout=15) for result in late]
    for result in early:
        with pytest.raises(WorkerLostError):
            result.get(timeout=15)
    assert [1, 1, 2, 2] == [site.count(f"start {mark}") for mark in ("early0", "early1", "late0", "late1")]
