"""The engine's promises, without sockets, threads or real time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from emq_compat.broker.queues import ENTRY_BYTES, MessageQueue
from emq_compat.broker.records import Dispatch, Send, Waiting
from emq_compat.message import Headers, Publish, new_id
from emq_compat.protocol.commands import Ask, Capabilities, Heartbeat, Hello, Inform, Kbye, Ready, Reply
from tests.broker.bench import CLIENT, Bench, answer, attempt_of, hello, job, nack

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while Bench.opened:
        Bench.opened.pop().store.close()


LATE = {"tasks": {"late": "l", "early": ""}}


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
    """Of idle workers that gets the next message which has waited longest for one."""
    b = Bench()
    b.worker(b"a.1")
    b.worker(b"b.1")
    got = []
    for _ in range(4):
        b.publish()
        [one] = [d for d in b.sent if isinstance(d, Dispatch)]
        got.append(one.identity)
        b.reply(one, ready=1)
    assert [b"a.1", b"b.1", b"a.1", b"b.1"] == got


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


def test_an_unknown_task_goes_to_a_worker_that_has_it() -> None:
    """A message whose task only one live worker has is never given to another; order is kept."""
    b = Bench()
    b.worker(b"old.1", slots=5, credit=5, tasks={"a": ""})
    b.worker(b"new.1", slots=5, credit=0, tasks={"a": "", "b": ""})
    (only_new,) = b.publish(task="b")
    (both,) = b.publish(task="a")
    assert [(both, b"old.1")] == [(d.msgid, d.identity) for d in b.sent if isinstance(d, Dispatch)]
    (d,) = b.handed((b"new.1", Ready(msgid=new_id(), count=1)))
    assert (only_new, b"new.1") == (d.msgid, d.identity)


def test_a_task_that_nobody_has_is_given_to_whoever_asks() -> None:
    """No live worker has it: a worker gets it, and answers NotRegistered."""
    b = Bench()
    b.worker(b"old.1", slots=5, credit=5, tasks={"a": ""})
    b.publish(task="nobody")
    assert 1 == len([d for d in b.sent if isinstance(d, Dispatch)])


def test_set_aside_messages_come_back_when_their_worker_leaves() -> None:
    """What waits for a task of a worker that is then lost is given to others."""
    b = Bench()
    b.worker(b"new.1", slots=5, credit=0, tasks={"b": ""})
    b.worker(b"old.1", slots=5, credit=5, tasks={"a": ""})
    b.publish(task="b")
    sent = b.pass_time(11, b"old.1")
    assert 1 == len([s for s in sent if isinstance(s, Dispatch)])


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


def test_windows_bound_memory_and_keep_order() -> None:
    """3,000 waiting messages: at most 1,000 in memory, all handed out in order."""
    b = Bench()
    ids = b.publish(1500) + b.publish(1500)
    assert 1000 >= len(b.engine.queues.by_name["q"]._ranks[9].window)
    got = [d.msgid for d in b.worker(slots=5000, credit=5000)]
    assert ids == got


def test_windows_survive_give_backs_and_restarts(tmp_path: Path) -> None:
    """Messages returned while the rest is on disk come back in their place, each once."""
    b = Bench(tmp_path / "d")
    ids = b.publish(2500)
    first = b.worker(slots=1200, credit=1200)
    b.turn(*[(d.identity, nack(d)) for d in first[::2]])
    b.restart()
    b.worker(credit=0, slots=5000, held=tuple((d.msgid, 1, True) for d in first[1::2]))
    rest = b.handed((b"w.1", Ready(msgid="r", count=5000)))
    assert sorted(ids) == sorted([d.msgid for d in rest] + [d.msgid for d in first[1::2]])
    assert [d.msgid for d in rest] == [m for m in ids if m in {d.msgid for d in rest}]


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
        b.turn((identity, Heartbeat(msgid=new_id(), timestamp=0.0, not_begun=(m,))))
        b.pass_time(11)
    assert 1 == b.engine.queues.by_name["q"].waiting
    assert 0 == b.engine.desk.counters["dead"]


def test_weights_decide_between_queues() -> None:
    """A worker takes from its heaviest queue first; queues of one weight take turns."""
    b = Bench()
    light, heavy = b.publish(2, queue="light"), b.publish(2, queue="heavy")
    inform = Inform(msgid="i", queues=((1, "light"), (9, "heavy")), capabilities=Capabilities(slots=9))
    assert [*heavy, *light] == [
        d.msgid for d in b.handed((b"w.1", inform), (b"w.1", Ready(msgid="r", count=9)))
    ]


def test_reply_requested_is_answered_to_the_client() -> None:
    """A stock client that asked gets the worker's REPLY in two frames."""
    b = Bench()
    (m,) = b.publish(reply_requested=True)
    (d,) = b.worker()
    b.turn((d.identity, answer(d)))
    (reply,) = b.commands(Reply)
    assert (m, None) == (reply.request_msgid, reply.headers)


def test_asks_need_an_asker() -> None:
    """An engine without asks ignores ASK; nothing breaks."""
    b = Bench()
    assert [] == b.turn((CLIENT, Ask(msgid="a", verb="queues", arguments={})))


def test_queues_where_nothing_waits_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """One message among a hundred queues and fifty workers costs two looks, not one at each by each."""
    b = Bench()
    names = tuple(f"q{i}" for i in range(100))
    for i in range(50):
        b.worker(f"w.{i}".encode(), queues=names, credit=5)
    looks: list[str] = []
    pop = MessageQueue.pop

    def counted(queue: MessageQueue) -> Waiting | None:
        looks.append(queue.name)
        return pop(queue)

    monkeypatch.setattr(MessageQueue, "pop", counted)
    b.publish(queue="q77")
    assert 1 == len([s for s in b.sent if isinstance(s, Dispatch)])
    assert ["q77", "q77"] == looks
    b.turn()
    assert 2 == len(looks)


def test_counts_of_queues_that_changed_are_written_with_the_turn(tmp_path: Path) -> None:
    """After a restart each queue knows how much waits in it, however many there are."""
    b = Bench(tmp_path / "data")
    for i in range(5):
        b.publish(i, queue=f"q{i}")
    b.publish(2, queue="q1", eta=b.wall + 60)
    b.worker(queues=("q3",))
    b.restart()
    counts = {name: (queue.waiting, queue.delayed) for name, queue in b.engine.queues.by_name.items()}
    assert {"q1": (1, 2), "q2": (2, 0), "q3": (2, 0), "q4": (4, 0)} == {
        name: both for name, both in counts.items() if any(both)
    }


def test_windows_of_many_queues_share_one_budget() -> None:
    """However many queues have a backlog, memory is bounded, and each still hands out in its order."""
    b = Bench()
    queues = b.engine.queues
    queues._budget.limit = 20 * ENTRY_BYTES
    published = {f"q{i}": b.publish(10, queue=f"q{i}") for i in range(10)}
    in_memory = sum(len(rank.window) for queue in queues.by_name.values() for rank in queue._ranks)
    assert 10 < in_memory <= 20 + 10
    assert 100 == sum(queue.waiting for queue in queues.by_name.values())
    for i, (name, msgids) in enumerate(published.items()):
        assert msgids == [d.msgid for d in b.worker(f"w.{i}".encode(), queues=(name,), slots=10, credit=10)]
    assert 0 == queues._budget.used
