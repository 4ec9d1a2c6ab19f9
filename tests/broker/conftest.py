"""What the tests of the broker share: the journals of their benches are closed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.broker.bench import Bench


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    Bench.close_all()
