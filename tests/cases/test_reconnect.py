"""Connections that break, and brokers that are away for a while (case 41)."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.cases.conftest import BACK_S, assert_back, pass_s
from tests.proxy import Proxy
from tests.site import POOLS, Site

pytestmark = [pytest.mark.integration, pytest.mark.cases]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What befalls the connection, for how long the broker is away, and which options it has."""

    kind: str
    away_s: float
    options: tuple[str, ...] = ()


SHORT = (
    Fault(kind="cuts", away_s=0.5),
    Fault(kind="restart", away_s=1.5, options=("--dead-after", "1")),
    Fault(kind="stopped", away_s=2, options=("--dead-after", "1")),
)
FULL = (
    Fault(kind="cuts", away_s=3),
    Fault(kind="restart", away_s=20),
    Fault(kind="stopped", away_s=30),
)


def befall(site: Site, proxy: Proxy, fault: Fault) -> None:
    """Let a fault happen, from its begin to the broker's return."""
    broker = site.broker
    assert broker is not None
    if fault.kind == "cuts":
        for _ in range(5):
            proxy.cut()
            pass_s(fault.away_s / 5)
    elif fault.kind == "restart":
        broker.kill()
        pass_s(fault.away_s)
        site.start_broker(*fault.options)
    else:
        broker.send_signal(signal.SIGSTOP)
        pass_s(fault.away_s)
        broker.send_signal(signal.SIGCONT)


@pytest.fixture
def proxy(site: Site) -> Iterator[Proxy]:
    """In front of the workers' port of the site's broker."""
    with Proxy(site.ports["backend"]) as made:
        yield made


def cases(*pools: str) -> list[object]:
    """Each fault in its short form with these pools, and in full with every pool."""
    short = [pytest.param(pool, fault, id=f"short-{fault.kind}-{pool}") for fault in SHORT for pool in pools]
    return short + [
        pytest.param(pool, fault, id=f"full-{fault.kind}-{pool}", marks=pytest.mark.long)
        for fault in FULL
        for pool in POOLS
    ]


@pytest.mark.parametrize(("pool", "fault"), cases("threads"))
def test_a_busy_worker(site: Site, proxy: Proxy, pool: str, fault: Fault) -> None:
    """41: what runs is not started again, what waits is not lost, and new work is taken at once."""
    slots = 1 if pool == "solo" else 2
    site.start_broker(*fault.options)
    site.start_worker("-P", pool, "-c", "2", "-b", site.address(backend=proxy.port))
    tasks = site.tasks
    seconds = fault.away_s + 1
    running = [
        task.delay(seconds, f"running{n}")
        for n, task in enumerate([tasks.sleep_late, tasks.sleep][:slots])
    ]
    site.wait_runs("start", slots)
    waiting = [tasks.ping.delay(f"waiting{n}") for n in range(2)]

    befall(site, proxy, fault)

    assert_back(site, "new")
    assert [f"running{n}" for n in range(slots)] == [result.get(timeout=BACK_S) for result in running]
    assert ["waiting0", "waiting1"] == [result.get(timeout=BACK_S) for result in waiting]
    assert (slots, slots, 3) == (site.count("start"), site.count("end"), site.count("ping"))
    assert (0, 0) == (site.queue()["waiting"], site.queue()["in_flight"])


@pytest.mark.parametrize(("pool", "fault"), cases())
def test_an_idle_worker(site: Site, proxy: Proxy, pool: str, fault: Fault) -> None:
    """41: a worker that had nothing to do takes new work at once."""
    site.start_broker(*fault.options)
    site.start_worker("-P", pool, "-c", "2", "-b", site.address(backend=proxy.port))
    assert "before" == site.tasks.ping.delay("before").get(timeout=5)

    befall(site, proxy, fault)

    assert_back(site, "new")
    assert (1, 1) == (site.count("ping before"), site.count("ping new"))
