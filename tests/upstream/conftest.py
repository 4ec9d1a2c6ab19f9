"""An upstream of eMQP, and the broker that it is connected to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from emq_compat.upstream.emq import EmqUpstream
from tests.upstream.fake_broker import QUICK, FakeBroker


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    broker = FakeBroker()
    yield broker
    broker.close()


@pytest.fixture
def upstream(broker: FakeBroker) -> Iterator[EmqUpstream]:
    upstream = EmqUpstream(
        name="w1@höst",
        addresses=[broker.address],
        queues=[(10, "celery")],
        slots=2,
        tasks={"t": "l"},
        timings=QUICK,
    )
    upstream.start()
    yield upstream
    upstream.stop(0.0)
