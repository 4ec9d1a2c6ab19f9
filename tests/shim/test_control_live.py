"""Remote control of a worker that runs: what ``app.control`` and its ``inspect`` tell and do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from emq_compat.celery_shim import SoftTimeLimitExceeded, TaskRevokedError
from tests.processes import Procs, unused_port, wait_until
from tests.site import Site, open_site

pytestmark = pytest.mark.integration

MORE = '''
from emq_compat.shim.panel import control_command, inspect_command
from emq_compat.shim.signals import task_revoked


@task_revoked.connect
def noted(sender=None, request=None, terminated=None, expired=None, **kwargs):
    note(f"task_revoked {request.id} {sender.name} {terminated} {expired}")

from emq_compat.shim.surface.bootsteps import StartStopStep

@control_command(args=[("n", int)])
def add_up(state, n=1):
    """Add one."""
    return {"ok": n + 1, "node": state.hostname, "app": state.app.main}


@inspect_command()
def breaks(state):
    raise RuntimeError("no")


@inspect_command()
def held(state):
    from emq_compat.shim.surface.worker_state import active_requests, reserved_requests

    (one,) = active_requests
    return [one.name, one.task_id, len(reserved_requests), one in reserved_requests, "x" in active_requests]


@inspect_command()
def totals(state):
    from emq_compat.shim.surface.worker_state import revoked, total_count

    return [total_count["siteproj.ping"], total_count["siteproj.fail"], sorted(revoked)]


class Liveness(StartStopStep):
    requires = {"celery.worker.components:Timer"}

    def start(self, worker):
        note(f"live {worker.hostname}")
        worker.timer.call_repeatedly(0.1, note, ("beat",))


app.steps["worker"].add(Liveness)
'''


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A broker and one worker of two threads, named ctl@here, for the module."""
    folder = tmp_path_factory.mktemp("control")
    logs = folder / "procs"
    logs.mkdir()
    procs = Procs(logs)
    try:
        with open_site(folder, procs, unused_port) as site:
            site.write_project(MORE)
            site.start_broker()
            site.start_worker("-c", "2", "-P", "threads", "-n", "ctl@here")
            yield site
    finally:
        procs.close()


def test_ping(running: Site) -> None:
    """Each node answers pong; nobody of another name does."""
    control = running.tasks.app.control
    assert [{"ctl@here": {"ok": "pong"}}] == control.ping(timeout=5)
    assert {"ctl@here": {"ok": "pong"}} == control.inspect(timeout=5).ping()
    assert [] == control.ping(destination=["other@here"], timeout=5)
    assert control.inspect(destination=["other@here"]).ping() is None
    assert {"ok": "pong"} == control.inspect(destination="ctl@here", timeout=5).ping()
    assert [{"ctl@here": {"ok": "pong"}}] == control.broadcast(
        "ping", reply=True, timeout=5, pattern="ctl@*", matcher="glob"
    )
    seen: list[Any] = []
    control.ping(timeout=5, callback=seen.append)
    assert [{"ctl@here": {"ok": "pong"}}] == seen


def test_what_runs_is_shown(running: Site) -> None:
    """active and query_task show a running task with Celery's keys; revoke(terminate=True) ends it."""
    control = running.tasks.app.control
    inspect = control.inspect(timeout=5)
    result = running.tasks.sleep.delay(60, mark="shown")
    wait_until(lambda: running.count("start shown"))
    (shown,) = inspect.active()["ctl@here"]
    assert {
        "id": result.id, "name": "siteproj.sleep", "type": "siteproj.sleep", "args": [60],
        "kwargs": {"mark": "shown"}, "hostname": "ctl@here", "acknowledged": True,
        "delivery_info": {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False},
    } == {name: shown[name] for name in shown if name not in ("time_start", "worker_pid")}  # fmt: skip
    assert shown["time_start"] > 1e9
    assert shown["worker_pid"] > 1
    assert {"ctl@here": {result.id: ["active", shown]}} == inspect.query_task(result.id)
    assert {"ctl@here": {}} == inspect.query_task(["d08b257e-a7f1-4b92-9fea-be911441cb2a"])
    assert {"ctl@here": []} == inspect.scheduled()
    (held,) = control.broadcast("held", reply=True, timeout=5)
    assert ["siteproj.sleep", result.id, 1, True, False] == held["ctl@here"]
    control.revoke(result.id, terminate=True)
    wait_until(lambda: not inspect.active()["ctl@here"])
    assert result.id in inspect.revoked()["ctl@here"]


def test_what_waits_for_its_time_is_shown(running: Site) -> None:
    """scheduled has Celery's keys; a task is told by one node, and by none for a queue that has no worker."""
    control = running.tasks.app.control
    eta = datetime.now(timezone.utc) + timedelta(hours=1)
    result = running.tasks.ping.apply_async(("later",), eta=eta, priority=3)
    running.tasks.ping.apply_async(("elsewhere",), eta=eta, queue="nobodys")
    (shown,) = control.inspect(timeout=5).scheduled()["ctl@here"]
    assert (eta.isoformat(), 6) == (shown["eta"], shown["priority"])
    assert {
        "id": result.id, "name": "siteproj.ping", "type": "siteproj.ping", "args": ["later"], "kwargs": {},
        "hostname": "ctl@here", "time_start": None, "acknowledged": False, "worker_pid": None,
        "delivery_info": {"exchange": "", "routing_key": "celery", "priority": 3, "redelivered": False},
    } == shown["request"]  # fmt: skip
    assert control.inspect(destination=["other@here"], timeout=5).scheduled() is None
    result.revoke()
    assert 1 == control.purge()


def test_tasks_are_revoked_by_their_stamps(running: Site) -> None:
    """What has a stamp in common doesn't run, or ends; a stamp of another value changes nothing."""
    control = running.tasks.app.control

    def stamped(value: Any, mark: str, seconds: float = 0) -> Any:
        sig = running.tasks.sleep.si(seconds, mark=mark)
        sig.stamp(order=value)
        return sig.delay()

    runs = stamped(["o-1", "o-2"], "stamped", 60)
    wait_until(lambda: running.count("start stamped"))
    told = "headers {'order': ['o-9']} flagged as revoked, but not terminated"
    assert [{"ctl@here": {"ok": told}}] == control.revoke_by_stamped_headers(
        {"order": ["o-9"]}, reply=True, timeout=5
    )
    assert [{"ctl@here": {"ok": "headers {'order': 'o-2'} revoked"}}] == control.revoke_by_stamped_headers(
        ["order=o-2"], terminate=True, reply=True, timeout=5
    )
    for revoked in (runs, stamped("o-2", "never"), stamped(["x", "o-9"], "never")):
        with pytest.raises(TaskRevokedError):
            revoked.get(timeout=20)
    stamped("o-3", "runs").get(timeout=20)
    assert [1, 0] == [running.count("start runs"), running.count("start never")]


def test_a_worker_tells_of_what_the_broker_ended(running: Site) -> None:
    """task_revoked is sent for a task that expired, or was revoked, before a worker had it, too."""
    ping = running.tasks.ping
    expired = ping.apply_async(("expired",), expires=datetime.now(timezone.utc) - timedelta(seconds=1))
    running.wait_runs(f"task_revoked {expired.id} siteproj.ping False True")
    revoked = ping.apply_async(("revoked",), countdown=3600, link_error=ping.si("error"))
    revoked.revoke()
    running.wait_runs(f"task_revoked {revoked.id} siteproj.ping False False")
    assert 0 == running.count("ping expired") == running.count("ping revoked")


def test_what_a_worker_has(running: Site) -> None:
    """registered, active_queues, stats, conf and report have Celery's shapes."""
    inspect = running.tasks.app.control.inspect(timeout=5)
    running.tasks.ping.delay("counted").get(timeout=20)
    registered = inspect.registered()["ctl@here"]
    assert [] == [name for name in registered if name.startswith(("celery.", "emq_compat."))]
    assert "siteproj.ping" in inspect.registered()["ctl@here"]
    assert "siteproj.ping [name=siteproj.ping]" in inspect.registered("name")["ctl@here"]
    (queue,) = inspect.active_queues()["ctl@here"]
    assert ("celery", "celery", "direct", True) == (
        queue["name"], queue["routing_key"], queue["exchange"]["type"], queue["durable"],
    )  # fmt: skip
    stats = inspect.stats()["ctl@here"]
    pool = stats["pool"]
    assert (2, "N/A", [0, 0], False) == tuple(
        pool[name]
        for name in ("max-concurrency", "max-tasks-per-child", "timeouts", "put-guarded-by-semaphore")
    )
    assert stats["total"]["siteproj.ping"] >= 1
    address = f"{stats['broker']['transport']}://{stats['broker']['hostname']}:{stats['broker']['port']}"
    assert running.url.partition("?")[0] == address
    assert {"clock", "pid", "prefetch_count", "uptime"} < stats.keys()
    assert {"utime", "stime", "maxrss", "minflt", "nvcsw"} < stats["rusage"].keys()
    assert running.url == inspect.conf()["ctl@here"]["broker_url"]
    assert "emq-compat" in inspect.report()["ctl@here"]["ok"]
    assert inspect.clock()["ctl@here"]["clock"] > 0


def test_queues_change_while_it_runs(running: Site) -> None:
    """add_consumer has a worker take tasks of one more queue, cancel_consumer ends that."""
    control = running.tasks.app.control
    result = running.tasks.ping.apply_async(("added",), queue="further")
    assert [{"ctl@here": {"ok": "add consumer further"}}] == control.add_consumer(
        "further", reply=True, timeout=5
    )
    assert "added" == result.get(timeout=20)
    control.cancel_consumer("further", reply=True, timeout=5)
    assert ["celery"] == [queue["name"] for queue in control.inspect(timeout=5).active_queues()["ctl@here"]]


def test_what_a_worker_has_done(running: Site) -> None:
    """celery.worker.state counts runs by their task, and has the revokes of what the worker holds."""
    tasks = running.tasks
    held = tasks.sleep.delay(3, mark="held")
    running.wait_runs("start held")
    [runs, failures, _] = tasks.app.control.inspect(timeout=5)._request("totals")["ctl@here"]
    tasks.ping.delay("once more").get(timeout=20)
    held.revoke()
    told = tasks.app.control.inspect(timeout=5)._request("totals")["ctl@here"]
    assert [runs + 1, failures] == told[:2]
    held.get(timeout=20, propagate=False)


def test_a_signature_is_published_by_one_of_the_workers(running: Site) -> None:
    """election has a worker publish it; its result is the one that is returned."""
    assert "elected" == running.tasks.ping.s("elected").election().get(timeout=20)
    assert 1 == running.count("ping elected")


def test_steps_of_the_projects_own(running: Site) -> None:
    """A step of app.steps["worker"] is started in the worker's parent, and its timer beats."""
    wait_until(lambda: running.count("beat") > 1)
    assert 1 == running.count("live ctl@here")


def test_limits_change_while_it_runs(running: Site) -> None:
    """time_limit and rate_limit hold for runs that come later, and can be taken back."""
    tasks = running.tasks
    control = tasks.app.control
    told = control.time_limit("siteproj.sleep", soft=0.3, hard=30, reply=True, timeout=5)
    assert [{"ctl@here": {"ok": "time limits set successfully"}}] == told
    with pytest.raises(SoftTimeLimitExceeded):
        tasks.sleep.delay(5, mark="limited").get(timeout=20)
    control.time_limit("siteproj.sleep", reply=True, timeout=5)
    tasks.sleep.delay(0.6, mark="free").get(timeout=20)

    told = control.rate_limit("siteproj.ping", "2/s", reply=True, timeout=5)
    assert [{"ctl@here": {"ok": "new rate limit set successfully"}}] == told
    begun = time.monotonic()
    for result in [tasks.ping.delay(str(n)) for n in range(5)]:
        result.get(timeout=20)
    assert time.monotonic() - begun > 1.4
    assert [{"ctl@here": {"ok": "rate limit disabled successfully"}}] == control.rate_limit(
        "siteproj.ping", 0, reply=True, timeout=5
    )

    assert [{"ctl@here": {"error": "unknown task"}}] == control.rate_limit(
        "no.such", "1/s", reply=True, timeout=5
    )
    (refused,) = control.rate_limit("siteproj.ping", "often", reply=True, timeout=5)
    assert "Invalid rate limit string" in refused["ctl@here"]["error"]


def test_commands_of_the_projects_own(running: Site) -> None:
    """A registered command runs in the worker; its error, and an unknown name, are answered as errors."""
    broadcast = running.tasks.app.control.broadcast
    assert [{"ctl@here": {"ok": 5, "node": "ctl@here", "app": "siteproj"}}] == broadcast(
        "add_up", arguments={"n": 4}, reply=True, timeout=5
    )
    assert [{"ctl@here": {"error": "RuntimeError('no')"}}] == broadcast("breaks", reply=True, timeout=5)
    (unknown,) = broadcast("no_such", reply=True, timeout=5)
    assert "no_such" in unknown["ctl@here"]["error"]
    assert broadcast("add_up") is None


def test_commands_with_celerys_arguments(running: Site) -> None:
    """broadcast takes Celery's commands under their names, with their arguments, old names included."""
    tasks = running.tasks
    broadcast = tasks.app.control.broadcast

    def told(command: str, **arguments: Any) -> Any:
        (reply,) = broadcast(command, arguments=arguments, reply=True, timeout=5)
        return reply["ctl@here"]

    assert "siteproj.ping [name=siteproj.ping]" in told("registered", taskinfoitems=["name"])
    assert told("dump_tasks") == told("registered")
    assert [] == told("active", safe=True) == told("dump_active") == told("dump_reserved")
    assert {"ok": "tasks {'an-id'} flagged as revoked"} == told("revoke", task_id="an-id")
    assert {"ok": "terminate: tasks unknown"} == told("terminate", signal="KILL", task_id=["an-id", "b"])
    assert {"an-id", "b"} <= set(told("dump_revoked"))
    waits = tasks.ping.apply_async(("revoked",), queue="nobodys")
    told("revoke", task_id=waits.id)
    assert "REVOKED" == waits.state
    with pytest.raises(ValueError, match="there is no signal 'SIGNONE'"):
        tasks.app.control.terminate("an-id", signal="SIGNONE")
    with pytest.raises(ValueError, match="there is no signal 99"):
        waits.revoke(terminate=True, signal=99)
    assert "finished" == waits.revoke(terminate=True, signal=9)
    with pytest.raises(ValueError, match="the matcher 'fuzzy' is unknown"):
        broadcast("ping", reply=True, pattern="*", matcher="fuzzy")


def test_hello_tells_and_takes_what_is_revoked(running: Site) -> None:
    """hello returns revoked ids of every other node, and what it is told is revoked from then on."""
    inspect = running.tasks.app.control.inspect(timeout=5)
    answer = inspect.hello("other@here", revoked=["told-by-hello"])["ctl@here"]
    assert "told-by-hello" in answer["revoked"]
    assert answer["clock"] > 0
    assert inspect.hello("ctl@here") is None
    assert "told-by-hello" in inspect.revoked()["ctl@here"]


def test_memory_is_noted_and_dumped(running: Site) -> None:
    """memsample notes the memory in use, memdump tells the notes once; objgraph needs its library."""
    inspect = running.tasks.app.control.inspect(timeout=5)
    noted = inspect.memsample()["ctl@here"]
    assert noted.endswith("MB")
    assert noted in inspect.memdump()["ctl@here"]
    assert noted not in inspect.memdump()["ctl@here"].partition("rss (end)")[0]
    assert "objgraph is not installed" in inspect.objgraph()["ctl@here"]["error"]


def test_an_election_has_one_winner(running: Site) -> None:
    """The worker that wins sends the task that the election was held for, once."""
    control = running.tasks.app.control
    assert control.election("leader", "task", running.tasks.ping.si("elected")) is None
    running.wait_runs("ping elected")
    assert 1 == running.count("ping elected")
    assert "by itself" == running.tasks.ping.si("by itself").election().get(timeout=20)
    (refused,) = control.broadcast("election", {"id": "1", "topic": "no", "action": 1}, reply=True, timeout=5)
    assert "unknown election topic 'no'" == refused["ctl@here"]["error"]


def test_the_mailbox_asks_and_tells(running: Site) -> None:
    """control.mailbox has the calls of kombu's, and each is a broadcast."""
    mailbox = running.tasks.app.control.mailbox
    pong = [{"ctl@here": {"ok": "pong"}}]
    assert pong == mailbox.call(["ctl@here"], "ping", timeout=5) == mailbox.multi_call("ping", timeout=5)
    mailbox(None).cast(["ctl@here"], "add_consumer", {"queue": "cast"})
    queues = running.tasks.app.control.inspect(timeout=5).active_queues
    wait_until(lambda: "cast" in [queue["name"] for queue in queues()["ctl@here"]])
    mailbox.abcast("cancel_consumer", {"queue": "cast"})
    wait_until(lambda: "cast" not in [queue["name"] for queue in queues()["ctl@here"]])


def test_a_worker_that_may_not_scale_or_restart_its_pool_says_so(running: Site) -> None:
    """autoscale and pool_restart are errors where the worker wasn't started for it; heartbeat is silent."""
    control = running.tasks.app.control
    for command, why in (
        (control.autoscale(4, 1, reply=True, timeout=5), "Autoscale not enabled"),
        (control.pool_restart(reply=True, timeout=5), "Pool restarts not enabled"),
    ):
        assert [{"ctl@here": {"error": f"ValueError({why!r})"}}] == command
    assert [{"ctl@here": None}] == control.heartbeat(reply=True, timeout=5)
    with pytest.raises(ValueError, match="a reloader can't be sent"):
        control.pool_restart(reloader=print)


def test_purge_counts_what_waited(running: Site) -> None:
    """purge drops what waits in the app's queues, and no other queue's."""
    app = running.tasks.app
    running.tasks.ping.apply_async(("eta",), countdown=3600)
    kept = running.tasks.ping.apply_async(("kept",), queue="unserved")
    assert 1 == app.control.purge()
    assert 0 == app.control.discard_all()
    app.control.add_consumer("unserved", reply=True, timeout=5)
    assert "kept" == kept.get(timeout=20)


def test_events(running: Site) -> None:
    """Events of tasks are turned on and off; a worker says what it comes to."""
    control = running.tasks.app.control
    for verb, said in (("enable_events", "enabled"), ("enable_events", "already enabled"),
                       ("disable_events", "disabled"), ("disable_events", "already disabled")):  # fmt: skip
        [reply] = getattr(control, verb)(reply=True, timeout=10)
        assert [{"ok": f"task events {said}"}] == list(reply.values())
