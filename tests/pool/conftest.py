"""Started pools, and the end of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from emq_compat.pool.base import PoolOptions, Work
from emq_compat.pool.factory import make_pool
from emq_compat.pool.prefork import PreforkPool
from tests.pool.drive import Driver, pool_processes
from tests.pool.work import SoftLimit, work

POOLS = ("prefork", "threads", "solo", "asyncio")
Prefork = Callable[..., Driver]
Run = Callable[..., None]


@pytest.fixture
def prefork() -> Iterator[Prefork]:
    """Starts a prefork pool and returns its driver once all children are idle."""
    pools: list[PreforkPool] = []
    before = pool_processes()  # other tests may have orphaned zombies

    def start(concurrency: int = 1, *, work: Work = work, idle: bool = True, **options: Any) -> Driver:
        options.setdefault("soft_limit_exceeded", SoftLimit)
        # Threads and ZeroMQ contexts that other tests have left in this process hold no lock of ours.
        options.setdefault("start_method", "zygote")
        pool = PreforkPool(PoolOptions(concurrency=concurrency, **options), work)
        pool.start()
        pools.append(pool)
        driver = Driver(pool)
        if idle:
            driver.idle(concurrency)
        return driver

    yield start
    for pool in pools:
        pool.stop(5)
    assert set() == pool_processes() - before, "zombies or processes left"


@pytest.fixture(params=POOLS)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test's body as the loop of a started pool, and stops the pool."""

    def run_in(body: Callable[[Driver], Any], concurrency: int = 1, **options: Any) -> None:
        options.setdefault("soft_limit_exceeded", SoftLimit)
        if request.param == "prefork":
            # Threads and ZeroMQ contexts that other tests have left in this process hold no lock of ours.
            options.setdefault("start_method", "zygote")
        pool = make_pool(request.param, PoolOptions(concurrency=concurrency, **options), work)
        pool.start()

        def loop() -> int:
            driver = Driver(pool)
            stopped = False
            try:
                driver.idle(pool.concurrency)
                stopped = bool(body(driver))
            finally:
                if not stopped:
                    pool.stop(5)
            return 7

        assert pool.run_loop(loop) == 7

    run_in.pool = request.param  # type: ignore[attr-defined]
    return run_in


@pytest.fixture
def several(run: Run) -> Run:
    """``run`` for pools whose slots can be added and removed, and hold some in reserve."""
    if run.pool in ("solo", "asyncio"):  # type: ignore[attr-defined]
        pytest.skip("this pool has one slot, or its slots hold no reserve")
    return run


@pytest.fixture
def reserving(run: Run) -> Run:
    """``run`` for pools whose slots hold some in reserve."""
    if run.pool == "asyncio":  # type: ignore[attr-defined]
        pytest.skip("no slot of this pool holds a reserve")
    return run
