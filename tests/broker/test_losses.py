"""What becomes of tasks whose worker is lost, gives them back, or whose broker is started again."""

from __future__ import annotations

from pathlib import Path

import pytest

from emq_compat.broker.records import Dispatch
from emq_compat.message import Headers, new_id
from emq_compat.protocol.commands import Heartbeat, Hello
from tests.broker.bench import LATE, Bench, attempt_of, nack

pytestmark = pytest.mark.unit


def test_early_acked_task_of_a_lost_worker_ends_as_worker_lost() -> None:
    """acks_late=False: the task isn't run again, its result is WorkerLostError, it is in the dead letters."""
    b = Bench()
    (m,) = b.publish(task="early")
    b.worker(**LATE)
    b.pass_time(11)
    assert "FAILURE" == b.state(m)
    assert "WorkerLostError" in b.store.results(["t-" + m])["t-" + m].body.decode()
    assert [m] == [d.msgid for d in b.store.dead_letters(0, 10)]
    assert [] == b.worker(b"w2.1", **LATE)


def test_late_acked_task_of_a_lost_worker_is_handed_out_again_as_redelivered() -> None:
    """acks_late=True: another worker gets it, flagged redelivered, under a new attempt."""
    b = Bench()
    (m,) = b.publish(task="late")
    b.worker(**LATE)
    b.pass_time(11)
    (d,) = b.worker(b"w2.1", **LATE)
    assert (m, 2, True) == (d.msgid, attempt_of(d), Headers.decode(d.header_text).redelivered)


def test_a_worker_whose_connection_is_gone_is_lost_after_two_seconds() -> None:
    """dead_after is 10 s, and 2 s once the connection is gone."""
    b = Bench()
    b.publish(task="late")
    b.worker(**LATE)
    b.engine.connection_gone(b"w.1", b.now)
    b.pass_time(2.5)
    assert b"w.1" not in b.engine.fleet.workers
    assert 1 == b.engine.queues.by_name["q"].waiting


def test_a_heartbeat_keeps_a_worker() -> None:
    """A worker that is heard holds its tasks for as long as it likes."""
    b = Bench()
    b.publish(task="late")
    b.worker(**LATE)
    b.pass_time(100, b"w.1")
    assert 1 == len(b.engine.flights.by_msgid)


def test_a_paused_broker_condemns_nobody() -> None:
    """After a stop of the broker of a minute a worker has time to be heard."""
    b = Bench()
    b.publish(task="late")
    b.worker(**LATE)
    b.turn(passed_s=60)
    b.turn((b"w.1", Heartbeat(msgid=new_id(), timestamp=0.0)), passed_s=0.5)
    assert 1 == len(b.engine.flights.by_msgid)


def test_past_max_redeliveries_a_task_is_dead() -> None:
    """A task that loses its worker more often than allowed fails with WorkerLostError and is put aside."""
    b = Bench(max_redeliveries=2)
    (m,) = b.publish(task="late")
    for i in range(3):
        assert 1 == len(b.worker(b"w%d.1" % i, **LATE))
        b.pass_time(11)
    assert "FAILURE" == b.state(m)
    (dead,) = b.store.dead_letters(0, 10)
    assert (3, 3) == (dead.attempt, dead.losses)
    assert "lost 3 times" in dead.reason


def test_restarts_of_the_broker_count_nothing(tmp_path: Path) -> None:
    """50 kills of the broker with a task in flight dead-letter nothing, and the worker goes on with it."""
    b = Bench(tmp_path / "d")
    (m,) = b.publish(task="early")
    (d,) = b.worker(**LATE)
    for _ in range(50):
        b.restart()
        held = ((m, 1, True),)
        assert [] == b.worker(held=held, credit=0, **LATE)
    b.reply(d)
    assert "SUCCESS" == b.state(m)


def test_after_a_restart_nothing_moves_until_its_worker_is_back_or_lost(tmp_path: Path) -> None:
    """In flight stays in flight until INFORM or dead_after."""
    b = Bench(tmp_path / "d")
    b.publish(task="late")
    b.worker(**LATE)
    b.restart()
    assert [] == b.worker(b"other.1", **LATE)
    sent = b.pass_time(11, b"other.1")
    assert 1 == len([s for s in sent if isinstance(s, Dispatch)])


def test_what_never_arrived_is_handed_out_again_uncounted(tmp_path: Path) -> None:
    """A hand-out that the worker's INFORM doesn't list was lost on its way: also an early-acked one runs."""
    b = Bench(tmp_path / "d")
    (m,) = b.publish(task="early")
    b.worker(**LATE)
    b.restart()
    (d,) = b.worker(**LATE)
    assert (m, 2, False) == (d.msgid, attempt_of(d), Headers.decode(d.header_text).redelivered)


def test_a_reply_that_comes_before_the_inform_counts(tmp_path: Path) -> None:
    """After a restart a REPLY ends its hand-out though its worker is a stranger, which is asked to INFORM."""
    b = Bench(tmp_path / "d")
    (m,) = b.publish(task="early")
    (d,) = b.worker(**LATE)
    b.restart()
    b.reply(d)
    assert "SUCCESS" == b.state(m)
    assert True is b.commands(Hello)[0].about["inform"]


def test_a_nack_gives_it_to_another() -> None:
    """What never began goes to another worker under a new attempt, in its old place, uncounted."""
    b = Bench()
    first, second = b.publish(2)
    (d,) = b.worker()
    b.turn((d.identity, nack(d)))
    assert [first, second] == [x.msgid for x in b.worker(b"w2.1", slots=2, credit=2)]
    assert 0 == b.engine.desk.counters["lost"]


def test_requeued_counts_as_a_redelivery() -> None:
    """The state REQUEUED of a late-acked task puts it back, flagged."""
    b = Bench()
    b.publish(task="late")
    (d,) = b.worker(**LATE)
    (again,) = b.reply(d, "REQUEUED", ready=1)
    assert Headers.decode(again.header_text).redelivered


def test_requeued_by_an_early_acked_task_is_put_aside() -> None:
    """Reject(requeue=True) of a task that acknowledges early has nothing to put back: a dead letter."""
    b = Bench()
    b.publish(task="early")
    (d,) = b.worker()
    assert [] == list(b.reply(d, "REQUEUED", ready=1))
    (dead,) = b.engine.desk.journal.dead_letters(0, 10)
    assert "rejected by the task" == dead.reason


def test_returned_is_no_loss() -> None:
    """RETURNED (a worker that is shut down) puts a task back, flagged, however often that happens."""
    b = Bench(max_redeliveries=1)
    b.publish(task="late")
    (d,) = b.worker(**LATE)
    assert not Headers.decode(d.header_text).redelivered
    for _ in range(5):
        (d,) = b.reply(d, "RETURNED", ready=1)
        assert Headers.decode(d.header_text).redelivered
        assert 1 == d.header_text.count("redelivered")
    assert 0 == b.engine.desk.counters["lost"]
    assert 0 == b.engine.desk.counters["dead"]


def test_what_was_lost_waits_for_an_idle_slot() -> None:
    """From its second delivery on a task is nobody's reserve, and others go past it."""
    b = Bench()
    (lost,) = b.publish(task="late")
    b.worker(b"gone.1", **LATE)
    b.worker(b"w.1", ("q", "other"), credit=33, **LATE)
    b.publish(task="late", queue="other")
    [first] = [d for d in b.sent if isinstance(d, Dispatch)]
    b.pass_time(11, b"w.1")
    b.publish(task="late", queue="other")
    [second] = [d for d in b.sent if isinstance(d, Dispatch)]
    assert {first.msgid, second.msgid} == set(b.engine.flights.by_msgid)
    assert [] == b.reply(first)
    assert [lost] == [d.msgid for d in b.reply(second)]
