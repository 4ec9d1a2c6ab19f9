"""What a monitor asks once a second: counts, ages, what runs, what failed; and queues that are paused."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from emq_compat.broker.ages import Ages
from emq_compat.broker.failing import Failing
from emq_compat.broker.records import Dispatch, Moment
from emq_compat.message import Headers, new_id
from emq_compat.protocol.commands import Heartbeat
from emq_compat.terms import Share
from tests.broker.bench import Bench

pytestmark = pytest.mark.unit


def overview(bench: Bench, **arguments: Any) -> Any:
    return bench.ask("overview", **arguments)["ok"]


def test_queues_are_told_with_what_waits_runs_and_for_how_long() -> None:
    """Waiting, delayed and handed-out messages are counted; the oldest one's age is that of its publish."""
    b = Bench()
    b.publish(1)
    b.pass_time(40)
    b.publish(2)
    b.publish(1, eta=b.wall + 500)
    b.pass_time(20)
    [queue] = overview(b)["queues"]
    assert (3, 1, 0, 0) == (queue["waiting"], queue["delayed"], queue["in_flight"], queue["workers"])
    assert queue["oldest_s"] == pytest.approx(60, abs=2)
    b.worker(slots=1, credit=1)
    told = overview(b)
    [queue] = told["queues"]
    assert (2, 1, 1, 1) == (queue["waiting"], queue["in_flight"], queue["handed_out"], queue["workers"])
    assert queue["oldest_s"] == pytest.approx(20, abs=2)
    assert (2, 1, 1) == (told["waiting"], told["delayed"], told["in_flight"])


def test_an_age_outlasts_a_restart(tmp_path: Path) -> None:
    """What was published before the broker was started is as old as its id says."""
    b = Bench(tmp_path)
    b.wall = time.time()
    b.publish()
    b.pass_time(200)
    b.restart()
    b.pass_time(300)
    [queue] = overview(b)["queues"]
    assert queue["oldest_s"] == pytest.approx(500, abs=5)


def test_what_comes_after_a_quiet_time_is_new() -> None:
    """However long nothing came before it, and whenever that was looked at last."""
    b = Bench()
    b.publish()
    b.worker()
    b.pass_time(100, b"w.1")
    b.publish()
    [queue] = overview(b)["queues"]
    assert queue["oldest_s"] == pytest.approx(0, abs=1.1)


def test_what_is_set_aside_has_an_age(tmp_path: Path) -> None:
    """A message that only waits for a worker that has its task may be a queue's oldest."""
    b = Bench(tmp_path)
    b.worker(b"has.1", slots=1, credit=0, tasks={"rare": ""})
    b.publish(task="rare")
    b.pass_time(100, b"has.1")
    b.publish(task="other")
    b.worker(slots=1, credit=1, tasks={"other": ""})
    b.publish(task="other")
    [queue] = overview(b)["queues"]
    assert (1, 2) == (queue["aside"], queue["waiting"])
    assert queue["oldest_s"] == pytest.approx(100, abs=5)


def test_what_is_handed_out_has_no_age(tmp_path: Path) -> None:
    """After a start, too, when nothing of the queue is in memory."""
    b = Bench(tmp_path)
    b.publish()
    (d,) = b.worker()
    (waits,) = b.publish()
    b.restart()
    b.worker(credit=0, held=((d.msgid, 1, True),))
    oldest = b.engine.queues.by_name["q"].oldest()
    assert oldest is not None
    assert waits == oldest[1]


def test_ages_are_known_to_a_part_of_themselves() -> None:
    """A note a second is kept in bounds: an old age is told less exactly, a fresh one to the second."""
    ages = Ages(0, Moment(0.0, 0.0))
    for second in range(1, 40_000):
        ages.note(second * 10, Moment(second, float(second)))
    end = Moment(40_000.0, 40_000.0)
    assert ages.age_s(399_990, "", end) == pytest.approx(1, abs=1.1)
    assert ages.age_s(390_000, "", end) == pytest.approx(1000, abs=5)
    assert ages.age_s(20_000, "", end) == pytest.approx(38_000, rel=0.02)
    assert len(ages._times) <= 4096


def test_a_worker_is_told_with_what_it_runs() -> None:
    """What its heartbeat lists as not begun, and what it holds beyond its slots, doesn't run."""
    b = Bench()
    b.publish(4, task="t.add")
    first, second, *_ = b.worker(slots=2, credit=4, pid=17, hostname="h")
    b.pass_time(5, b"w.1")
    [worker] = overview(b)["workers"]
    assert (2, 4, 2, 17, "h") == tuple(worker[k] for k in ("slots", "held", "busy", "pid", "hostname"))
    assert ["t-" + first.msgid, "t-" + second.msgid] == [one["task_id"] for one in worker["running"]]
    assert ("t.add", "q", 5.0) == tuple(worker["running"][0][k] for k in ("task", "queue", "for_s"))
    not_begun = frozenset(d for d in b.engine.flights.by_msgid if d != second.msgid)
    b.turn((b"w.1", Heartbeat(msgid=new_id(), timestamp=b.wall, not_begun=not_begun)))
    [worker] = overview(b)["workers"]
    assert (1, [second.msgid]) == (worker["busy"], [t["task_id"][2:] for t in worker["running"]])


def test_failures_are_kept_as_they_came() -> None:
    """Each failure is told once with its reply, and counted by its task; another outcome isn't."""
    b = Bench()
    b.publish(3, task="t.a")
    one, two, three = b.worker(slots=3, credit=3)
    reply = '{"value": "no", "state": "FAILURE", "error": {"type": "ValueError"}, "traceback": "Trace"}'
    b.reply(one, "FAILURE", body=reply.encode())
    b.reply(two, "SUCCESS")
    told = overview(b)
    [failure] = told["failures"]
    assert ("t.a", "t-" + one.msgid, reply) == tuple(failure[k] for k in ("task", "task_id", "reply"))
    assert ({"t.a": 1}, 1) == (told["failed_by_task"], told["counters"]["failed"])
    b.reply(three, "FAILURE", body=b"\xff no JSON")
    [failure] = overview(b, failures_after=failure["number"])["failures"]
    assert "\ufffd no JSON" == failure["reply"]


def test_what_the_broker_fails_by_itself_is_a_failure_too() -> None:
    """A task lost with its worker is among the failures, and its message among the dead letters."""
    b = Bench()
    b.publish(task="t.a")
    b.worker()
    b.engine.connection_gone(b"w.1", b.now)
    b.pass_time(5)
    told = overview(b)
    assert "WorkerLostError" in told["failures"][0]["reply"]
    assert 1 == told["dead"] == told["counters"]["dead"]


def test_a_body_that_never_runs_is_among_the_failures() -> None:
    """Where a part of a chord fails, so does its body: both are told."""
    b = Bench()
    b.publish(task="t.body", awaits="c:1")
    b.publish(task="t.part", chord="c:0")
    (part,) = b.worker()
    b.reply(part, "FAILURE", body=b'{"error": {"type": "ValueError", "message": "boom"}}')
    assert {"t.part": 1, "t.body": 1} == overview(b)["failed_by_task"]


def test_the_failures_kept_are_bounded() -> None:
    """Of each task the last ten, of a hundred tasks; a reply that is large isn't kept."""
    failing, now = Failing(), Moment(1.0, 1.0)
    for n in range(250):
        failing.note(Headers(task=f"t{n % 125}", task_id=str(n)), "m", b"{}", now)
    for n in range(50):
        failing.note(Headers(task="often", task_id=f"o{n}"), "m", b"{}", now)
    failing.note(Headers(task="large", task_id="l"), "m", b"x" * 40_000, now)
    kept = list(failing.since(0))
    assert 100 == len(failing.by_task) == len({failed.task for failed in kept})
    assert [f"o{n}" for n in range(40, 50)] == [f.task_id for f in kept if f.task == "often"]
    assert [None] == [f.body for f in kept if f.task == "large"]
    assert (301, 50) == (failing.total, failing.by_task["often"])
    assert {"o49", "l"} == {f.task_id for f in failing.since(299)}


def test_dead_letters_are_counted_without_reading_them(tmp_path: Path) -> None:
    """The number of dead letters is that on disk, over a restart, requeues and drops."""
    b = Bench(tmp_path)
    b.publish(3)
    for d in b.worker(slots=3, credit=3):
        b.reply(d, "REJECTED")
    assert 3 == overview(b)["dead"]
    b.restart()
    assert 3 == overview(b)["dead"]
    first, second, _ = b.ask("dead_list")["ok"]
    b.ask("dead_drop", keys=[first["key"], 999])
    b.ask("dead_requeue", keys=[second["key"]])
    assert 1 == overview(b)["dead"] == b.store.count_dead()


def test_many_queues_are_cut_and_counted() -> None:
    """Of very many queues those that hold most are told; the totals are of all."""
    b = Bench()
    for n in range(510):
        b.publish(2 if n == 509 else 1, queue=f"q{n}")
    told = overview(b)
    assert (500, 510, 511) == (len(told["queues"]), told["queues_total"], told["waiting"])
    assert "q509" in {queue["name"] for queue in told["queues"]}


def test_wrong_arguments_are_named() -> None:
    """A wrong argument is refused by name."""
    assert "failures_after" in Bench().ask("overview", failures_after="x")["error"]["message"]


def test_a_paused_queue_hands_nothing_out(tmp_path: Path) -> None:
    """Publishes go on and wait, over a restart, too, until it is resumed; then they go out at once."""
    b = Bench(tmp_path)
    b.publish(queue="q")
    assert b.ask("pause_queue", queue="q")["ok"] is True
    assert b.ask("pause_queue", queue="q")["ok"] is False
    assert [] == b.worker(queues=("q", "other"), slots=4, credit=4)
    b.restart()
    assert [] == b.worker(queues=("q", "other"), slots=4, credit=4)
    b.publish(2, queue="q")
    (other,) = b.publish(queue="other")
    assert [other] == [d.msgid for d in b.sent if isinstance(d, Dispatch)]
    by_name = {queue["name"]: queue for queue in b.ask("queues")["ok"]}
    assert (3, True, False) == (by_name["q"]["waiting"], by_name["q"]["paused"], by_name["other"]["paused"])
    assert b.ask("resume_queue", queue="q")["ok"] is True
    assert 3 == sum(isinstance(sent, Dispatch) for sent in b.sent)


def test_a_pause_lasts_with_what_is_declared(tmp_path: Path) -> None:
    """Declaring a queue anew neither ends its pause, nor does a pause end what is declared."""
    b = Bench(tmp_path)
    b.ask("declare_queue", queue="q", ttl_s=50)
    b.ask("pause_queue", queue="q")
    b.ask("declare_queue", queue="q", ttl_s=60)
    b.restart()
    queue = b.engine.queues.by_name["q"]
    assert (True, 60) == (queue.paused, queue.ttl_s)
    b.ask("resume_queue", queue="q")
    b.restart()
    queue = b.engine.queues.by_name["q"]
    assert (False, 60) == (queue.paused, queue.ttl_s)


def test_nothing_is_fetched_from_a_paused_queue() -> None:
    """Who fetches single messages gets none of a paused queue."""
    b = Bench()
    b.publish(queue="q")
    b.ask("pause_queue", queue="q")
    fetched = b.ask("fetch", queue="q")
    b.ask("resume_queue", queue="q")
    assert fetched["ok"] in (None, False, {}) or not fetched["ok"].get("msgid")
    assert b.ask("fetch", queue="q")["ok"]["msgid"]


def test_whatever_comes_into_a_paused_queue_waits_until_it_is_resumed(tmp_path: Path) -> None:
    """What is redelivered, becomes due or is let in at its gate isn't handed out either."""
    b = Bench(tmp_path)
    place, late = Share(key="k", number=1).encode(), {"tasks": {"t": "l"}, "slots": 4, "credit": 4}
    first, parked = b.publish(2, task="t", slots=place)
    assert [first] == [d.msgid for d in b.worker(b"w.1", **late)]
    (due,) = b.publish(task="t", eta=b.wall + 5)
    b.ask("pause_queue", queue="q")
    b.worker(b"w.2", **late)
    sent = b.pass_time(20, b"w.2")
    b.restart()
    b.worker(b"w.2", **late)
    sent += b.sent + b.pass_time(20, b"w.2")
    assert [] == [d.msgid for d in sent if isinstance(d, Dispatch)]
    b.ask("resume_queue", queue="q")
    handed = [d for d in b.sent if isinstance(d, Dispatch)]
    assert [first, due] == [d.msgid for d in handed]
    assert [parked] == [d.msgid for d in b.reply(handed[0])]


@pytest.mark.parametrize("listened", [True, False])
def test_a_pause_ends_with_its_queue(listened: bool, tmp_path: Path) -> None:
    """A purge leaves a queue paused, and so does a deletion that only empties it: somebody listens on it."""
    b = Bench(tmp_path)
    b.publish(queue="q")
    b.ask("pause_queue", queue="q")
    b.ask("purge", queue="q")
    b.restart()
    assert b.engine.queues.by_name["q"].paused
    if listened:
        b.worker(credit=4, slots=4)
    b.ask("delete_queue", queue="q")
    b.publish(queue="q")
    assert listened == b.engine.queues.by_name["q"].paused
    b.restart()
    assert (0 if listened else 1) == len(b.worker(credit=4, slots=4))


def test_an_unknown_queue_is_not_paused() -> None:
    """A name that no queue has is refused: it may be a slip."""
    assert "there is no queue 'nope'" == Bench().ask("pause_queue", queue="nope")["error"]["message"]
