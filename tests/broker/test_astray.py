"""Workers that counted as lost and come back: what still waits is theirs again."""

from __future__ import annotations

import pytest

from emq_compat.broker.records import Dispatch
from tests.broker.bench import LATE, Bench, answer

pytestmark = pytest.mark.unit


@pytest.fixture
def bench() -> Bench:
    return Bench()


def lose_one(b: Bench) -> tuple[str, Dispatch]:
    """Hand a late-acked task to a worker that then is silent for too long."""
    (msgid,) = b.publish(task="late")
    (given,) = b.worker(**LATE)
    b.pass_time(11)
    assert (1, 0) == (b.engine.queues.by_name["q"].waiting, len(b.engine.flights.by_msgid))
    return msgid, given


def test_a_worker_that_still_has_it_keeps_it(bench: Bench) -> None:
    """Listed in the INFORM, it is not handed out again, nor after a restart, and its outcome counts."""
    msgid, given = lose_one(bench)

    assert [] == bench.worker(slots=2, credit=2, held=((msgid, 1, True),), **LATE)

    assert [] == bench.worker(b"w2.1", credit=1, **LATE)
    assert 0 == bench.engine.queues.by_name["q"].waiting
    bench.restart()
    assert [] == bench.worker(slots=2, credit=2, held=((msgid, 1, True),), **LATE)
    bench.reply(given)
    assert "SUCCESS" == bench.state(msgid)
    assert {} == bench.engine.flights.by_msgid


def test_a_loss_that_was_none_is_not_counted(bench: Bench) -> None:
    """When its worker is really lost later, that is the first loss."""
    msgid, _ = lose_one(bench)
    bench.worker(held=((msgid, 1, True),), **LATE)

    bench.pass_time(11)

    (again,) = bench.worker(b"w2.1", **LATE)
    assert ",redelivered" in again.header_text
    assert 1 == bench.engine.flights.by_msgid[msgid].losses


def test_an_outcome_that_comes_late_counts_while_its_message_waits(bench: Bench) -> None:
    """The REPLY of a worker that has not said INFORM yet ends it: nobody runs it again."""
    msgid, given = lose_one(bench)

    bench.turn((given.identity, answer(given)))

    assert "SUCCESS" == bench.state(msgid)
    assert [] == bench.worker(b"w2.1", **LATE)


def test_what_another_worker_has_is_not_taken_from_it(bench: Bench) -> None:
    """Handed out again, the first holder's outcome is dropped."""
    msgid, given = lose_one(bench)
    (again,) = bench.worker(b"w2.1", **LATE)

    bench.worker(held=((msgid, 1, True),), **LATE)
    bench.reply(given, "FAILURE")

    assert bench.state(msgid) is None
    bench.reply(again)
    assert "SUCCESS" == bench.state(msgid)


def test_what_was_revoked_stays_so(bench: Bench) -> None:
    """A revoke while it waits holds against the outcome of its first holder."""
    msgid, given = lose_one(bench)
    bench.engine.withdrawals.revoke("t-" + msgid, bench.now, terminate=False, signal="SIGTERM")

    bench.worker(held=((msgid, 1, True),), **LATE)
    bench.reply(given)

    assert "REVOKED" == bench.state(msgid)


@pytest.mark.parametrize("set_aside", [False, True])
def test_it_is_found_wherever_it_waits(bench: Bench, set_aside: bool) -> None:
    """Among others in the queue, and set aside because no worker there has its task."""
    others = bench.publish(2, task="late", priority=9)
    msgid, given = None, None
    for given in bench.worker(slots=3, credit=3, **LATE):
        msgid = given.msgid
    assert others[-1] == msgid
    bench.publish(1, task="late")
    bench.pass_time(11)
    if set_aside:
        bench.worker(b"w3.1", credit=0, **LATE)
        assert [] == bench.worker(b"w2.1", tasks={"early": ""})
        assert 3 == len(bench.engine.queues.by_name["q"].blocked["late"])

    bench.worker(slots=1, credit=0, held=((msgid, 1, True),), **LATE)

    assert given is not None
    bench.reply(given)
    assert "SUCCESS" == bench.state(given.msgid)
    assert 2 == bench.engine.queues.by_name["q"].waiting


def test_nothing_is_remembered_of_what_is_gone(bench: Bench) -> None:
    """Handed out again or ended, a loss is forgotten."""
    lose_one(bench)
    assert 1 == len(bench.engine.flights.astray)
    (again,) = bench.worker(b"w2.1", **LATE)
    assert {} == bench.engine.flights.astray
    bench.reply(again)

    msgid, _ = lose_one(bench)
    bench.engine.withdrawals.revoke("t-" + msgid, bench.now, terminate=False, signal="SIGTERM")
    assert [] == bench.worker(b"w4.1", **LATE)
    assert {} == bench.engine.flights.astray


def test_a_purge_forgets_its_queue_s_losses(bench: Bench) -> None:
    """What was purged is not remembered as lost."""
    lose_one(bench)
    bench.engine.flights.forget_astray(bench.engine.queues.by_name["q"].id)
    assert {} == bench.engine.flights.astray
