"""What the cases share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cases.workflows import open_workflow_site
from tests.mixed_site import MixedSite, open_mixed_site
from tests.processes import Proc, Procs, wait_until
from tests.site import POOLS, Site

#: What doesn't depend on the pool: with one of them in `make test`, with all in full.
ANY_POOL = (POOLS[0], *(pytest.param(pool, marks=pytest.mark.long) for pool in POOLS[1:]))

#: Each pool with plain tasks, and the one for coroutines with such ones, too: pool, and what the names of its
#: tasks begin with.
POOLS_AND_KINDS = (
    *(pytest.param(pool, "", id=pool) for pool in POOLS),
    pytest.param("asyncio", "async_", id="coroutines"),
)

#: A fresh ping of a worker that is alive ends within this.
ALIVE_S = 2.0
#: A fresh ping ends within this after the broker's return.
BACK_S = 10.0


@pytest.fixture
def assert_alive(site: Site) -> Callable[[Proc], None]:
    """A function that asserts that a worker is the process it was, and runs a fresh ping in time."""
    pings = 0

    def alive(worker: Proc) -> None:
        nonlocal pings
        pings += 1
        mark = f"alive{pings}"
        assert worker.alive(), worker.tail()
        assert mark == site.tasks.ping.delay(mark).get(timeout=ALIVE_S)
        assert worker.alive(), worker.tail()

    return alive


def pass_s(seconds: float) -> None:
    """Let time pass, where a case is about time."""
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= until, seconds + 5, interval_s=0.02)


def assert_back(site: Site, mark: str) -> None:
    """Assert that fresh work is done in time, by the one consumer that there is."""
    assert mark == site.tasks.ping.delay(mark).get(timeout=BACK_S)
    wait_until(lambda: 1 == site.queue()["workers"], what="one consumer")
    assert 1 == len([row for row in site.client.ask("workers") if row["present"]])


@pytest.fixture(scope="module", params=[*ANY_POOL, pytest.param("redis", marks=pytest.mark.long)])
def flows(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with one worker of this pool, or one that puts its results into Redis."""
    folder = tmp_path_factory.mktemp(f"flows-{request.param}")
    pool, backend = request.param, ""
    if pool == "redis":
        pool, backend = "prefork", request.getfixturevalue("redis_url")
    with open_workflow_site(folder, pool, backend) as site:
        yield site


def assert_nothing_queued(flows: Site, for_s: float = 1.0) -> None:
    """Assert that soon no queue has a message of any kind, and that this stays so."""

    def counts() -> list[tuple[str, int]]:
        kinds = ("waiting", "delayed", "in_flight", "held")
        return [(row["name"], row[kind]) for row in flows.client.ask("queues") for kind in kinds if row[kind]]

    wait_until(lambda: [] == counts(), 10)
    published = flows.client.ask("stats")["published"]
    pass_s(for_s)
    assert [] == counts()
    assert published == flows.client.ask("stats")["published"]


@pytest.fixture
def mixed(
    request: pytest.FixtureRequest, tmp_path: Path, procs: Procs, free_port: Callable[[], int]
) -> Iterator[MixedSite]:
    """A project on the broker that the parameter names, ``genuine-redis`` say (tests/mixed_site.py)."""

    def amqp_url() -> str:
        return request.getfixturevalue("amqp_url")

    with open_mixed_site(request.param, tmp_path, procs, free_port, amqp_url) as made:
        yield made
