"""The engine's promises, without sockets, threads or real time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from emq_compat.broker.records import Dispatch, Send
from emq_compat.message import Headers, Publish, new_id
from emq_compat.protocol.commands import Ask, Heartbeat, Inform, Kbye, Ready, Reply
from tests.broker.bench import CLIENT, LATE, Bench, answer, hello, job

pytestmark = pytest.mark.unit


def test_a_publish_is_acknowledged_once_it_is_stored() -> None:
    """The ACK of a guaranteed publish leaves in the turn whose commit stored it."""
    b = Bench()
    (msgid,) = b.publish()
    assert {msgid} == b.acked()
    b.restart()
    assert 1 == b.engine.queues.by_name["q"].waiting


def test_the_same_msgid_twice_is_one_message() -> None:
    """A publish sent again, in the same turn, later or after it ran, is acknowledged and not run again."""
    b = Bench()
    head = Headers(guarantee=True)
    from emq_compat.protocol.commands import Request

    r = Request(msgid="m1", queue="q", headers=head, payload=job(), header_text=b"guarantee")
    b.turn((CLIENT, r), (CLIENT, r))
    b.turn((CLIENT, r))
    assert {"m1"} == b.acked()
    (d,) = b.worker(credit=5)
    b.reply(d)
    assert [] == b.handed((CLIENT, r))
    assert {"m1"} == b.acked()


def test_priority_then_age() -> None:
    """Higher priorities go first; within one, the oldest."""
    b = Bench()
    low = b.publish(2, priority=1)
    high = b.publish(2, priority=9)
    assert [*high, *low] == [d.msgid for d in b.worker(slots=4, credit=4)]


def test_credit_bounds_what_a_worker_gets() -> None:
    """No more is handed out than READY asked for."""
    b = Bench()
    b.publish(10)
    assert 3 == len(b.worker(slots=2, credit=3))


def test_an_idle_worker_never_waits_behind_a_busy_ones_reserve() -> None:
    """Messages go to idle slots of any worker before they go to a reserve."""
    b = Bench()
    b.worker(b"a.1", slots=1, credit=33)
    b.worker(b"b.1", slots=1, credit=33)
    b.publish(2)
    assert {b"a.1", b"b.1"} == {d.identity for d in b.sent if isinstance(d, Dispatch)}


def test_equally_idle_workers_take_turns() -> None:
    """Of idle workers that gets the next message which has waited longest for one, for a turn of 0.2 s."""
    b = Bench()
    b.worker(b"a.1")
    b.worker(b"b.1")
    got = []
    for passed_s in (0.0, 0.09, 0.09, 0.09, 0.15, 0.09, 1.0, 1.0):
        b.turn(passed_s=passed_s)
        b.publish()
        [one] = [d for d in b.sent if isinstance(d, Dispatch)]
        got.append(one.identity)
        b.reply(one, ready=1)
    assert [b"a.1", b"a.1", b"a.1", b"b.1", b"b.1", b"a.1", b"b.1", b"a.1"] == got


def test_all_idle_workers_are_used_before_a_reserve_whoever_has_its_turn() -> None:
    """A turn gives no worker a message beside the one that it runs while another worker is idle."""
    b = Bench()
    names = [b"a.1", b"b.1", b"c.1"]
    for name in names:
        b.worker(name, credit=33)
    b.publish()
    [first] = [d for d in b.sent if isinstance(d, Dispatch)]
    b.reply(first, ready=1)
    b.publish(3)
    assert names == sorted(d.identity for d in b.sent if isinstance(d, Dispatch))


def test_a_worker_that_is_gone_is_given_nothing_until_it_is_heard() -> None:
    """What waits goes to a worker whose connection was lost once it says something again, and not before."""
    b = Bench()
    b.worker(b"a.1", credit=2)
    b.engine.connection_gone(b"a.1", b.now)
    b.publish()
    assert [] == [d for d in b.sent if isinstance(d, Dispatch)]
    [one] = b.handed((b"a.1", Heartbeat(msgid=new_id(), timestamp=b.wall)))
    assert b"a.1" == one.identity


def test_the_more_idle_worker_comes_first() -> None:
    """Of workers with several slots those are given messages first of which more are idle."""
    b = Bench()
    b.worker(b"a.1", slots=2, credit=2)
    b.worker(b"b.1", slots=4, credit=4)
    got = []
    for _ in range(4):
        b.publish()
        got += [d.identity for d in b.sent if isinstance(d, Dispatch)]
    assert [b"b.1", b"b.1", b"b.1", b"a.1"] == got


def test_a_result_its_follow_ups_and_the_end_of_the_hand_out_are_one_transaction() -> None:
    """After the turn of a REPLY the result is stored, the follow-up waits and nothing is in flight."""
    b = Bench()
    (m,) = b.publish()
    (d,) = b.worker()
    follow = Publish(queue="q", headers=Headers(task_id="next"), payload=job())
    (nxt,) = b.reply(d, follow_ups=(follow,), ready=1)
    assert follow.msgid == nxt.msgid
    assert "SUCCESS" == b.state(m)
    assert m in b.acked()


def test_the_first_outcome_of_an_attempt_wins() -> None:
    """A second REPLY for a hand-out, and its follow-ups, are dropped but acknowledged."""
    b = Bench()
    (m,) = b.publish()
    (d,) = b.worker()
    b.reply(d)
    follow = Publish(queue="q", headers=Headers(), payload=job())
    assert [] == b.reply(d, "FAILURE", follow_ups=(follow,), ready=1)
    assert "SUCCESS" == b.state(m)
    b.turn(passed_s=0.03)
    assert m in b.acked()


def test_replies_are_acknowledged_in_company_or_in_time() -> None:
    """A REPLY's ACK goes with the worker's next REQUEST, with 63 others, or alone after 20 ms."""
    b = Bench()
    first, second = b.publish(2)
    (d,) = b.worker(slots=1, credit=1)
    (d2,) = b.reply(d, ready=1)
    assert {first} == b.acked()
    b.reply(d2)
    assert set() == b.acked()
    b.turn(passed_s=0.019)
    assert set() == b.acked()
    assert b.engine.next_deadline(b.now) <= b.mono + 0.001
    b.turn(passed_s=0.002)
    assert {second} == b.acked()
    b.turn(passed_s=1)
    assert set() == b.acked()
    many = b.publish(64)
    handed = b.handed((d.identity, Ready(msgid=new_id(), count=64)))
    b.turn(*[(d.identity, answer(h)) for h in handed])
    assert set(many) == b.acked()


def test_publishers_are_told_first() -> None:
    """The ACK of a publish leaves before the hand-outs of its turn."""
    b = Bench()
    b.worker(slots=2, credit=2)
    b.publish(2)
    kinds = [type(item) for item in b.sent]
    assert Send == kinds[0]
    assert [Dispatch, Dispatch] == kinds[-2:]


def test_eta_waits_in_the_broker_across_restarts(tmp_path: Path) -> None:
    """A delayed message is handed out at its time, also after a restart; priority still counts."""
    b = Bench(tmp_path / "d")
    (late,) = b.publish(eta=b.wall + 30)
    (high,) = b.publish(eta=b.wall + 30, priority=9)
    b.restart()
    assert [] == b.worker(slots=2, credit=2)
    assert [] == [s for s in b.pass_time(29, b"w.1") if isinstance(s, Dispatch)]
    assert [high, late] == [s.msgid for s in b.pass_time(2, b"w.1") if isinstance(s, Dispatch)]


def test_an_expired_message_is_revoked_and_not_run() -> None:
    """Past ``expires`` a message ends as REVOKED."""
    b = Bench()
    (m,) = b.publish(expires=b.wall + 2)
    b.pass_time(3)
    assert [] == b.worker()
    assert "REVOKED" == b.state(m)


def test_a_full_queue_refuses() -> None:
    """Beyond the limit a publish is answered with an error REPLY and not stored."""
    b = Bench(queue_limit=2)
    b.turn((CLIENT, hello()))
    b.publish(2)
    b.publish(1)
    (reply,) = b.commands(Reply)
    assert "QueueFull" == json.loads(reply.body)["error"]["type"]
    assert set() == b.acked()
    assert 2 == b.engine.queues.by_name["q"].waiting


def test_a_revoke_holds_with_no_worker_up_and_across_restarts(tmp_path: Path) -> None:
    """A revoked task never runs; its state is REVOKED at once."""
    b = Bench(tmp_path / "d")
    (m,) = b.publish()
    assert "noted" == b.engine.withdrawals.revoke("t-" + m, b.now, terminate=False, signal="SIGTERM")
    b.turn()
    assert "REVOKED" == b.state(m)
    b.restart()
    assert [] == b.worker()
    assert 0 == b.engine.queues.by_name["q"].waiting


def test_a_revoke_leaves_a_state_that_was_told_from_outside() -> None:
    """store_result of another task's state isn't a run's: who told it ends it. It replaces no final state."""
    b = Bench()
    body = {"value": {"done": 1}, "state": "PROGRESS", "from": "store_result"}
    settled = Headers(guarantee=True, task_id="t", settled="PROGRESS")
    b.engine.publish(Publish(queue="q", headers=settled, payload=json.dumps(body).encode()), b.now)
    assert "noted" == b.engine.withdrawals.revoke("t", b.now, terminate=False, signal="SIGTERM")
    assert "PROGRESS" == b.engine.results.get(["t"])["t"].state
    end = Headers(guarantee=True, task_id="t", settled="SUCCESS")
    b.engine.publish(Publish(queue="q", headers=end, payload=b'{"value":1,"state":"SUCCESS"}'), b.now)
    b.engine.publish(Publish(queue="q", headers=settled, payload=json.dumps(body).encode()), b.now)
    assert "SUCCESS" == b.engine.results.get(["t"])["t"].state


def test_a_revoke_by_tag_is_for_all_that_have_it_now_or_later(tmp_path: Path) -> None:
    """What waits ends when it would be handed out, what a worker holds at once; others run."""
    b = Bench(tmp_path / "d")
    b.worker(slots=2, credit=1)
    (held,) = b.publish(tags="a;b")
    b.sent.clear()
    revoked = b.engine.withdrawals.revoke_tagged(["a"], b.now, terminate=True, signal="SIGTERM")
    assert {"t-" + held: "terminating"} == revoked
    (waiting,) = b.publish(tags="c;a")
    b.restart()
    (later,) = b.publish(tags="a")
    (other,) = b.publish(tags="b")
    (plain,) = b.publish()
    b.worker(b"w.2", slots=5, credit=5)
    assert ["REVOKED", "REVOKED"] == [b.state(m) for m in (waiting, later)]
    assert {other, plain} <= set(b.engine.flights.by_msgid)
    assert [] == sorted(b.engine.withdrawals.revoked - {"t-" + held})
    b.pass_time(b.options.revoke_expires_s + 61)
    assert set() == b.engine.withdrawals.tags


def test_a_worker_that_wants_it_is_told_what_ended_before_any_had_it() -> None:
    """Expired or revoked while it waited: one worker with the flag ``e`` hears of it, others don't."""
    b = Bench()
    about = {"tasks": {"t": "e"}}
    (expired,) = b.publish(task="t", expires=b.wall + 1)
    b.pass_time(2)
    b.worker(b"w.1", **about)
    (ask,) = b.commands(Ask)
    told = ask.arguments
    assert ("ended", expired, "q", "REVOKED") == (
        ask.verb, told["msgid"], told["queue"], told["reply"]["state"],
    )  # fmt: skip
    assert "t-" + expired == Headers.decode(told["headers"]).task_id
    b.publish(task="other", expires=b.wall + 1)
    (part,) = b.publish(task="t", chord="c:0", eta=b.wall + 60)
    b.sent.clear()
    b.engine.withdrawals.revoke("t-" + part, b.now, terminate=False, signal="")
    b.turn()
    (ask,) = b.commands(Ask)
    assert ("ended", part) == (ask.verb, ask.arguments["msgid"])


def test_a_wait_is_pushed() -> None:
    """Who asked for a result gets it when it is final, and at once when it is already there."""
    b = Bench()
    b.engine.results.wait(CLIENT, ["x"], b.now)
    b.publish(task_id="x")
    (d,) = b.worker()
    b.reply(d)
    assert ["x"] == [r.request_msgid for r in b.commands(Reply)]
    b.engine.results.wait(b"client.2", ["x"], b.now)
    b.turn()
    assert ["x"] == [r.request_msgid for r in b.commands(Reply)]


def test_who_waits_for_failures_hears_of_nothing_else() -> None:
    """What succeeds is not pushed, later or at once; what doesn't is, to others either is."""
    b = Bench()
    for ids in (["good", "bad"], ["good"]):  # many and one are looked up in different ways
        b.engine.results.wait(CLIENT, ids, b.now, failures=True)
    b.engine.results.wait(b"client.2", ["good"], b.now)
    for task_id in ("good", "bad"):
        b.publish(task_id=task_id)
    good, bad = b.worker(credit=2, slots=2)
    b.reply(good)
    assert [b"client.2"] == [
        s.identity for s in b.sent if isinstance(s, Send) and isinstance(s.command, Reply)
    ]
    b.reply(bad, state="FAILURE")
    assert ["bad"] == [r.request_msgid for r in b.commands(Reply)]
    for ids in (["good", "bad"], ["good"]):
        b.engine.results.wait(b"client.3", ids, b.now, failures=True)
    b.turn()
    assert ["bad"] == [r.request_msgid for r in b.commands(Reply)]
    assert 0 == b.engine.results.waiting


def test_who_waits_for_all_after_failures_hears_of_success() -> None:
    """The last word counts, also after a wait that another client has given up."""
    b = Bench()
    b.engine.results.wait(CLIENT, ["x"], b.now, failures=True)
    b.engine.results.wait(b"client.2", ["x"], b.now, failures=True)
    b.engine.results.unwait(b"client.2", ["x"])
    b.engine.results.wait(b"client.2", ["y"], b.now, failures=True)
    b.engine.results.unwait(b"client.2", ["y"])
    assert {"x": {CLIENT}} == b.engine.results._spared
    b.engine.results.wait(CLIENT, ["x"], b.now)
    b.publish(task_id="x")
    (d,) = b.worker()
    b.reply(d)
    assert ["x"] == [r.request_msgid for r in b.commands(Reply)]


def test_results_expire() -> None:
    """A result is gone some seconds after its time; with 0 it stays."""
    b = Bench(result_expires_s=2)
    (m,) = b.publish()
    (d,) = b.worker()
    b.reply(d)
    assert "SUCCESS" == b.state(m)
    b.pass_time(8, b"w.1")
    assert None is b.state(m)


def test_no_result_keeps_nothing() -> None:
    """ignore_result leaves no row."""
    b = Bench()
    b.publish(no_result=True)
    (d,) = b.worker()
    b.reply(d)
    assert 0 == b.store.sizes()["results"]


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"value": 1}', 1),
        (b"not JSON", "not JSON"),
        (b"[1]", "[1]"),
        (b"\xff", "\\xff"),
        (b"[" * 9999, "[" * 9999),
    ],
)
def test_whatever_a_stock_worker_replies_can_be_read(body: bytes, value: object) -> None:
    """A stock worker's reply that is no JSON object is stored as text: it must not spoil an answer."""
    b = Bench()
    stock = b"stock"
    b.turn((stock, Inform(msgid=new_id(), queues=((0, "q"),))), (stock, Ready(msgid="r1")))
    [msgid] = b.publish()
    b.turn((stock, Reply(msgid="x", body=body, request_msgid=msgid)))
    stored = b.store.results(["t-" + msgid])["t-" + msgid]
    assert value == json.loads(stored.body)["value"]


def test_a_stock_worker_gets_stock_headers_and_may_answer_after_kbye() -> None:
    """Stock headers only; after KBYE its REPLY still counts; stock_timeout gives the task to others."""
    b = Bench(stock_timeout_s=60)
    first, second = b.publish(2, priority=3, limit_s=7.2)
    stock = b"stock"
    handed = b.handed(
        (stock, Inform(msgid=new_id(), queues=((0, "q"),))),
        (stock, Ready(msgid="r1")),
        (stock, Ready(msgid="r2")),
    )
    assert [first, second] == [d.msgid for d in handed]
    assert {"reply-requested,timeout:8"} == {d.header_text for d in handed}
    b.turn((stock, Kbye(msgid="k")))
    b.turn((b"stock-again", Reply(msgid="x", body=b'{"value": 1}', request_msgid=first)))
    assert "SUCCESS" == b.state(first)
    b.pass_time(50)
    assert [] == b.worker(b"w.1")
    sent = b.pass_time(15, b"w.1")
    assert [second] == [s.msgid for s in sent if isinstance(s, Dispatch)]


def test_kbye_of_ours_gives_up_what_it_held() -> None:
    """A worker that says goodbye with a late-acked task unfinished: it is handed out again at once."""
    b = Bench()
    b.publish(task="late")
    (d,) = b.worker(**LATE)
    b.turn((d.identity, Kbye(msgid="k")))
    assert 1 == len(b.worker(b"w2.1", **LATE))


def test_inform_held_lists_not_begun() -> None:
    """A late-acked task that the lost worker had listed as not begun goes back uncounted."""
    b = Bench(max_redeliveries=1)
    (m,) = b.publish(task="late")
    for i in range(4):
        identity = b"w%d.1" % i
        b.worker(identity, **LATE)
        b.turn((identity, Heartbeat(msgid=new_id(), timestamp=0.0, not_begun=frozenset({m}))))
        b.pass_time(11)
    assert 1 == b.engine.queues.by_name["q"].waiting
    assert 0 == b.engine.desk.counters["dead"]


def test_reply_requested_is_answered_to_the_client() -> None:
    """A stock client that asked gets the worker's REPLY in two frames."""
    b = Bench()
    (m,) = b.publish(reply_requested=True)
    (d,) = b.worker()
    b.turn((d.identity, answer(d)))
    (reply,) = b.commands(Reply)
    assert (m, None) == (reply.request_msgid, reply.headers)


def test_a_wait_for_what_is_not_final_reads_the_journal_once(mocker: MockerFixture) -> None:
    """A wait for one result, as each get() makes one, costs one read; one for several only that of sizes."""
    b = Bench()
    results = mocker.spy(b.store, "results")
    b.engine.results.wait(CLIENT, ["t1"], b.now)
    results.assert_called_once_with(["t1"])
    b.engine.results.wait(CLIENT, ["t2", "t3"], b.now)
    results.assert_called_once()


def test_asks_need_an_asker() -> None:
    """An engine without asks ignores ASK; nothing breaks."""
    b = Bench()
    assert [] == b.turn((CLIENT, Ask(msgid="a", verb="queues", arguments={})))
