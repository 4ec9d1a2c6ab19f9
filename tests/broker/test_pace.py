"""A worker's rate limits: the broker gives it no more of a task, and other tasks and workers pass by."""

from __future__ import annotations

import pytest

from emq_compat.message import new_id
from emq_compat.protocol.commands import Ready
from tests.broker.bench import Bench, nack

pytestmark = pytest.mark.unit


def ready(count: int = 1) -> Ready:
    return Ready(msgid=new_id(), count=count)


def limited(b: Bench, identity: bytes = b"w.1", credit: int = 10, interval_s: float = 1.0) -> None:
    tasks = {"slow": "", "free": ""}
    b.worker(identity, slots=10, credit=credit, tasks=tasks, intervals={"slow": interval_s})


def test_a_limited_task_holds_back_only_itself() -> None:
    """One of the limited task per interval; what stands behind the rest of them goes at once."""
    b = Bench()
    slow, free = b.publish(3, task="slow"), b.publish(2, task="free")
    limited(b)
    assert {slow[0], *free} == {d.msgid for d in b.sent if hasattr(d, "payload")}
    assert b.now.mono + 0.95 == pytest.approx(b.engine.next_deadline(b.now), abs=0.01)
    assert [] == b.handed(passed_s=0.5)
    assert [slow[1]] == [d.msgid for d in b.handed(passed_s=0.5)]
    assert [slow[2]] == [d.msgid for d in b.handed(passed_s=1.0)]


def test_each_worker_has_a_limit_of_its_own() -> None:
    """What is over one worker's limit stays in the queue for another."""
    b = Bench()
    b.publish(4, task="slow")
    limited(b)
    limited(b, b"w.2")
    b.worker(b"w.3", slots=1, tasks={"slow": ""})
    assert 1 == b.engine.queues.by_name["q"].waiting


def test_set_aside_messages_keep_their_place() -> None:
    """When the next may go, a younger one of a higher priority is first, then the oldest."""
    b = Bench()
    first, second = b.publish(2, task="slow", priority=2)
    limited(b)
    (high,) = b.publish(task="slow", priority=9)
    order = [d.msgid for _ in range(3) for d in b.handed(passed_s=1.0)]
    assert [high, second] == order
    assert first not in order


def test_a_free_task_of_higher_priority_goes_before_a_set_aside_one() -> None:
    """Being set aside puts no message before a more urgent one."""
    b = Bench()
    b.publish(2, task="slow")
    limited(b, credit=1)
    (free,) = b.publish(task="free", priority=5)
    assert [free] == [d.msgid for d in b.handed((b"w.1", ready()), passed_s=2.0)]


def test_a_returned_message_is_not_given_again_at_once() -> None:
    """A worker that gives one back gets the next only when its limit allows it."""
    b = Bench()
    b.publish(1, task="slow")
    limited(b, credit=1)
    (d,) = [d for d in b.sent if hasattr(d, "payload")]
    assert [] == b.handed((b"w.1", nack(d)), (b"w.1", ready()))  # type: ignore[arg-type]
    assert 1 == len(b.handed(passed_s=1.0))


def test_a_limit_goes_on_after_another_inform() -> None:
    """The same limit told again is no new start; another one is."""
    b = Bench()
    b.publish(3, task="slow")
    limited(b)
    limited(b)
    assert 3 == b.engine.queues.by_name["q"].waiting  # it holds none of them: what it had is given back
    limited(b, interval_s=0.5)
    assert 2 == b.engine.queues.by_name["q"].waiting


def test_a_fast_rate_is_met_by_a_slow_loop() -> None:
    """Turns that come late don't lower the rate: a hundred a second are a hundred in a second."""
    b = Bench()
    b.publish(500, task="slow")
    limited(b, credit=500, interval_s=0.01)
    given = sum(len(b.handed(passed_s=0.03)) for _ in range(33))
    assert 95 <= given <= 105
