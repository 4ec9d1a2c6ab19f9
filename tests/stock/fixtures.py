"""Fixtures for stock eventmq: `stock_eventmq` is the environment, `stock` starts its programs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.environments import EnvironmentMissing, missing
from tests.processes import Procs
from tests.stock.peers import Stock, StockEnvironment, stock_environment


@pytest.fixture(scope="session")
def stock_eventmq() -> StockEnvironment:
    """A virtual environment with stock eventmq 0.3.13, made once and cached below the project's folder."""
    try:
        return stock_environment()
    except EnvironmentMissing as error:
        missing("stock eventmq", error)


@pytest.fixture
def stock(stock_eventmq: StockEnvironment, procs: Procs, tmp_path: Path) -> Iterator[Stock]:
    """Starts stock routers, job managers, schedulers and clients; they end with the test."""
    made = Stock(stock_eventmq, procs, tmp_path)
    yield made
    made.close()
