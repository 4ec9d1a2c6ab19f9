"""Remote control and events over emq://: a Celery worker and one of ours, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker_process import Broker
from tests.genuine.control_contract import *  # noqa: F403 - the tests
from tests.processes import Procs, unused_port

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    folder: Path = tmp_path_factory.mktemp("broker")
    procs = Procs(folder)
    broker = Broker(procs, unused_port, folder / "data")
    try:
        broker.start()
        broker.client.close()
        yield broker.url, broker.url
    finally:
        procs.close()
