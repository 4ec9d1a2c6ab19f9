"""What Celery's clients see of our worker beside Celery's own: one module for each broker runs this."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from emq_compat.ids import new_id
from tests.genuine.fleet import CELERYS, NAME, OURS, Fleet
from tests.processes import procs_in, wait_until

BOTH = {CELERYS, OURS}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, place: tuple[str, str]) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with procs_in(folder) as procs:
        made = Fleet(procs, folder, *place, f"t{new_id()[-10:]}")
        made.begin()
        yield made
        made.close()


def the_same(answers: dict[str, Any]) -> Any:
    """What both have answered."""
    assert set(answers) == BOTH
    assert answers[CELERYS] == answers[OURS]
    return answers[OURS]


def keys_of(answers: dict[str, Any]) -> dict[str, set[str]]:
    return {node: set(answer) for node, answer in answers.items()}


def test_who_is_there(fleet: Fleet) -> None:
    """Both answer a ping, alone too, and Celery's command lines show both."""
    assert {"ok": "pong"} == the_same(fleet.inspect().ping())
    assert [{OURS: {"ok": "pong"}}] == fleet.app.control.ping(destination=[OURS], timeout=10)
    found = fleet.app.control.broadcast(
        "ping", reply=True, pattern="ou*", matcher="glob", timeout=10, limit=1
    )
    assert [{OURS: {"ok": "pong"}}] == found
    done = fleet.run("celery", "inspect", "-t", "2", "ping")
    assert 0 == done.returncode
    assert f"{OURS}: OK" in done.stdout
    assert "2 nodes online" in done.stdout
    done = fleet.run("celery", "status", "-t", "2")
    assert f"{OURS}: OK" in done.stdout


def test_our_command_lines(fleet: Fleet) -> None:
    """emq-compat's inspect, control, status and events work with a genuine app as with one of the shim."""
    told = json.loads(fleet.run("emq-compat", "inspect", "-j", "-t", "2", "ping").stdout)
    assert {"ok": "pong"} == told[OURS]
    told = json.loads(fleet.run("emq-compat", "control", "-j", "-t", "2", "heartbeat").stdout)
    assert OURS in {node for answer in told for node in answer}
    status = json.loads(fleet.run("emq-compat", "status", "-j", "-t", "2").stdout)
    assert any(worker["name"].startswith(OURS) for worker in status["workers"])
    assert fleet.namespace in {queue["name"] for queue in status["queues"]}
    dump = fleet.start("emq-compat", "events", "--dump")
    dump.wait_line(f"{OURS} [", 30)
    dump.wait_line(f"{CELERYS} [", 30)
    dump.stop()
    dump = fleet.start("celery", "events", "--dump")
    dump.wait_line(f"{OURS} [", 30)
    dump.stop()


def test_what_they_are(fleet: Fleet) -> None:
    """Registered tasks, queues, settings, versions and statistics have Celery's shape."""
    inspect = fleet.inspect()
    registered = the_same(inspect.registered())
    assert f"{NAME}.add [rate_limit=1000/s]" in registered
    queues = inspect.active_queues()
    assert [fleet.namespace] == [queue["name"] for queue in queues[OURS]]
    assert set(queues[CELERYS][0]) == set(queues[OURS][0])
    assert queues[CELERYS][0]["exchange"].keys() == queues[OURS][0]["exchange"].keys()
    stats = inspect.stats()
    assert set(stats[CELERYS]) <= set(stats[OURS])
    missing = set(stats[CELERYS]["pool"]) - set(stats[OURS]["pool"])
    assert missing <= {"writes"}
    assert stats[CELERYS]["broker"]["transport"] == stats[OURS]["broker"]["transport"]
    assert fleet.ours.pid == stats[OURS]["pid"]
    conf = inspect.conf()
    # What the one or the other worker sets itself by its command line.
    assert set(conf[CELERYS]) ^ set(conf[OURS]) <= {
        "include", "worker_disable_prefetch", "worker_send_task_events"
    }  # fmt: skip
    assert fleet.namespace == conf[OURS]["control_exchange"]
    assert "celery:5.7.0" in inspect.report()[OURS]["ok"]
    clocks = inspect.clock()
    assert BOTH == set(clocks)
    assert isinstance(clocks[OURS]["clock"], int)


def test_what_runs_and_waits(fleet: Fleet) -> None:
    """Running tasks, those that are held and those with an ETA are shown with Celery's members."""
    running = fleet.on_both(lambda: fleet.tasks.sleep.delay(600))
    delayed = fleet.tasks.add.apply_async((1, 2), countdown=600)
    try:
        inspect = fleet.inspect()
        active = inspect.active()
        shown = {node: {task["id"]: task for task in tasks} for node, tasks in active.items()}
        ours = shown[OURS][running[OURS].id]
        celerys = shown[CELERYS][running[CELERYS].id]
        assert celerys.keys() == ours.keys()
        assert celerys["delivery_info"].keys() == ours["delivery_info"].keys()
        assert (f"{NAME}.sleep", [600], {}, OURS) == tuple(
            ours[name] for name in ("name", "args", "kwargs", "hostname")
        )
        queried = inspect.query_task([running[OURS].id])
        assert ["active", running[OURS].id] == [
            queried[OURS][running[OURS].id][0], queried[OURS][running[OURS].id][1]["id"]
        ]  # fmt: skip
        assert BOTH == set(inspect.reserved())

        def scheduled() -> list[Any]:
            found = fleet.inspect().scheduled()
            return [one for rows in found.values() for one in rows if one["request"]["id"] == delayed.id]

        (row,) = wait_until(scheduled, 30, what="the delayed task")
        assert {"eta", "priority", "request"} == set(row)
    finally:
        everything = [delayed.id, *(task["id"] for tasks in active.values() for task in tasks)]
        fleet.control("terminate", everything, signal="KILL")
    wait_until(lambda: not any(fleet.inspect().active().values()), 60, what="no task that runs")
    wait_until(lambda: running[OURS].state == "REVOKED", 30, what="the state of the terminated task")


def test_revoked_tasks_do_not_run(fleet: Fleet) -> None:
    """A task that is revoked while it waits is run by neither; both know of it, and so does the result."""
    later = fleet.tasks.add.apply_async((1, 2), countdown=600)
    fleet.control("revoke", later.id)
    wait_until(lambda: later.state == "REVOKED", 30, what="the state of a task of ten minutes from now")
    file = fleet.folder / "revoked"
    tasks = [
        fleet.tasks.notes.apply_async((str(file), "ran"), countdown=2, task_id=new_id()) for _ in range(6)
    ]
    told = fleet.control("revoke", [task.id for task in tasks])
    assert BOTH == set(told)
    assert all("flagged as revoked" in answer["ok"] for answer in told.values())
    wait_until(lambda: all(task.state == "REVOKED" for task in tasks), 60, what="the revoked tasks' states")
    assert not file.exists()
    revoked = fleet.inspect().revoked()
    assert {task.id for task in tasks} <= set(revoked[OURS])


def test_pools_and_limits(fleet: Fleet) -> None:
    """Pools grow and shrink, limits change, and both say so in the same words."""
    assert {"ok": "pool will grow"} == the_same(fleet.control("pool_grow", 1))
    assert 3 == fleet.inspect().stats()[OURS]["pool"]["max-concurrency"]
    assert {"ok": "pool will shrink"} == the_same(fleet.control("pool_shrink", 1))
    name = f"{NAME}.add"
    assert {"ok": "new rate limit set successfully"} == the_same(fleet.control("rate_limit", name, "500/s"))
    assert {"error": "unknown task"} == the_same(fleet.control("rate_limit", "none", "1/s"))
    assert {"ok": "time limits set successfully"} == the_same(fleet.control("time_limit", name, 50, 60))
    assert {"ok": "reload started"} == fleet.control("pool_restart", destination=[OURS], limit=1)[OURS]
    assert [] == [node for node in fleet.control("heartbeat") if node not in BOTH]
    assert 3 == fleet.tasks.add.delay(1, 2).get(timeout=30)


def test_queues(fleet: Fleet) -> None:
    """A queue that is added is consumed from, and is no more once it is cancelled."""
    extra = f"{fleet.namespace}x"
    told = the_same(fleet.control("add_consumer", extra))
    assert {"ok": f"add consumer {extra}"} == told
    assert 5 == fleet.tasks.add.apply_async((2, 3), queue=extra).get(timeout=30)
    assert {"ok": f"no longer consuming from {extra}"} == the_same(fleet.control("cancel_consumer", extra))

    def alone() -> bool:
        return all(len(queues) == 1 for queues in fleet.inspect().active_queues().values())

    wait_until(alone, 30, what="one queue each")


def test_events(fleet: Fleet) -> None:
    """Celery's receiver hears the same events, with the same members, of both workers."""
    with fleet.events() as heard:
        tasks = _some_of_each(fleet, 20)

        def all_of_both() -> bool:
            kinds = {(event["hostname"], event["type"]) for event in list(heard)}
            return {(node, kind) for node in BOTH for kind in _KINDS} <= kinds

        def again() -> bool:
            if not all_of_both():
                tasks.extend(_some_of_each(fleet, 2))
                return False
            return True

        wait_until(again, 60, what="all events of both", interval_s=0.3)
        members = {
            node: {event["type"]: set(event) for event in heard if event["hostname"] == node} for node in BOTH
        }
    for kind in _KINDS:
        assert members[CELERYS][kind] <= members[OURS][kind], kind
    for task in tasks:
        task.forget()


_KINDS = ("task-received", "task-started", "task-succeeded", "task-failed", "worker-heartbeat")


def _some_of_each(fleet: Fleet, count: int) -> list[Any]:
    # Not one of each in turns: RabbitMQ hands out in turns, too, and then each worker has one kind only.
    added = [fleet.tasks.add.delay(1, 2) for _ in range(count)]
    return added + [fleet.tasks.fail.delay() for _ in range(count)]


def test_task_events_are_turned_off_and_on(fleet: Fleet) -> None:
    """disable_events and enable_events are answered by both; ours can be turned off after -E, too."""
    for method, told in (
        ("disable_events", "task events disabled"),
        ("disable_events", "task events already disabled"),
        ("enable_events", "task events enabled"),
        ("enable_events", "task events already enabled"),
    ):
        answers = fleet.control(method)
        assert {"ok": told} == answers[OURS]
        assert answers[CELERYS]["ok"].startswith("task events ")


def test_shutdown_and_events_of_it(fleet: Fleet) -> None:
    """Ours says that it goes offline when it is shut down, and that it is online when it comes again."""
    with fleet.events() as heard:

        def of_ours(kind: str) -> bool:
            return any(event["hostname"] == OURS and event["type"] == kind for event in list(heard))

        fleet.app.control.shutdown(destination=[OURS])
        assert 0 == fleet.ours.wait(60)
        wait_until(lambda: of_ours("worker-offline"), 30, what="worker-offline")
        fleet.ours = fleet.start_worker(OURS)
        wait_until(lambda: of_ours("worker-online"), 60, what="worker-online")
    assert {"ok": "pong"} == the_same(fleet.inspect().ping())


def test_an_election(fleet: Fleet) -> None:
    """Ours does what an election was held for; Celery's, which would end with an IndexError, has gone."""
    assert 0 == fleet.celerys.stop(60)
    file = fleet.folder / "elected"
    fleet.app.control.election(new_id(), "task", dict(fleet.tasks.notes.s(str(file), "won")))
    wait_until(file.exists, 30, what="what the winner was to do")
    assert "won\n" == file.read_text()
    fleet.ours.send_signal(signal.SIGTERM)
    assert 0 == fleet.ours.wait(60)
