"""Which worker gets what, from which queue, and what of the queues is in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from emq_compat.broker.queue import MessageQueue
from emq_compat.broker.records import Dispatch, Waiting
from emq_compat.broker.windows import ENTRY_BYTES
from emq_compat.broker.workers import Worker
from emq_compat.message import new_id
from emq_compat.protocol.commands import Capabilities, Hello, Inform, Kbye, Ready
from tests.broker.bench import Bench, nack

pytestmark = pytest.mark.unit


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


def test_weights_decide_between_queues() -> None:
    """A worker takes from its heaviest queue first; queues of one weight take turns."""
    b = Bench()
    light, heavy = b.publish(2, queue="light"), b.publish(2, queue="heavy")
    inform = Inform(msgid="i", queues=((1, "light"), (9, "heavy")), capabilities=Capabilities(slots=9))
    assert [*heavy, *light] == [
        d.msgid for d in b.handed((b"w.1", inform), (b"w.1", Ready(msgid="r", count=9)))
    ]


def test_workers_that_have_not_changed_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that one of fifty idle workers gets, and its end, make the broker look at that one only."""
    b = Bench()
    for i in range(50):
        b.worker(f"w.{i}".encode(), credit=5)
    b.publish()
    [first] = [s for s in b.sent if isinstance(s, Dispatch)]
    b.reply(first)
    looks: list[bytes] = []

    def counted(worker: Worker) -> int:
        looks.append(worker.identity)
        return min(worker.credit, worker.slots - len(worker.in_flight))

    monkeypatch.setattr(Worker, "idle_slots", property(counted))
    b.publish()
    assert {first.identity} == set(looks)


def test_queues_where_nothing_waits_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """One message among a hundred queues and fifty workers costs one look, not one at each by each."""
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
    assert ["q77"] == looks
    b.turn()
    assert 1 == len(looks)


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


def test_the_log_tells_what_changes_of_a_worker() -> None:
    """A worker that says again what it is leaves no line; other queues, coming back and leaving do."""
    b = Bench()

    def told(name: str, *queues: str) -> tuple[list[str], list[object]]:
        b.engine.desk.notes.clear()
        b.worker(name.encode(), queues=queues)
        lines = [text for level, text in b.engine.desk.notes if level != "debug"]
        return lines, [hello.about.get("namesake") for hello in b.commands(Hello)]

    second = "a second worker is named w@h: give each its own name (-n)"
    assert (["worker w@h.1: q"], [None]) == told("w@h.1", "q")
    assert ([second, "worker w@h.2: q"], ["w@h"]) == told("w@h.2", "q")
    for name in ("w@h.1", "w@h.2"):
        assert ([], [None]) == told(name, "q")
    assert (["worker w@h.2: q, r"], [None]) == told("w@h.2", "q", "r")
    b.engine.connection_gone(b"w@h.1", b.now)
    assert (["worker w@h.1: q"], [None]) == told("w@h.1", "q")
    b.engine.desk.notes.clear()
    b.turn((b"w@h.1", Kbye(msgid="k")))
    assert [("info", "worker w@h.1 leaves")] == b.engine.desk.notes
