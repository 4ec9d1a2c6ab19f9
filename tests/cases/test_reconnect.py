"""Connections that break, and brokers that are away for a while (case 41)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cases.conftest import pass_s
from tests.processes import wait_until
from tests.proxy import Proxy
from tests.site import POOLS, Site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

#: A fresh ping ends within this after the broker's return.
BACK_S = 10.0


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


def assert_back(site: Site, mark: str) -> None:
    """Assert that fresh work is done in time, by the one consumer that there is."""
    assert mark == site.tasks.ping.delay(mark).get(timeout=BACK_S)
    wait_until(lambda: 1 == site.queue()["workers"], what="one consumer")
    assert 1 == len([row for row in site.client.ask("workers") if row["present"]])


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


class Island:
    """A network namespace with one link to this one, over which every packet can be dropped."""

    def __init__(self) -> None:
        tag = f"{os.getpid() % 100_000:05d}"
        self.name, self._ours, self._theirs = f"emq{tag}", f"emqo{tag}", f"emqt{tag}"
        subnet = f"10.{213 + os.getpid() // 250 % 20}.{os.getpid() % 250}"
        self.address = f"{subnet}.1"
        self._far = f"{subnet}.2"

    def __enter__(self) -> Island:
        _ip("netns", "add", self.name)
        _ip("link", "add", self._ours, "type", "veth", "peer", "name", self._theirs, "netns", self.name)
        _ip("addr", "add", f"{self.address}/30", "dev", self._ours)
        _ip("link", "set", self._ours, "up")
        _ip("-n", self.name, "addr", "add", f"{self._far}/30", "dev", self._theirs)
        _ip("-n", self.name, "link", "set", self._theirs, "up")
        return self

    def __exit__(self, *exc: object) -> None:
        _ip("netns", "del", self.name)

    def drop_packets(self, drop: bool) -> None:
        """Drop all that is sent from now on, or no more; nobody is told of it."""
        _ip("-n", self.name, "link", "set", self._theirs, "down" if drop else "up")


def _ip(*argv: str) -> None:
    done = subprocess.run(["ip", *argv], capture_output=True, text=True, timeout=20)
    assert 0 == done.returncode, done.stderr


def _can_make_islands() -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, timeout=20)
    return tried.returncode == 0


@pytest.mark.long
@pytest.mark.skipif(not _can_make_islands(), reason="needs root and network namespaces")
@pytest.mark.parametrize("away_s", [4.0, 30.0], ids=["shorter", "longer"])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("pool", POOLS)
def test_dropped_packets(site: Site, pool: str, busy: bool, away_s: float) -> None:
    """41: packets that vanish, for less or more than dead_after, cost no task and no second start."""
    with Island() as island:
        backend = site.ports["backend"]
        site.start_broker("--insecure", "--backend", f"tcp://{island.address}:{backend}")
        site.procs.start(
            "ip", "netns", "exec", island.name, Path(sys.executable).with_name("emq-compat"),
            "worker", "-A", site.tasks.__name__, "-P", pool, "-c", "1", "-l", "info",
            "-b", f"emq://{island.address}?worker_port={backend}",
            cwd=site.folder, ready="is ready", timeout_s=60,
        )  # fmt: skip
        tasks = site.tasks
        assert "before" == tasks.ping.delay("before").get(timeout=5)
        held = []
        if busy:
            held = [tasks.sleep_late.delay(away_s + 2, "running"), tasks.ping.delay("waiting")]
            site.wait_runs("start running")

        island.drop_packets(True)
        pass_s(away_s)
        island.drop_packets(False)

        assert_back(site, "new")
        assert ["running", "waiting"][: len(held)] == [result.get(timeout=BACK_S) for result in held]
        assert (1 if busy else 0) == site.count("start running")
        assert (3 if busy else 2) == site.count("ping")
