"""When a worker asks a broker for more, and for how many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from emq_compat.jobmanager import JobManager
from emq_compat.manager.placement import Placement
from emq_compat.pool.base import Pool
from tests.jobmanager.fake_upstream import FakeUpstream

pytestmark = pytest.mark.unit


class Busy:
    """A pool whose slots are all busy but some."""

    reserve_per_slot = 32

    def __init__(self, concurrency: int, idle: int = 0) -> None:
        self.concurrency = concurrency
        self._idle = idle

    def idle(self) -> int:
        return self._idle


@pytest.fixture
def manager(upstream: FakeUpstream) -> Iterator[JobManager]:
    made = JobManager("w", skip_signal=True, pool="threads", upstreams=(upstream,), allow=("operator.*",))
    yield made
    made._signals.close()


@pytest.mark.parametrize(
    ("idle", "reserve", "out", "asked"),
    [
        pytest.param(0, 32, 16, 16, id="half of the reserve is free"),
        pytest.param(0, 32, 17, 0, id="less than half of it is"),
        pytest.param(1, 3, 0, 4, id="a slot is idle, and nothing comes for it"),
        pytest.param(1, 3, 1, 0, id="a slot is idle, and one comes for it"),
        pytest.param(2, 0, 1, 1, id="two slots are idle, one comes"),
        pytest.param(0, 0, 5, 0, id="more comes than there is room for"),
    ],
)
def test_a_worker_asks_when_it_is_worthwhile(
    manager: JobManager, upstream: FakeUpstream, idle: int, reserve: int, out: int, asked: int
) -> None:
    """Half a reserve is worth a message of its own; an idle slot for which nothing comes is in any case."""
    manager._credit_out = {upstream: out}

    manager._give_credit(idle, reserve, 16, 0.0)

    assert asked == upstream.credit
    assert out + asked == manager._credit_out[upstream]


@pytest.mark.parametrize(
    ("runtime_s", "concurrency", "idle", "wanted"),
    [
        (0.0001, 2, 0, (0, 64, 32)),
        (0.0001, 2, 1, (1, 64, 32)),
        (0.009, 1, 0, (0, 2, 1)),
        (0.015, 1, 0, (0, 0, 1)),
        (0.015, 1, 1, (1, 0, 1)),
    ],
)
def test_what_a_worker_has_room_for(
    runtime_s: float, concurrency: int, idle: int, wanted: tuple[int, int, int]
) -> None:
    """One for each idle slot, and 20 ms of work behind each, of which half is worth a message."""
    placement = Placement(cast("Pool", cast("Any", Busy(concurrency, idle))))
    placement.closed = False
    for _ in range(3):
        placement.credit.note("t", runtime_s)

    assert wanted == placement.wanted(0.0)
