"""An upstream that a test speaks for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.jobmanager.fake_upstream import FakeUpstream


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    made = FakeUpstream()
    yield made
    made.close()
