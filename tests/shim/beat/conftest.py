"""A broker's engine at noon for each test, by a clock that the test moves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.broker.bench import Bench
from tests.shim.beats import NOON, BrokerHere


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while Bench.opened:
        Bench.opened.pop().store.close()


@pytest.fixture
def broker() -> BrokerHere:
    here = BrokerHere()
    here.set_clock(NOON)
    return here
