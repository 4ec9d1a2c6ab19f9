"""A broker for the tests of a module, and connections to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.broker_process import Broker
from tests.processes import Procs, unused_port


@pytest.fixture(scope="module")
def shared_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker in memory, the same for all tests of a module."""
    folder: Path = tmp_path_factory.mktemp("broker")
    procs = Procs(folder)
    broker = Broker(procs, unused_port, folder / "data")
    try:
        broker.start("--memory", "--dead-after", "2")
        yield broker
        broker.client.close()
    finally:
        procs.close()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """A function that makes a name of queues and exchanges this test's own."""
    own = f"{request.node.name}-{os.urandom(3).hex()}"
    return lambda text="": f"{own}.{text}"
