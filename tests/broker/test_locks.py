"""Unique keys: who holds one, until when, and what becomes of a second message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emq_compat.broker.records import Dispatch
from emq_compat.message import Headers, Job, Publish, new_id
from emq_compat.protocol.commands import Ready, Reply, Request
from emq_compat.terms import DONE, ELAPSED, FAIL, FOLLOW, JOIN, REFUSE, STARTED, Once
from tests.broker.bench import CLIENT, Bench, hello, job

pytestmark = pytest.mark.unit


def bench(folder: Path | None = None, **options: Any) -> Bench:
    """A broker that knows the client for ours."""
    b = Bench(folder, **options)
    b.turn((CLIENT, hello()))
    return b


def once(mode: str = JOIN, seconds: float = 0.0, until: str = DONE, key: str = "k") -> str:
    return Once(key=key, seconds=seconds, until=until, mode=mode).encode()


def told(b: Bench) -> list[tuple[str, Any]]:
    """What publishers were told beside ACKs: (JOINED, the first one's id), (REFUSED, the error)."""
    found = []
    for reply in b.commands(Reply):
        document = json.loads(reply.body)
        state = reply.headers.state
        found.append((state, document["value"] if state == "JOINED" else document["error"]))
    return found


def total(b: Bench) -> int:
    return sum(queue.total + queue.held for queue in b.engine.queues.by_name.values())


def assert_free(b: Bench) -> None:
    assert [] == b.store.all_locks("", 9)
    assert ({}, 0) == (b.engine.endings.locks.followed, total(b))


def test_a_second_publish_is_told_the_first_ones_id() -> None:
    """While the first waits or runs nothing is stored for a second; afterwards the key is free."""
    b = bench()
    (first,) = b.publish(once=once())
    assert {first} == b.acked()
    for _ in range(2):
        b.publish(once=once())
        assert [("JOINED", "t-" + first)] == told(b)
        assert set() == b.acked()
    (d,) = b.worker()
    b.publish(once=once())
    assert [("JOINED", "t-" + first)] == told(b)
    b.reply(d)
    (again,) = b.publish(once=once())
    assert ({again}, 1) == (b.acked(), total(b))


def test_two_in_one_batch() -> None:
    """Of several in one batch the first is taken, of each key."""
    b = bench()
    sent = b.publish(3, once=once())
    assert [("JOINED", "t-" + sent[0])] * 2 == told(b)
    b.publish(once=once(key="other"))
    assert 2 == total(b)


def test_a_publish_that_is_said_again_is_the_first() -> None:
    """The same msgid again, after a cut, is acknowledged as ever."""
    b = bench()
    head = Headers(guarantee=True, task_id="t", once=once())
    request = Request(msgid="m", queue="q", headers=head, payload=job(), header_text=head.encode().encode())
    for _ in range(2):
        b.turn((CLIENT, request))
        assert ({"m"}, []) == (b.acked(), told(b))
    assert 1 == total(b)


def test_a_refusal_names_the_first() -> None:
    """A second publish can be refused instead: the error has the first one's id and the key."""
    b = bench()
    (first,) = b.publish(task="shop.sync", once=once(REFUSE))
    b.publish(task="shop.sync", once=once(REFUSE))
    [(state, error)] = told(b)
    assert ("REFUSED", "DuplicateTask", "t-" + first) == (state, error["type"], error["first"])
    assert "shop.sync" in error["message"]
    assert "'k'" in error["message"]
    assert 1 == total(b)


def test_a_retry_holds_on(tmp_path: Path) -> None:
    """Between two tries the key is held, over a restart, too; the last one's end frees it."""
    b = bench(tmp_path / "data")
    (first,) = b.publish(once=once(), task="t")
    (d,) = b.worker(tasks={"t": ""})
    head = Headers(task_id="t-" + first, task="t", once=once(), eta=b.wall + 60, retries=1)
    b.reply(d, "RETRY", follow_ups=(Publish(queue="q", headers=head, payload=job()),))
    b.restart()
    b.turn((CLIENT, hello()))
    b.publish(once=once())
    assert [("JOINED", "t-" + first)] == told(b)
    b.worker(credit=2, tasks={"t": ""})
    (again,) = [d for d in b.pass_time(61, b"w.1") if isinstance(d, Dispatch)]
    b.reply(again)
    assert_free(b)


@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE", "IGNORED", "REJECTED", "REVOKED"])
def test_every_end_frees_the_key(state: str) -> None:
    """Whatever the task came to."""
    b = bench()
    b.publish(once=once())
    (d,) = b.worker()
    b.reply(d, state)
    assert_free(b)


def test_a_revoke_frees_the_key_at_once() -> None:
    """A unique task that is revoked while it waits, or waits for its time, ends in that moment."""
    b = bench()
    for more in ({}, {"eta": b.wall + 60}):
        (first,) = b.publish(once=once(), **more)
        revoke = b.engine.withdrawals.revoke
        assert "revoked" == revoke("t-" + first, b.now, terminate=False, signal="SIGTERM")
        b.turn()
        assert "REVOKED" == b.state(first)
        assert_free(b)


def test_a_purge_frees_keys() -> None:
    """What is purged holds no key; a unique task ends as REVOKED then."""
    b = bench()
    (first,) = b.publish(once=once())
    b.engine.withdrawals.purge(b.engine.queues.by_name["q"], b.now)
    b.turn()
    assert "REVOKED" == b.state(first)
    assert_free(b)


def test_what_has_expired_holds_nothing() -> None:
    """A message that won't run any more keeps no other from being taken; one that runs still does."""
    b = bench()
    b.publish(once=once(), expires=b.wall + 5)
    b.turn(passed_s=6)
    (second,) = b.publish(once=once(), expires=b.wall + 5)
    assert {second} == b.acked()
    handed = b.worker()
    assert [second] == [d.msgid for d in handed]
    b.turn(passed_s=6)
    b.publish(once=once())
    assert [("JOINED", "t-" + second)] == told(b)
    b.reply(handed[0])
    assert_free(b)


@pytest.mark.parametrize("late", [False, True])
def test_a_lost_worker(late: bool) -> None:
    """A lost task frees its key with its end; one that is handed out again holds on."""
    b = bench()
    (first,) = b.publish(once=once(), task="t")
    b.worker(tasks={"t": "l" if late else ""})
    b.pass_time(12)
    assert late == bool(b.store.locks(["k"]))
    if not late:
        assert ["WorkerLostError" in letter.reason for letter in b.store.dead_letters(0, 9)]
        assert_free(b)
        return
    (d,) = b.worker(b"w.2", tasks={"t": "l"})
    assert first == d.msgid
    b.reply(d)
    assert_free(b)


def test_a_key_is_held_for_a_time_at_most() -> None:
    """After its seconds a second one is taken though the first still waits; the first's end frees it not."""
    b = bench()
    (first,) = b.publish(once=once(seconds=60))
    b.turn(passed_s=59)
    b.publish(once=once(seconds=60))
    assert [("JOINED", "t-" + first)] == told(b)
    b.turn(passed_s=2)
    (second,) = b.publish(once=once(seconds=60))
    assert {second} == b.acked()
    (d,) = b.worker()
    b.reply(d)
    b.publish(once=once())
    assert [("JOINED", "t-" + second)] == told(b)


def test_the_time_counts_from_the_eta() -> None:
    """A delayed task holds its key until it is due and for its seconds from then on."""
    b = bench()
    b.publish(once=once(seconds=60), eta=b.wall + 100)
    b.turn(passed_s=150)
    b.publish(once=once())
    assert "JOINED" == told(b)[0][0]
    b.turn(passed_s=11)
    assert b.publish(once=once()) == list(b.acked())


def test_until_it_is_handed_out() -> None:
    """With ``started`` a second one is taken as soon as the first runs."""
    b = bench()
    (first,) = b.publish(once=once(until=STARTED))
    b.publish(once=once(until=STARTED))
    assert [("JOINED", "t-" + first)] == told(b)
    b.worker()
    (second,) = b.publish(once=once(until=STARTED))
    b.publish(once=once(until=STARTED))
    assert [("JOINED", "t-" + second)] == told(b)


def test_until_the_time_has_elapsed(tmp_path: Path) -> None:
    """With ``elapsed`` the key is held for its time, whatever becomes of the first, over a restart, too."""
    b = bench(tmp_path / "data")
    text = once(seconds=60, until=ELAPSED)
    (first,) = b.publish(once=text)
    b.reply(b.worker()[0])
    b.restart()
    b.turn((CLIENT, hello()))
    b.publish(once=text)
    assert [("JOINED", "t-" + first)] == told(b)
    b.pass_time(61)
    assert [] == b.store.all_locks("", 9)
    (second,) = b.publish(once=text)
    assert {second} == b.acked()


def test_a_stock_client_is_only_acknowledged() -> None:
    """Who doesn't say that it is ours could not read the answer."""
    b = Bench()
    b.publish(2, once=once())
    assert 2 == len(b.acked())
    assert 1 == total(b)


def test_a_full_queue_and_a_second_one() -> None:
    """A second one is told of the first though the queue is full; a refused one holds no key."""
    b = bench(queue_limit=1)
    (first,) = b.publish(once=once())
    b.publish(once=once())
    assert [("JOINED", "t-" + first)] == told(b)
    b.publish(once=once(key="other"))
    assert "QueueFull" == told(b)[0][1]["type"]
    assert ["k"] == [row.key for row in b.store.all_locks("", 9)]


def test_a_schedule_skips_what_is_still_there() -> None:
    """What the broker itself publishes in mode ``join`` is dropped: nobody knows its id."""
    b = bench()
    b.publish(once=once())
    b.engine.publish(Publish(queue="q", headers=Headers(task_id="x", once=once()), payload=job()), b.now)
    b.turn()
    assert 1 == total(b)


# Parts of workflows


def chord(b: Bench, *parts: Headers, body: str = "body") -> list[Dispatch]:
    """Publish a chord with these parts; returns what is handed out."""
    heads = [Headers(task_id=body, awaits=f"c:{len(parts)}"), *parts]
    requests = [
        Request(
            msgid=new_id(),
            queue="q",
            headers=head,
            payload=Job(path="p", callable="f").encode(),
            header_text=head.encode().encode(),
        )
        for head in heads
    ]
    return b.handed(*((CLIENT, request) for request in requests))


@pytest.mark.parametrize("mode", [JOIN, FOLLOW])
def test_a_chords_part_ends_as_the_first_does(mode: str, tmp_path: Path) -> None:
    """A part that is a second one waits on disk for the first one's end and has its value."""
    b = bench(tmp_path / "data")
    (first,) = b.publish(once=once())
    handed = chord(b, *(Headers(task_id=f"p{i}", chord=f"c:{i}", once=once(mode)) for i in range(2)))
    b.publish(once=once(FOLLOW), task_id="own")
    assert 4 == b.engine.queues.by_name["q"].held
    b.restart()
    assert {"t-" + first: 3} == b.engine.endings.locks.followed
    handed = b.worker(slots=9, credit=9)
    assert [first] == [d.msgid for d in handed]
    (body,) = b.reply(handed[0], body=b'{"value":5,"state":"SUCCESS"}')
    assert [[5, 5]] == json.loads(body.payload)[1]["args"]
    stored = b.store.results(["p0", "p1", "own"])
    assert {"p0", "p1", "own"} == {one for one, row in stored.items() if row.state == "SUCCESS"}
    b.reply(body)
    assert_free(b)


def test_a_chords_part_fails_with_the_first() -> None:
    """The chord's error names the part."""
    b = bench()
    b.publish(once=once())
    (d,) = b.worker()
    chord(b, Headers(task_id="p0", chord="c:0", once=once()))
    b.reply(d, "FAILURE", body=b'{"state":"FAILURE","error":{"type":"KeyError","message":"x"}}')
    body = json.loads(b.store.results(["body"])["body"].body)
    assert "Dependency p0 raised KeyError('x')" == body["error"]["message"]
    assert_free(b)


def test_a_part_that_may_not_join_fails_at_once() -> None:
    """Mode ``fail``: a second one ends as DuplicateTask, and its chord with it; nothing hangs."""
    b = bench()
    (first,) = b.publish(once=once())
    chord(b, Headers(task_id="p0", chord="c:0", once=once(FAIL)))
    error = json.loads(b.store.results(["p0"])["p0"].body)["error"]
    assert "DuplicateTask" == error["type"]
    assert "t-" + first in error["message"]
    assert "FAILURE" == b.store.results(["body"])["body"].state


def test_what_follows_a_second_one_is_published() -> None:
    """A second one with an epilogue is handed out as that, with the first one's reply."""
    b = bench()
    b.publish(once=once())
    payload = Job(path="p", callable="f", args=[7]).encode()
    head = Headers(task_id="x", task="t", epilogue=True, once=once(FOLLOW))
    text = head.encode().encode()
    b.turn((CLIENT, Request(msgid="m", queue="q", headers=head, payload=payload, header_text=text)))
    (d,) = b.worker(slots=2, credit=2)
    (epilogue,) = b.reply(d, body=b'{"value":5,"state":"SUCCESS"}')
    word, options, reply = json.loads(epilogue.payload)
    assert ("epilogue", [7], 5) == (word, options["args"], reply["value"])


def test_a_follower_can_be_revoked_and_purged() -> None:
    """What waits for the first one's end is ended by a revoke or a purge; the first is left alone."""
    b = bench()
    (first,) = b.publish(once=once())
    for i in range(3):
        b.publish(once=once(FOLLOW), task_id=f"f{i}", queue="q2")
    b.engine.withdrawals.revoke("f0", b.now, terminate=False, signal="SIGTERM")
    b.turn()
    assert "REVOKED" == b.store.results(["f0"])["f0"].state
    assert 2 == b.engine.withdrawals.purge(b.engine.queues.by_name["q2"], b.now)
    b.turn()
    assert {"f1", "f2"} == set(b.store.results(["f1", "f2"]))
    (d,) = b.worker()
    assert first == d.msgid
    b.reply(d)
    assert_free(b)


def test_who_follows_a_replaced_task_waits_for_what_replaced_it() -> None:
    """A task that is replaced goes on under its id in another message: that one's end counts."""
    b = bench()
    (first,) = b.publish(once=once())
    b.publish(once=once(FOLLOW), task_id="x")
    (d,) = b.worker(slots=2, credit=2)
    other = Publish(queue="q", headers=Headers(task_id="t-" + first, task="other"), payload=job())
    (replacement,) = b.reply(d, "IGNORED", follow_ups=(other,))
    assert {} == b.store.results(["x"])
    b.reply(replacement)
    assert "SUCCESS" == b.store.results(["x"])["x"].state
    assert_free(b)


def test_a_second_one_of_a_first_that_has_ended() -> None:
    """With ``elapsed``, a part gets the result that the first has; where none is kept it fails."""
    b = bench()
    text = once(FOLLOW, 60, ELAPSED)
    b.publish(once=text)
    b.reply(b.worker()[0])
    b.publish(once=text, task_id="x")
    assert "SUCCESS" == b.store.results(["x"])["x"].state
    b.publish(once=once(FOLLOW, 60, ELAPSED, "quiet"), no_result=True)
    (d,) = b.handed((b"w.1", Ready(msgid=new_id(), count=1)))
    b.reply(d)
    b.publish(once=once(FOLLOW, 60, ELAPSED, "quiet"), task_id="y")
    assert "FAILURE" == b.store.results(["y"])["y"].state


def test_a_key_whose_holder_is_gone_is_taken_over() -> None:
    """A part never waits for a message that is not there."""
    b = bench()
    (first,) = b.publish(once=once())
    (row,) = b.store.marked_as("t-" + first)
    b.engine.queues.by_name["q"].withdraw(row.message.key, 0)
    b.store.finish(row.message.key, first)
    b.publish(once=once(FOLLOW), task_id="x")
    (d,) = b.worker()
    b.reply(d)
    assert "SUCCESS" == b.store.results(["x"])["x"].state
    assert_free(b)
