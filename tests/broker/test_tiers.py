"""Which of a worker's queues has its turn."""

from __future__ import annotations

import pytest

from emq_compat.broker.tiers import Tier
from emq_compat.protocol.commands import Capabilities, Inform, Ready
from tests.broker.bench import Bench

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("count", [2, 5, 100])
def test_queues_of_one_weight_take_turns(count: int) -> None:
    """A worker that asks for one message after the other gets one of each queue, however many there are."""
    b = Bench()
    names = [f"q{i}" for i in range(count)]
    for name in names:
        b.publish(2, queue=name)
    inform = Inform(msgid="i", queues=tuple((0, name) for name in names), capabilities=Capabilities(slots=1))
    b.turn((b"w.1", inform))
    got = []
    for _ in range(2 * count):
        [one] = b.handed((b"w.1", Ready(msgid="r", count=1)))
        got.append(one.queue)
    assert names * 2 == got


@pytest.mark.parametrize("count", [3, 100])
def test_the_turn_goes_past_queues_that_have_nothing(count: int) -> None:
    """Of the queues that have something comes first which stands next behind the one served last."""
    b = Bench()
    queues = [b.engine.queues.get(f"q{i}") for i in range(count)]
    tier = Tier(queues)
    last = queues[-1]
    assert [queues[0], last] == list(tier.in_turn({last, queues[0]}))
    tier.served(queues[0])
    assert [last, queues[0]] == list(tier.in_turn({queues[0], last}))
    tier.served(last)
    assert [queues[0], last] == list(tier.in_turn({last, queues[0]}))
    assert [] == list(tier.in_turn(set()))


def test_a_queue_that_is_named_twice_has_one_turn() -> None:
    """Naming a queue twice doesn't give it two turns."""
    b = Bench()
    queue, other = b.engine.queues.get("a"), b.engine.queues.get("b")
    assert [queue, other] == Tier([queue, other, queue]).queues
