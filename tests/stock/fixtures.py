"""Fixtures for stock eventmq: `stock_eventmq` is the environment, `stock` starts its programs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Procs
from tests.stock.peers import Stock, StockEnvironment, StockMissing, stock_environment


@pytest.fixture(scope="session")
def stock_eventmq() -> StockEnvironment:
    """A virtual environment with stock eventmq 0.3.13, made once and cached below the project's folder."""
    try:
        return stock_environment()
    except StockMissing as error:
        missing = f"no environment of stock eventmq: {error}"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)


@pytest.fixture
def stock(stock_eventmq: StockEnvironment, procs: Procs, tmp_path: Path) -> Iterator[Stock]:
    """Starts stock routers, job managers, schedulers and clients; they end with the test."""
    made = Stock(stock_eventmq, procs, tmp_path)
    yield made
    made.close()
