"""What a worker without a free slot holds in advance on RabbitMQ, and when it lets it go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from emq_compat.message import REQUEUED, Delivery, Outcome
from emq_compat.upstream.kombu_ahead import Ahead, per_slot
from tests.upstream.kombu_bench import DONE, Bench, Driven, id_of, key

#: Long enough for a message to be taken on a machine that is busy.
EXPIRES_S = 1.5


@pytest.mark.unit
@pytest.mark.parametrize(("multiplier", "held"), [(1, 0), (2, 1), (4, 3), (64, 3), (0, 3)])
def test_the_prefetch_multiplier_says_how_many(multiplier: int, held: int) -> None:
    """One of them is the slot's own, three at most are beyond it, and 0 means many."""
    assert held == per_slot(multiplier)


@pytest.mark.unit
def test_so_many_for_each_slot_and_a_hundred_in_all() -> None:
    """What may be held follows the slots up to a bound."""
    ahead = Ahead(3)
    rooms = []
    for slots in (0, 2, 1_000):
        ahead.resize(slots)
        rooms.append(ahead.room(1.0))
    assert [0, 6, 100] == rooms


@pytest.mark.unit
def test_what_was_let_go_is_not_taken_again_at_once() -> None:
    """For ten seconds nothing is held."""
    ahead = Ahead(3)
    ahead.resize(1)
    ahead.pause(100.0)
    assert (0, 0, 3) == (ahead.room(100.0), ahead.room(109.9), ahead.room(110.0))


@pytest.mark.unit
def test_nothing_is_taken_in_advance_while_slots_are_freed() -> None:
    """Where tasks are short it would only cost; a tenth of a second later it is taken."""
    ahead = Ahead(3)
    ahead.resize(1)
    ahead.rest(100.0)
    assert [(0, True), (3, False)] == [(ahead.room(now), ahead.rests(now)) for now in (100.05, 100.2)]
    ahead.pause(100.2)
    ahead.rest(105.0)
    assert (0, False) == (ahead.room(105.0), ahead.rests(105.0))


@pytest.mark.unit
def test_others_are_looked_for_every_second() -> None:
    """Not in every turn; and after ten minutes without a slot it is too long in any case."""
    ahead = Ahead(3)
    assert [True, False, True] == [ahead.has_to_look(now) for now in (10.0, 10.9, 11.0)]
    assert [False, True] == [ahead.is_too_long(now, 100.0) for now in (700.0, 701.0)]


@pytest.fixture
def amqp(amqp_url: str) -> Iterator[Bench]:
    made = Bench(amqp_url, ahead=3)
    yield made
    made.close()


def busy(bench: Bench) -> tuple[Driven, Delivery]:
    """Return a worker with one slot, in which t1 runs."""
    worker = bench.upstream().connected()
    worker.upstream.resize(1)
    bench.publish("t1")
    [one] = worker.take()
    worker.begin(one)
    return worker, one


def holds(worker: Driven, count: int) -> None:
    """Wait until a worker holds so many messages in advance."""
    worker.until(lambda: worker.upstream.stats()["waiting"] == count, what=f"{count} held messages")


@pytest.mark.integration
def test_what_expires_in_its_hands_is_delivered_all_the_same(amqp: Bench) -> None:
    """RabbitMQ would drop it without a word; three are held, a fourth stays in its queue."""
    worker, one = busy(amqp)
    amqp.publish("t2", "t3")
    amqp.publish("short", expires_s=EXPIRES_S)
    amqp.publish("t5")
    holds(worker, 3)
    assert worker.quiet(EXPIRES_S + 1.6)  # longer, too, than what is too much is kept
    worker.end(one)
    ended = []
    for _ in range(3):
        [more] = worker.take()
        ended.append(id_of(more))
        worker.end(more)
    worker.stop()
    assert (["t2", "t3", "short"], ["t5"]) == (ended, amqp.waiting())


@pytest.mark.integration
def test_what_is_held_goes_to_one_that_has_room(amqp: Bench) -> None:
    """Another consumer that finds nothing in the queue has it within a second or two."""
    worker, _ = busy(amqp)
    amqp.publish("t2", "t3")
    holds(worker, 2)
    other = amqp.upstream("other@here").connected()
    assert ["t2", "t3"] == [id_of(delivery) for delivery in other.take(2, timeout_s=10)]


@pytest.mark.integration
def test_what_is_held_goes_back_at_the_end_and_what_expired_is_concluded(amqp: Bench) -> None:
    """After a stop the queue has what can still run; the expired one is for the job manager to conclude."""
    worker, _ = busy(amqp)
    amqp.publish("short", expires_s=EXPIRES_S)
    amqp.publish("t3")
    holds(worker, 2)
    assert worker.quiet(EXPIRES_S)
    worker.upstream.leave()
    [expired] = worker.upstream.epilogues()
    assert "short" == id_of(expired)
    worker.upstream.reply(key(expired), DONE)
    worker.stop()
    assert ["t1", "t3"] == sorted(amqp.waiting())


@pytest.mark.integration
def test_what_expired_while_it_ran_does_not_vanish_on_its_way_back(amqp: Bench) -> None:
    """A late-acked task whose child was lost after its expiry comes again here, to end as REVOKED."""
    worker = amqp.upstream().connected()
    amqp.publish("t1", expires_s=EXPIRES_S)
    [one] = worker.take()
    worker.begin(one)
    assert worker.quiet(EXPIRES_S)
    worker.upstream.reply(key(one), Outcome(state=REQUEUED).encode())
    [again] = worker.take()
    assert "t1" == id_of(again)
    worker.end(again)


@pytest.mark.integration
@pytest.mark.parametrize("arguments", [{"x-max-priority": 9}, {"x-queue-type": "quorum"}])
def test_nothing_is_held_of_other_queues(amqp: Bench, arguments: dict[str, object]) -> None:
    """A queue with priorities keeps their order, and a quorum queue counts what comes back."""
    amqp.arguments = arguments
    if "x-queue-type" in arguments:
        amqp.settings = replace(amqp.settings, quorum=True)
    worker, _ = busy(amqp)
    amqp.publish("t2")
    assert worker.quiet(0.7)
    assert (1, 0) == (worker.upstream.stats()["held"], worker.upstream.stats()["waiting"])
