"""Connections that break, brokers that are started again or stand still: work goes on, nothing runs twice."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from tests.processes import Proc, wait_until
from tests.proxy import Proxy
from tests.site import Site

pytestmark = [pytest.mark.integration]

BACK_S = 10.0

#: The upstream runs in the main thread (prefork, threads) or beside it (solo).
SIDES = ("prefork", "solo", pytest.param("threads", marks=pytest.mark.long))


@pytest.fixture
def proxy(site: Site) -> Iterator[Proxy]:
    """In front of the workers' port of the site's broker."""
    with Proxy(site.ports["backend"]) as made:
        yield made


def ping_within(site: Site, mark: str, seconds: float) -> None:
    """Publish a ping and have its result in so many seconds."""
    assert mark == site.tasks.ping.delay(mark).get(timeout=seconds)


def stop_for(proc: Proc, seconds: float) -> None:
    """Have a process stand still for a while."""
    proc.send_signal(signal.SIGSTOP)
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= until, seconds + 5, interval_s=0.1)
    proc.send_signal(signal.SIGCONT)


def one_worker(site: Site) -> bool:
    """Whether the broker knows one worker, which is there."""
    rows = [row for row in site.client.ask("workers") if row.get("present", True)]
    return len(rows) == 1


@pytest.mark.parametrize("pool", SIDES)
def test_cut_connections(site: Site, proxy: Proxy, pool: str) -> None:
    """Five cuts within three seconds: what runs is not started again, and new work comes at once."""
    site.start_broker()
    site.start_worker("-P", pool, "-b", site.address(backend=proxy.port))
    running = site.tasks.sleep.delay(4, "running")
    site.wait_runs("start running")
    for n in range(5):
        accepted = proxy.accepted
        proxy.cut()
        wait_until(lambda was=accepted: proxy.accepted > was, 10, what=f"connection {n + 2}")

    if pool != "solo":
        ping_within(site, "busy", BACK_S)
    assert "running" == running.get(timeout=20)
    ping_within(site, "idle", BACK_S)
    assert 1 == site.count("start running")
    assert one_worker(site)
    assert (0, 0) == (site.queue()["waiting"], site.queue()["in_flight"])


@pytest.mark.parametrize("pool", SIDES)
def test_the_broker_is_started_again(site: Site, pool: str) -> None:
    """A broker that is killed, and back after a while, takes the result of what ran meanwhile."""
    broker = site.start_broker()
    site.start_worker("-P", pool, "-c", "1")
    running = site.tasks.sleep.delay(4, "running")
    site.wait_runs("start running")
    waiting = site.tasks.ping.delay("waiting")
    broker.kill()
    until = time.monotonic() + 1.5
    wait_until(lambda: time.monotonic() > until, 5)
    site.start_broker()

    assert "waiting" == waiting.get(timeout=20)
    assert "running" == running.get(timeout=5)
    ping_within(site, "new", BACK_S)
    assert (1, 1) == (site.count("start running"), site.count("ping waiting"))
    assert one_worker(site)


@pytest.mark.parametrize("pool", SIDES)
def test_the_broker_ends_while_a_task_ends(site: Site, pool: str) -> None:
    """A task that ends while there is no broker has its result once there is one."""
    broker = site.start_broker()
    site.start_worker("-P", pool, "-c", "1")
    result = site.tasks.sleep.delay(1, "short")
    site.wait_runs("start short")
    broker.stop()
    site.wait_runs("end short")
    site.start_broker()

    assert "short" == result.get(timeout=20)
    assert 1 == site.count("start short")


@pytest.mark.parametrize("pool", SIDES)
def test_the_broker_stands_still(site: Site, pool: str) -> None:
    """A broker that stands still for longer than dead_after condemns nobody, and is found again."""
    broker = site.start_broker("--dead-after", "2")
    site.start_worker("-P", pool, "-c", "1")
    running = site.tasks.sleep.delay(6, "running")
    site.wait_runs("start running")
    stop_for(broker, 4.5)

    assert "running" == running.get(timeout=20)
    ping_within(site, "new", BACK_S)
    assert 1 == site.count("start running")
    assert one_worker(site)


def test_the_worker_stands_still(site: Site) -> None:
    """A late-acked task of a worker that stood still is redelivered, and its own result comes too late."""
    site.start_broker("--dead-after", "2")
    worker = site.start_worker("-c", "1")
    late = site.tasks.sleep_late.delay(1, "late")
    site.wait_runs("start late")
    worker.send_signal(signal.SIGSTOP)
    site.start_worker("-c", "1")
    site.wait_runs("start late", 2)
    worker.send_signal(signal.SIGCONT)

    assert "late" == late.get(timeout=20)
    ping_within(site, "new", BACK_S)
    assert (0, 0) == (site.queue()["waiting"], site.queue()["in_flight"])


def test_no_broker_at_the_start(site: Site) -> None:
    """A worker that finds no broker says so, waits, and begins once there is one."""
    worker = site.start_worker(ready="no broker at emq://127.0.0.1:")
    assert worker.alive()
    site.start_broker()
    worker.wait_line("is ready")
    ping_within(site, "first", BACK_S)


def test_an_end_without_a_broker(site: Site) -> None:
    """A worker that never found a broker ends at once when it is told to."""
    worker = site.start_worker(ready="no broker at emq://127.0.0.1:")
    began = time.monotonic()
    assert 0 == worker.stop()
    assert time.monotonic() - began < 6


def test_failover(site: Site) -> None:
    """Where nobody listens at the first address, or no longer, the worker takes the second."""
    with Proxy(site.ports["backend"]) as proxy:
        nobody = f"emq://127.0.0.1:{proxy.port + 1}?worker_port=1"
        site.start_broker()
        worker = site.start_worker("-b", f"{nobody};{site.url}")
        ping_within(site, "second", BACK_S)
        assert 0 == worker.stop()
