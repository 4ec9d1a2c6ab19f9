"""The engine and job managers that run stock eventmq, without sockets or real time."""

from __future__ import annotations

from pathlib import Path

import pytest

from emq_compat.broker.records import Dispatch, Send
from emq_compat.message import Headers, Publish, new_id
from emq_compat.protocol.commands import Heartbeat, Hello, Inform, Kbye, Ready, Reply, Request
from tests.broker.bench import CLIENT, Bench, job

pytestmark = pytest.mark.unit


STOCK = b"8c56f987-304d-45f8-9a1d-71d953323e9b"


def stock_worker(b: Bench, credit: int = 1, identity: bytes = STOCK) -> list[Dispatch]:
    """A stock worker says INFORM, and READY for each free process."""
    readies = [(identity, Ready(msgid=new_id())) for _ in range(credit)]
    return b.handed((identity, Inform(msgid=new_id(), queues=((0, "q"),))), *readies)


def test_what_a_living_stock_worker_never_answers_is_handed_out_again() -> None:
    """What a killed child ran has no REPLY: stock_timeout, and the job's own limit, are waited for."""
    b = Bench(stock_timeout_s=60)
    (short,) = b.publish()
    (long,) = b.publish(timeout=100)
    assert [short, long] == [d.msgid for d in stock_worker(b, credit=2)]
    assert [] == [s for s in b.pass_time(50, STOCK) if isinstance(s, Dispatch)]
    b.turn(*[(STOCK, Ready(msgid=new_id())) for _ in range(5)])
    assert [short] == [s.msgid for s in b.pass_time(30, STOCK) if isinstance(s, Dispatch)]
    again = [s for s in b.pass_time(90, STOCK) if isinstance(s, Dispatch)]
    assert long in [d.msgid for d in again]


def test_what_a_stock_worker_held_at_a_restart_waits_for_its_reply(tmp_path: Path) -> None:
    """A broker that starts again gives a stock worker stock_timeout to answer, whatever its new name."""
    b = Bench(tmp_path, stock_timeout_s=60)
    answered, silent = b.publish(2)
    assert 2 == len(stock_worker(b, credit=2))
    b.restart()
    assert [] == b.worker(b"w.1", slots=2, credit=2)
    assert [] == [s for s in b.pass_time(50, b"w.1") if isinstance(s, Dispatch)]
    b.turn((b"anew", Reply(msgid="x", body=b'{"value": 1}', request_msgid=answered)))
    assert "SUCCESS" == b.state(answered)
    assert [silent] == [s.msgid for s in b.pass_time(30, b"w.1") if isinstance(s, Dispatch)]


def test_an_unknown_stock_worker_is_met_with_silence() -> None:
    """Any message would keep it from noticing, by silence, that it must say INFORM; ours are asked to."""
    b = Bench()
    beat = Heartbeat(msgid="h", timestamp=1.0)
    b.turn((STOCK, beat))
    assert [] == b.sent
    b.turn((b"name.0123456789ab", beat))
    assert [True] == [hello.about["inform"] for hello in b.commands(Hello)]


def test_a_stock_worker_is_not_lost_between_two_of_its_heartbeats() -> None:
    """A short dead_after is for our workers; a stock one beats every three seconds."""
    b = Bench(dead_after_s=1.0)
    stock_worker(b)
    b.pass_time(6)
    (msgid,) = b.publish()
    assert STOCK == b.engine.flights.by_msgid[msgid].worker


def test_nothing_is_handed_to_a_connection_that_is_gone() -> None:
    """Between the loss of a worker's connection and its return messages wait."""
    b = Bench()
    b.worker(b"w.1", credit=1)
    b.engine.connection_gone(b"w.1", b.now)
    (msgid,) = b.publish()
    assert [] == [s for s in b.sent if isinstance(s, Dispatch)]
    assert [msgid] == [d.msgid for d in b.handed((b"w.1", Heartbeat(msgid="h", timestamp=1.0)))]


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff\xfe",
        b"not JSON",
        b"[1]",
        b'["run", "DONE"]',
        b'["run", {"path": "m"}]',
        b'["run", {"path": "m", "callable": "f", "args": [' + b"[" * 300 + b"]" * 300 + b"]}]",
    ],
)
def test_what_would_break_a_stock_worker_is_put_aside(payload: bytes) -> None:
    """A payload that a stock worker can't read is a dead letter and a FAILURE; the next one goes out."""
    b = Bench()
    head = Headers(task_id="t-bad", task="x", guarantee=True)
    b.turn((CLIENT, Request(msgid="bad", queue="q", headers=head, payload=payload, header_text=b"id:t-bad")))
    (good,) = b.publish()
    assert [good] == [d.msgid for d in stock_worker(b)]
    assert "FAILURE" == b.state("bad")
    assert ["bad"] == [row.msgid for row in b.store.dead_letters(0, 10)]


@pytest.mark.parametrize(("headers", "said"), [({"timeout": 0}, ""), ({"limit_s": 0.2}, ",timeout:1")])
def test_a_stock_timeout_is_a_whole_number_of_seconds(headers: dict[str, float], said: str) -> None:
    """0 is eventmq's word for no timeout of its own; part of a second is rounded up."""
    b = Bench()
    b.publish(**headers)
    assert ["reply-requested" + said] == [d.header_text for d in stock_worker(b)]


def test_a_scheduler_that_leaves_is_forgotten() -> None:
    """No heartbeat is sent to a stock scheduler that said KBYE."""
    b = Bench()
    b.turn((CLIENT, Inform(msgid="i", queues=(), role="scheduler")))
    assert {CLIENT} == set(b.engine.fleet.schedulers)
    b.turn((CLIENT, Kbye(msgid="k")))
    assert {} == b.engine.fleet.schedulers


def test_a_reply_comes_from_the_last_try() -> None:
    """Who asked for the REPLY of a job that is tried again gets the last try's, under the msgid it knows."""
    b = Bench()
    (msgid,) = b.publish(reply_requested=True)
    (first,) = b.worker()
    again = Publish(queue="q", headers=Headers(reply_requested=True), payload=job())
    (second,) = b.reply(first, "RETRY", ready=1, follow_ups=(again,))
    assert [] == b.commands(Reply)
    b.reply(second)
    assert [msgid] == [reply.request_msgid for reply in b.commands(Reply)]


def test_who_asked_for_a_reply_is_told_that_none_can_come() -> None:
    """A job that expired, or whose worker was lost, is answered with an error."""
    b = Bench()
    (expired,) = b.publish(reply_requested=True, expires=b.wall + 1)
    b.turn(passed_s=2.0)
    b.worker()
    assert [expired] == [reply.request_msgid for reply in b.commands(Reply)]
    (lost,) = b.publish(reply_requested=True)
    assert lost in b.engine.flights.by_msgid
    replies = [s.command for s in b.pass_time(20) if isinstance(s, Send) and isinstance(s.command, Reply)]
    assert [lost] == [reply.request_msgid for reply in replies]
    assert b"WorkerLostError" in replies[0].body
