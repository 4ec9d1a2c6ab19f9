"""Places and paces that messages share: who may pass, what is parked meanwhile, and what opens a gate."""

from __future__ import annotations

from pathlib import Path

import pytest

from emq_compat.broker import gates
from emq_compat.broker.records import Dispatch
from emq_compat.message import Headers, Publish, new_id
from emq_compat.protocol.commands import Ready
from emq_compat.terms import Share, Shares
from tests.broker.bench import Bench, job, nack

pytestmark = pytest.mark.unit


def place(key: str = "k", n: int | None = None) -> str:
    """The header of a message that needs one of n places of a key."""
    return Share(key=key, number=n).encode()


def ready(count: int = 1, worker: bytes = b"w.1") -> tuple[bytes, Ready]:
    return worker, Ready(msgid=new_id(), count=count)


def msgids(handed: list[Dispatch]) -> list[str]:
    return [d.msgid for d in handed]


def parked(b: Bench) -> int:
    return sum(queue.parked for queue in b.engine.queues.by_name.values())


def assert_empty(b: Bench) -> None:
    """Nothing is counted any more."""
    found = b.engine.gates
    assert ({}, {}, {}, 0) == (found.running, found.parked, found._let_in, parked(b))
    assert [] == b.store.parked_counts()


def run_all(b: Bench, handed: list[Dispatch]) -> list[str]:
    """End what is handed out, one by one, until nothing more comes; returns the msgids in their order."""
    order, handed = [], list(handed)
    while handed:
        d = handed.pop(0)
        order.append(d.msgid)
        handed += b.reply(d, ready=1)
    return order


def test_a_key_has_so_many_places() -> None:
    """Of a key's messages as many are handed out as there are places, the others as those end, in order."""
    b = Bench()
    sent = b.publish(5, slots=place(n=2))
    handed = b.worker(slots=9, credit=9)
    assert sent[:2] == msgids(handed)
    assert 3 == parked(b)
    assert [sent[2]] == msgids(b.reply(handed[1]))
    assert [sent[3]] == msgids(b.reply(handed[0]))
    assert set(sent[2:4]) == set(b.engine.flights.by_msgid)
    assert 1 == parked(b)


def test_a_place_alone_keeps_the_order() -> None:
    """With one place a key's messages run one after the other in the order in which they were published."""
    b = Bench()
    sent = b.publish(20, slots=place())
    assert sent == run_all(b, b.worker(slots=9, credit=9))
    assert_empty(b)


def test_what_is_behind_a_full_key_goes_at_once() -> None:
    """Messages of other keys, and those without one, don't wait behind those of a key without places."""
    b = Bench()
    first = b.publish(50, slots=place("full"))
    other, plain = b.publish(slots=place("free")), b.publish()
    assert [first[0], *other, *plain] == msgids(b.worker(slots=9, credit=9))


def test_the_more_urgent_of_a_key_goes_first() -> None:
    """A place goes to the highest priority, then the oldest, even if another was let in before."""
    b = Bench()
    low = b.publish(3, slots=place())
    (high,) = b.publish(slots=place(), priority=5)
    handed = b.worker(slots=9, credit=9)
    assert [high] == msgids(handed)
    (higher,) = b.publish(slots=place(), priority=9)
    assert [higher, *low] == run_all(b, b.reply(handed[0]))
    assert_empty(b)


def test_places_are_shared_by_queues() -> None:
    """A key's places are those of all queues; a queue that nobody listens to keeps none of them."""
    b = Bench()
    b.publish(2, "deaf", slots=place())
    mine = b.publish(2, "q", slots=place())
    assert mine == run_all(b, b.worker(slots=9, credit=9))
    other = b.worker(b"w.2", queues=("deaf",), slots=9, credit=9)
    assert 2 == len(run_all(b, other))
    assert_empty(b)


def test_a_retry_gives_its_place_back() -> None:
    """What waits for its time has no place."""
    b = Bench()
    first, second = b.publish(2, slots=place())
    (d,) = b.worker(slots=9, credit=9)
    head = Headers(task_id="t-" + first, slots=place(), eta=b.wall + 60, retries=1)
    again = Publish(queue="q", headers=head, payload=job())
    (handed,) = b.reply(d, "RETRY", follow_ups=(again,))
    assert second == handed.msgid
    assert [] == b.reply(handed)
    assert [again.msgid] == run_all(b, [d for d in b.pass_time(61, b"w.1") if isinstance(d, Dispatch)])
    assert_empty(b)


def test_an_eta_takes_no_place() -> None:
    """A delayed message has no place and isn't parked; when it is due it stands behind those before it."""
    b = Bench()
    (late,) = b.publish(slots=place(), eta=b.wall + 5)
    now = b.publish(2, slots=place())
    (d,) = b.worker(slots=9, credit=9)
    assert now[0] == d.msgid
    b.pass_time(10, b"w.1")
    assert [now[0], now[1], late] == run_all(b, [d])
    assert_empty(b)


@pytest.mark.parametrize("late", [False, True])
def test_a_lost_worker_frees_its_places(late: bool) -> None:
    """What a lost worker held has no place any more, whether it ends or waits again."""
    b = Bench()
    sent = b.publish(2, slots=place(), task="t")
    b.worker(tasks={"t": "l" if late else ""})
    handed = [d for d in b.pass_time(12) if isinstance(d, Dispatch)]
    assert [] == handed
    order = run_all(b, b.worker(b"w.2", slots=2, credit=2, tasks={"t": ""}))
    assert (sent if late else sent[1:]) == order
    assert_empty(b)


def test_what_is_given_back_gives_its_place_back() -> None:
    """A worker that returns what it hasn't begun frees the place; the message keeps its turn."""
    b = Bench()
    sent = b.publish(2, slots=place())
    (d,) = b.worker()
    assert [] == b.handed((b"w.1", nack(d)))
    assert sent == run_all(b, b.worker(b"w.2", slots=9, credit=9))
    assert_empty(b)


def test_places_are_counted_over_a_restart(tmp_path: Path) -> None:
    """A broker that is killed knows who has a place and who waits for one."""
    b = Bench(tmp_path / "data")
    sent = b.publish(4, slots=place(n=2), task_id="")
    handed = b.worker(slots=9, credit=9)
    b.restart()
    assert (2, 2) == (parked(b), b.engine.gates.running[gates._SLOTS + "k"])
    held = tuple((d.msgid, 1, True) for d in handed)
    assert [] == b.worker(slots=9, credit=9, held=held)
    assert sent == run_all(b, handed)
    assert_empty(b)


def test_what_expires_or_is_revoked_while_parked_keeps_nobody() -> None:
    """A parked message that must not run ends when its turn comes, in the same turn as the next is let in."""
    b = Bench()
    first = b.publish(slots=place())
    dead = b.publish(30, slots=place(), expires=b.wall + 5)
    (last,) = b.publish(slots=place())
    (d,) = b.worker(slots=9, credit=9)
    b.pass_time(6, b"w.1")
    assert first == [d.msgid]
    handed = b.reply(d)
    for _ in range(3):  # so many in one turn, the others in the next
        handed += b.handed()
    assert [last] == msgids(handed)
    assert {"REVOKED"} == {b.state(msgid) for msgid in dead}
    run_all(b, handed)
    assert_empty(b)


def test_parked_messages_are_purged_with_their_queue() -> None:
    """A purge drops what is parked, and what comes afterwards is not kept waiting by it."""
    b = Bench()
    b.publish(5, slots=place())
    (other,) = b.publish(queue="other", slots=place())
    queue = b.engine.queues.by_name["q"]
    assert 5 == b.engine.withdrawals.purge(queue, b.now)
    assert (0, 0) == (queue.waiting, queue.parked)
    (new,) = b.publish(slots=place())
    assert {other, new} == set(run_all(b, b.worker(queues=("q", "other"), slots=9, credit=9)))
    assert_empty(b)


def test_the_limit_of_a_queue_counts_what_is_parked() -> None:
    """A queue is full with parked messages, too."""
    b = Bench(queue_limit=3)
    b.publish(3, slots=place())
    b.publish(slots=place())
    assert 1 == b.engine.desk.counters["refused"]


def test_a_backlog_of_one_key_is_not_looked_through() -> None:
    """However many messages a key has waiting, a hand-out touches those that it lets pass."""
    b = Bench()
    sent = b.publish(3000, slots=place("big"))
    (d,) = b.worker(slots=9, credit=9)
    reads: list[object] = []
    execute = b.store._execute
    b.store._execute = lambda *a, **k: (reads.append(a[0]), execute(*a, **k))[1]  # type: ignore[method-assign, func-returns-value]
    (e,) = b.reply(d)
    assert sent[:2] == [d.msgid, e.msgid]
    assert ["parked"] == [name for name in reads if name != "known"]


def test_what_waited_in_its_queue_before_a_limit_is_parked_little_by_little() -> None:
    """A limit that is told later holds for what waits already; a turn parks no more than so many of it."""
    b = Bench()
    sent = b.publish(2500, task="t")
    (other,) = b.publish()
    handed = b.worker(slots=9, credit=9, tasks={"t": ""}, shares={"t": Shares(slots=1)})
    assert sent[:1] == msgids(handed)
    assert 1000 == parked(b)
    assert b.now.mono == b.engine.next_deadline(b.now)
    assert [[], [other]] == [msgids(b.handed()) for _ in range(2)]
    assert 2499 == parked(b)


def test_what_is_let_in_among_unread_messages_is_read_with_them() -> None:
    """In a long queue a message that is let in takes its place on disk: it comes once, in order."""
    b = Bench()
    (first,) = b.publish(slots=place())
    before = b.publish(1100)
    (keyed,) = b.publish(slots=place())
    after = b.publish(50)
    (d,) = b.worker(credit=1)
    assert (first, 1) == (d.msgid, parked(b))
    order = run_all(b, b.reply(d, ready=1))
    assert [*before, keyed, *after] == order
    assert_empty(b)


# What the workers say


def test_the_workers_say_how_many_run_at_once() -> None:
    """A task's places are for all of its messages, whoever published them; the last INFORM counts."""
    b = Bench()
    sent = b.publish(4, task="t")
    handed = b.worker(slots=9, credit=9, tasks={"t": ""}, shares={"t": Shares(slots=1)})
    assert sent[:1] == msgids(handed)
    more = b.worker(b"w.2", slots=9, credit=9, tasks={"t": ""}, shares={"t": Shares(slots=3)})
    assert sent[1:3] == msgids(more)
    last = b.worker(b"w.3", slots=9, credit=9, tasks={"t": ""}, shares={})
    assert sent[3:] == msgids(last)
    for d in (*handed, *more, *last):
        b.reply(d)
    assert_empty(b)


def test_a_worker_that_says_nothing_changes_nothing(tmp_path: Path) -> None:
    """What was told last holds over a restart, and for a worker of a release that tells nothing."""
    b = Bench(tmp_path / "data")
    sent = b.publish(3, task="t")
    handed = b.worker(slots=9, credit=9, tasks={"t": ""}, shares={"t": Shares(slots=2)})
    assert sent == run_all(b, handed)
    b.restart()
    more = b.publish(3, task="t")
    assert more[:2] == msgids(b.worker(b"w.2", slots=9, credit=9, tasks={"t": ""}))


def test_the_workers_say_it_for_each_key() -> None:
    """By key, messages that name none have no limit, and one of their own goes before."""
    b = Bench()
    shares = {"t": Shares(slots=2, slots_by_key=True)}
    b.worker(slots=20, credit=20, tasks={"t": ""}, shares=shares)
    b.publish(3, task="t", slots=place("a"))
    assert 1 == parked(b)
    b.publish(3, task="t")
    assert 1 == parked(b)
    b.publish(5, task="t", slots=place("b", 4))
    assert 2 == parked(b)


def test_an_epilogue_passes_every_gate() -> None:
    """What concludes a lost task is no run of it."""
    b = Bench()
    b.publish(2, task="t", slots=place(), epilogue=True)
    b.worker(tasks={"t": ""})
    b.pass_time(12)
    handed = b.worker(b"w.2", slots=9, credit=9, tasks={"t": ""}, shares={"t": Shares(slots=1)})
    assert 2 == len(handed)


# Paces


def paced(b: Bench, pace_s: float = 1.0, worker: bytes = b"w.1", **more: bool) -> list[Dispatch]:
    shares = {"t": Shares(pace_s=pace_s, **more)}
    return b.worker(worker, slots=50, credit=50, tasks={"t": "", "u": ""}, shares=shares)


def test_a_pace_is_that_of_all_workers() -> None:
    """One message of the task every second, however many workers there are; others pass by."""
    b = Bench()
    sent, free = b.publish(4, task="t"), b.publish(3, task="u")
    assert [sent[0], *free] == msgids(paced(b))
    assert [] == paced(b, worker=b"w.2")
    assert b.now.mono + 1 == pytest.approx(b.engine.next_deadline(b.now), abs=0.06)
    assert [] == b.handed(passed_s=0.5)
    assert [sent[1]] == msgids(b.handed(passed_s=0.5))
    assert [sent[2]] == msgids(b.handed(passed_s=1.0))
    assert [] == b.publish(0)
    assert [sent[3]] == msgids(b.handed(passed_s=5.0))


def test_what_comes_between_two_waits_for_the_second() -> None:
    """What is published after the last one was let through, and before the next may, goes when that is."""
    b = Bench()
    paced(b)
    first, second = b.publish(task="t"), b.publish(task="t")
    assert set(first) == set(b.engine.flights.by_msgid)
    assert b.now.mono + 1 == pytest.approx(b.engine.next_deadline(b.now), abs=0.06)
    assert second == msgids(b.handed(passed_s=1.0))


def test_a_pace_lasts_over_a_restart(tmp_path: Path) -> None:
    """A broker that is killed lets nothing through sooner; with its clock put back it keeps nobody longer."""
    b = Bench(tmp_path / "data")
    sent = b.publish(3, task="t")
    run_all(b, paced(b, 3600.0))
    b.wall, b.mono = b.wall + 600, b.mono + 600
    b.restart()
    assert [] == paced(b, 3600.0)
    b.pass_time(2990, b"w.1")
    (second,) = [d for d in b.pass_time(11, b"w.1") if isinstance(d, Dispatch)]
    assert (sent[1], []) == (second.msgid, b.reply(second))
    b.wall -= 86_400
    b.restart()
    paced(b, 3600.0)
    assert [sent[2]] == [d.msgid for d in b.pass_time(3601, b"w.1") if isinstance(d, Dispatch)]


def test_a_pace_by_key() -> None:
    """Each key has a pace of its own; a message's own pace goes before that of its task."""
    b = Bench()
    paced(b, 10.0, pace_by_key=True)
    a, c = b.publish(2, task="t", pace=place("a")), b.publish(2, task="t", pace=place("c"))
    own = b.publish(2, task="u", pace=Share(key="own", number=2.0).encode())
    flying = set(b.engine.flights.by_msgid)
    assert {a[0], c[0], own[0]} == flying
    assert [own[1]] == [d.msgid for d in b.pass_time(3, b"w.1") if isinstance(d, Dispatch)]
    assert {a[1], c[1]} == {d.msgid for d in b.pass_time(8, b"w.1") if isinstance(d, Dispatch)}
    b.pass_time(70, b"w.1")
    assert {} == b.engine.gates._buckets


def test_a_fast_pace_is_kept_on_average() -> None:
    """A pace faster than the loop lets several through in a turn, and never saves up more than 50 ms."""
    b = Bench()
    b.publish(1000, task="t")
    handed = len(paced(b, 0.001))
    steps = 0
    while handed < 500:
        got = b.handed(ready(50), passed_s=0.02)
        steps += 1
        handed += len(got)
        assert handed <= steps * 20 + 52
    assert steps <= 26


def test_a_pace_that_ends_lets_all_through() -> None:
    """Once no worker limits the task any more, what was parked for it is let in, in its old places."""
    b = Bench()
    sent = b.publish(2100, task="t")
    paced(b)
    for _ in range(3):
        b.handed()
    assert 2099 == parked(b)
    handed = msgids(b.worker(b"w.2", slots=3, credit=3, tasks={"t": ""}, shares={}))
    for _ in range(5):
        handed += msgids(b.handed())
    assert 0 == parked(b)
    assert 50 < len(b.engine.flights.by_msgid) < 60
    assert sent[: len(b.engine.flights.by_msgid)] == sorted(b.engine.flights.by_msgid, key=sent.index)
    assert 2100 - len(b.engine.flights.by_msgid) == b.engine.queues.by_name["q"].waiting


def test_a_message_can_meet_two_gates() -> None:
    """Places and a pace hold together; what one lets pass and the other doesn't takes nothing of it."""
    b = Bench()
    sent = b.publish(4, task="t", slots=place("a"))
    other = b.publish(2, task="t", slots=place("b"))
    (d,) = paced(b)
    assert sent[0] == d.msgid
    (e,) = b.handed(passed_s=1.0)
    assert other[0] == e.msgid
    assert [] == b.handed(passed_s=1.0)
    assert [sent[1]] == msgids(b.reply(d))
    assert [] == b.reply(e)
    assert [other[1]] == msgids(b.handed(passed_s=1.0))


def test_a_gate_that_was_miscounted_opens_within_minutes() -> None:
    """Where nothing runs and nothing is about to open a gate, it is looked at all the same."""
    b = Bench()
    first, second = b.publish(2, slots=place())
    (d,) = b.worker(slots=9, credit=9)
    b.engine.gates._opened.clear()
    b.engine.gates.running.clear()
    assert first == d.msgid
    handed = [d for d in b.pass_time(130, b"w.1") if isinstance(d, Dispatch)]
    assert [second] == msgids(handed)


def test_a_found_hand_out_counts_again() -> None:
    """A worker that was taken for lost, and says that it has the message, has the place again."""
    b = Bench(dead_after_s=10.0)
    first, second = b.publish(2, slots=place(), task="t")
    (d,) = b.worker(tasks={"t": "l"})
    b.pass_time(12)
    assert {} == b.engine.gates.running
    assert [] == b.worker(tasks={"t": "l"}, held=((d.msgid, 1, True),))
    assert 1 == sum(b.engine.gates.running.values())
    assert [second] == msgids(b.reply(d, ready=1))
    assert first == d.msgid
