"""A started prefork pool, and the end of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from emq_compat.pool.base import PoolOptions, Work
from emq_compat.pool.prefork import PreforkPool
from tests.pool.drive import Driver
from tests.pool.work import SoftLimit, work

Prefork = Callable[..., Driver]


@pytest.fixture
def prefork() -> Iterator[Prefork]:
    """Starts a prefork pool and returns its driver once all children are idle."""
    pools: list[PreforkPool] = []

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
    names = [process.name() for process in psutil.Process().children()]
    assert [] == [name for name in names if name.startswith("emq-")], "zombies or processes left"
