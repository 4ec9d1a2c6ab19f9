"""The state of a cluster, by its events."""

from __future__ import annotations

import gc
import pickle
import time
from typing import Any

import pytest

from emq_compat.shim.events.records import Task, Worker, heartbeat_expires
from emq_compat.shim.events.state import State

pytestmark = pytest.mark.unit


class Feed:
    """Gives a state events, each a second and a tick of the clock after the one before."""

    def __init__(self, **options: Any) -> None:
        self.state = State(**options)
        self.now = time.time() - 1000
        self.clock = 0

    def tell(self, type_: str, hostname: str = "w@h", **fields: Any) -> Any:
        self.clock += 1
        self.now += 1
        event = {
            "type": type_,
            "hostname": hostname,
            "timestamp": self.now,
            "local_received": self.now,
            "clock": self.clock,
            "pid": 7,
            **fields,
        }
        return self.state.event(event)

    def task(self, uuid: str, *subjects: str, **fields: Any) -> Task:
        for subject in subjects:
            [(task, _), _] = self.tell(f"task-{subject}", uuid=uuid, **fields)
        assert isinstance(task, Task)
        return task


@pytest.fixture
def feed() -> Feed:
    return Feed()


def test_a_worker(feed: Feed) -> None:
    """A worker's events tell of it; it is alive while its heartbeats come, and gone with its last word."""
    joined: list[str | None] = []
    left: list[str | None] = []
    feed.state.on_node_join = lambda worker: joined.append(worker.hostname)
    feed.state.on_node_leave = lambda worker: left.append(worker.hostname)
    feed.now = time.time() - 2
    told = {"freq": 2.0, "active": 1, "processed": 5, "loadavg": [1, 2, 3]}
    (worker, created), subject = feed.tell("worker-online", **told)

    assert (True, "online") == (created, subject)
    assert ("w@h", 7, 1, 5, [1, 2, 3]) == (
        worker.hostname, worker.pid, worker.active, worker.processed, worker.loadavg
    )  # fmt: skip
    assert worker.alive
    assert [worker] == list(feed.state.alive_workers())
    assert "ONLINE" == worker.status_string
    assert "w@h.7" == worker.id
    for _ in range(6):
        feed.tell("worker-heartbeat", freq=2.0, active=0)
    assert 4 == len(worker.heartbeats)
    assert 0 == worker.active

    feed.tell("worker-offline")
    assert not worker.alive
    assert {} == dict(feed.state.workers)
    assert (["w@h"], ["w@h"]) == (joined, left)


def test_silence(feed: Feed) -> None:
    """A worker whose heartbeats have not come for two of its intervals is offline."""
    feed.now = time.time() - 5
    (worker, _), _ = feed.tell("worker-heartbeat", freq=1.0)
    assert not worker.alive
    assert 110.0 == heartbeat_expires(100.0, 5)


def test_a_task(feed: Feed) -> None:
    """A task has what its events told: its state, their times, and its worker."""
    feed.tell("task-sent", hostname="client@h", uuid="a", name="proj.add", args="(1,)", queue="q")
    task = feed.task("a", "received", name="proj.add", args="(1,)", kwargs="{}", retries=0)
    assert "RECEIVED" == task.state
    feed.task("a", "started")
    feed.task("a", "succeeded", result="3", runtime=0.5)

    assert ("SUCCESS", "3", 0.5, "client@h", "w@h") == (
        task.state, task.result, task.runtime, task.client, task.worker and task.worker.hostname
    )  # fmt: skip
    assert task.ready
    assert task.sent < task.received < task.started < task.succeeded == task.timestamp  # type: ignore[operator]
    assert 1 == feed.state.task_count
    assert 4 == feed.state.event_count
    assert ["proj.add"] == feed.state.task_types()
    assert {"args": "(1,)", "kwargs": "{}", "retries": 0, "result": "3", "runtime": 0.5} == task.info()
    assert {"state": "SUCCESS"} == task.info(fields=[], extra=["state"])


@pytest.mark.parametrize(
    ("subject", "state"),
    [
        ("sent", "PENDING"), ("received", "RECEIVED"), ("started", "STARTED"), ("succeeded", "SUCCESS"),
        ("failed", "FAILURE"), ("retried", "RETRY"), ("revoked", "REVOKED"), ("rejected", "REJECTED"),
        ("custom", "CUSTOM"),
    ],
)  # fmt: skip
def test_states(feed: Feed, subject: str, state: str) -> None:
    """Each event of a task says which state it is in; one of a custom type is a state of its own."""
    assert state == feed.task("a", subject).state


def test_out_of_order(feed: Feed) -> None:
    """An event of an earlier state that comes late changes no state, but tells the name and the arguments."""
    feed.task("a", "succeeded", result="3")
    task = feed.task("a", "received", name="proj.add", args="(1,)", result="no")
    assert ("SUCCESS", "proj.add", "(1,)", "3") == (task.state, task.name, task.args, task.result)
    task = feed.task("a", "started")
    assert "SUCCESS" == task.state
    assert [task] == list(feed.state.tasks_by_type["proj.add"])


def test_after_a_retry(feed: Feed) -> None:
    """After a retry all begins again."""
    assert "RECEIVED" == feed.task("a", "received", "started", "retried", "received").state


def test_order_of_time(feed: Feed) -> None:
    """Tasks are ordered by the clock of their last events, whatever order these came in."""
    for uuid in "abc":
        feed.task(uuid, "received", name="proj.add" if uuid != "b" else "proj.other")
    feed.tell("task-started", uuid="a")
    feed.tell("task-received", hostname="z@h", uuid="d", name="proj.add", clock=2)

    assert ["a", "c", "d", "b"] == [uuid for uuid, _ in feed.state.tasks_by_time()]
    assert ["a", "b", "d", "c"] == [uuid for uuid, _ in feed.state.tasks_by_time(reverse=False)]
    assert ["a", "c"] == [uuid for uuid, _ in feed.state.tasks_by_time(limit=2)]
    assert ["a", "c"] == [uuid for uuid, _ in feed.state.tasks_by_type("proj.add", limit=2)]
    assert {"a", "c", "d"} == {task.uuid for task in feed.state.tasks_by_type["proj.add"]}
    assert ["d"] == [uuid for uuid, _ in feed.state.tasks_by_worker("z@h")]
    assert {"a", "b", "c"} == {task.uuid for task in feed.state.tasks_by_worker["w@h"]}
    assert ["a", "b"] == [uuid for uuid, _ in feed.state.itertasks(limit=2)]


def test_families(feed: Feed) -> None:
    """A task knows its parent, its root and its children, in whatever order they are heard of."""
    child = feed.task("child", "received", parent_id="parent", root_id="parent")
    assert child.parent is None
    parent = feed.task("parent", "received")
    late = feed.task("late", "received", parent_id="parent", root_id="parent")
    assert {child, late} == set(parent.children)
    assert parent is child.parent is child.root
    assert sorted(["child", "late"]) == sorted(parent.as_dict()["children"])


def test_memory_is_bounded() -> None:
    """The oldest tasks are forgotten, and with them their places in all indexes."""
    feed = Feed(max_tasks_in_memory=10)
    for number in range(500):
        feed.task(f"t{number}", "received", "started", name="proj.add", parent_id=f"unknown{number}")
    gc.collect()
    assert [f"t{n}" for n in range(490, 500)] == [uuid for uuid, _ in feed.state.itertasks()]
    assert 10 == len(feed.state.tasks_by_type["proj.add"])
    assert 10 == len(list(feed.state.tasks_by_time()))
    assert len(feed.state._taskheap) <= 40
    assert len(feed.state._tasks_to_resolve) <= 10


def test_what_lacks_something(feed: Feed) -> None:
    """An event that lacks what each has is counted, and tells nothing."""
    assert feed.state.event({"type": "task-own"}) is None
    assert feed.state.event({"type": "worker-own"}) is None
    assert feed.state.event({"type": "other-own"}) is None
    assert 3 == feed.state.event_count


def test_callback_and_handlers(feed: Feed) -> None:
    """The callback sees every event; a group's own handler takes the place of what is done here."""
    seen: list[str] = []
    feed.state.event_callback = lambda state, event: seen.append(event["type"])
    feed.state.handlers["task"] = lambda subject, event: subject.upper()
    assert ("SENT", "sent") == feed.tell("task-sent", uuid="a")
    assert ["task-sent"] == seen
    assert {} == dict(feed.state.tasks)


def test_clearing(feed: Feed) -> None:
    """What has ended is forgotten; a picture is taken of what stands still, and all may be cleared then."""
    feed.task("done", "succeeded")
    feed.task("running", "started")
    feed.state.clear_tasks()
    assert ["running"] == list(feed.state.tasks)
    assert 3 == feed.state.freeze_while(lambda: feed.state._mutex.locked() and 3)
    feed.state.freeze_while(lambda: None, clear_after=True)
    assert (0, 0, ["running"]) == (feed.state.event_count, len(feed.state.workers), list(feed.state.tasks))
    feed.state.clear(ready=False)
    assert [] == list(feed.state.tasks)


def test_pickling(feed: Feed) -> None:
    """A state is pickled with its workers and tasks, and ordered as before."""
    feed.tell("worker-online", freq=2.0)
    feed.task("a", "received", name="proj.add")
    feed.task("b", "received", name="proj.add", parent_id="a")
    again = pickle.loads(pickle.dumps(feed.state))

    assert ["b", "a"] == [uuid for uuid, _ in again.tasks_by_time()]
    assert 2.0 == again.workers["w@h"].freq
    assert {"a", "b"} == {task.uuid for task in again.tasks_by_type["proj.add"]}
    assert "a" == again.tasks["b"].parent_id


def test_made_by_hand() -> None:
    """Workers and tasks can be had, or made, by name; equal names are equal."""
    state = State()
    worker, created = state.get_or_create_worker("w@h", pid=3)
    assert (True, 3) == (created, worker.pid)
    assert (worker, False) == state.get_or_create_worker("w@h")
    task, created = state.get_or_create_task("a")
    assert created
    assert (task, False) == state.get_or_create_task("a")
    assert Worker("w@h") == worker
    assert Task("a") == task
    assert Task("b") != task
    assert 1 == len({task, Task("a")})
