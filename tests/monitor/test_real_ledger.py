"""A real broker and worker, and each metric of both against what the test did and psutil sees."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest

from emq_compat.errors import QueueFull
from emq_compat.monitor.broker_figures import BROKER_FAMILIES
from emq_compat.monitor.worker_figures import WORKER_FAMILIES
from tests.monitor.pages import address_of, metrics
from tests.processes import wait_until
from tests.site import NAME, Site

pytestmark = [pytest.mark.integration]

MORE = """
from emq_compat.shim.exceptions import Reject


@app.task(bind=True, default_retry_delay=0.1)
def again(self):
    if not self.request.retries:
        self.retry()


@app.task
def reject():
    raise Reject("unwanted", requeue=False)


@app.task
def die():
    os.kill(os.getpid(), 9)


@app.task(time_limit=0.5)
def linger():
    time.sleep(30)
"""

LIMIT = 20


def _task(name: str, end: str) -> str:
    return f'emq_worker_tasks_total{{end="{end}",task="{NAME}.{name}"}}'


def _runtime(name: str, what: str = "count") -> str:
    return f'emq_worker_task_runtime_seconds_{what}{{task="{NAME}.{name}"}}'


def test_the_ledger_of_a_real_site(site: Site) -> None:
    """What succeeded, failed, was retried, rejected, lost, cut off, revoked, expired, refused is counted."""
    site.write_project(MORE)
    broker = site.start_broker("--http", "127.0.0.1:0", "--queue-limit", str(LIMIT))
    worker = site.start_worker(
        "-c", "2", "-n", "w@here", "--http", "127.0.0.1:0", "--prefetch-multiplier", "1"
    )
    ours, theirs = address_of(broker), address_of(worker)
    tasks = site.tasks
    began = time.monotonic()

    for result in [tasks.ping.delay("x") for _ in range(5)]:
        result.get(timeout=20)
    ended = [task.delay() for task in (tasks.again, tasks.reject, tasks.die, tasks.linger)]
    ended += [tasks.fail.delay("no"), tasks.fail.delay("no")]
    ended += [tasks.ping.apply_async(["later"], countdown=1.0)]
    for result in ended:
        result.get(timeout=20, propagate=False)

    # Both slots are busy: what comes then waits, expires and is revoked.
    long = [tasks.sleep.delay(3600, mark) for mark in ("one", "two")]
    site.wait_runs("start one")
    site.wait_runs("start two")
    waiting = tasks.ping.apply_async(["first"], priority=9)
    expires = tasks.ping.apply_async(["expires"], expires=0.2)
    revoked = tasks.ping.delay("revoked")
    revoked.revoke()
    delayed = tasks.ping.apply_async(["tomorrow"], countdown=86400)
    since = time.time()
    wait_until(lambda: time.time() > since + 1.2)
    busy = metrics(ours)
    assert 3 == busy['emq_broker_queue_messages_waiting{queue="celery"}']
    assert 1 == busy['emq_broker_queue_messages_delayed{queue="celery"}']
    assert 2 == busy['emq_broker_queue_messages_in_flight{queue="celery"}']
    assert 1.0 < busy['emq_broker_queue_oldest_waiting_seconds{queue="celery"}'] + 1.0 < 60
    at_work = metrics(theirs)
    assert (2, 0, 2, 2) == tuple(
        at_work[f"emq_worker_{name}"] for name in ("tasks_running", "tasks_reserved", "slots", "children")
    )
    for result in long:
        tasks.app.control.revoke(result.id, terminate=True, signal="SIGKILL")
    for result in (*long, waiting, expires, revoked):
        result.get(timeout=20, propagate=False)

    refused = 0
    for _ in range(LIMIT + 5):
        try:
            tasks.ping.apply_async(["x"], queue="full")
        except QueueFull:
            refused += 1
    assert 5 == refused
    site.client.announce("some.topic", b"{}")

    found = metrics(theirs)
    succeeded = 5 + 1 + 1  # at once, later, behind the long ones
    assert {
        _task("ping", "succeeded"): succeeded,
        _task("fail", "failed"): 2,
        _task("again", "retried"): 1,
        _task("again", "succeeded"): 1,
        _task("reject", "rejected"): 1,
        _task("die", "lost"): 1,
        _task("linger", "timed_out"): 1,
        _task("sleep", "revoked"): 2,
    } == {name: value for name, value in found.items() if name.startswith("emq_worker_tasks_total{")}
    runs = succeeded + 2 + 2 + 1 + 1 + 1 + 2
    assert (succeeded, 2, 2, 1) == tuple(
        found[_runtime(name)] for name in ("ping", "fail", "again", "reject")
    )
    assert _runtime("die") not in found
    assert 0 < found[_runtime("ping", "sum")] < time.monotonic() - began
    queued = 'emq_worker_task_queued_seconds_{}{{queue="celery"}}'
    assert runs == found[queued.format("count")]
    # One has waited for a second and more, behind the long ones; one with an eta only from its eta on.
    assert 1.0 < found[queued.format("sum")] < 1.0 + runs * 2.0
    assert {"died": 1, "time-limit": 1, "terminated": 2} == {
        reason: found[f'emq_worker_runs_lost_total{{reason="{reason}"}}']
        for reason in ("died", "time-limit", "terminated")
    }
    assert {
        "tasks_received_total": runs,
        "tasks_running": 0,
        "tasks_reserved": 0,
        "slots": 2,
        "child_start_failures_total": 0,
        "brokers": 1,
        "reconnects_total": 0,
    } == {
        name: found[f"emq_worker_{name}"]
        for name in (
            "tasks_received_total", "tasks_running", "tasks_reserved", "slots", "child_start_failures_total",
            "brokers", "reconnects_total",
        )
    }  # fmt: skip
    # Two at the start, and one for each that was killed.
    wait_until(lambda: metrics(theirs)["emq_worker_child_starts_total"] == 2 + 4)
    wait_until(lambda: metrics(theirs)["emq_worker_replies_unacknowledged"] == 0)
    children = [child for child in worker.children() if child.name().startswith("emq-child")]
    told = metrics(theirs)
    assert len(children) == told["emq_worker_children"] == 2
    memory = sum(child.memory_info().rss for child in children)
    assert memory == pytest.approx(told["emq_worker_children_resident_memory_bytes"], rel=0.2)
    assert psutil.Process(worker.pid).memory_info().rss == pytest.approx(
        told["process_resident_memory_bytes"], rel=0.2
    )
    assert time.monotonic() - began <= told["emq_worker_uptime_seconds"] < time.monotonic() - began + 60

    found = metrics(ours)
    messages = {
        name: found[f"emq_broker_messages_{name}_total"]
        for name in (
            "delivered", "acknowledged", "redelivered", "lost", "dead_lettered", "expired", "revoked",
            "duplicate", "joined", "unroutable",
        )
    }  # fmt: skip
    assert {
        "delivered": runs,
        "acknowledged": runs,
        "redelivered": 0,
        "lost": 0,
        "dead_lettered": 1,
        "expired": 1,
        "revoked": 3,
        "duplicate": 0,
        "joined": 0,
        "unroutable": 0,
    } == messages
    assert runs + 2 + 1 + LIMIT == found["emq_broker_messages_published_total"]
    assert 5 == found['emq_broker_messages_refused_total{reason="QueueFull"}']
    assert LIMIT == found['emq_broker_queue_messages_waiting{queue="full"}']
    assert 0 == found['emq_broker_queue_messages_waiting{queue="celery"}']
    assert runs == found['emq_broker_queue_deliveries_total{queue="celery"}']
    assert (1, 0) == tuple(
        found[f'emq_broker_queue_workers{{queue="{name}"}}'] for name in ("celery", "full")
    )
    assert (1, 1, 1) == tuple(
        found[f"emq_broker_{name}"] for name in ("workers", "dead_letters", "journal_writable")
    )
    assert found["emq_broker_clients"] >= 1
    assert found["emq_broker_announcements_total"] >= 1
    assert (
        found["emq_broker_loop_turn_seconds_count"]
        >= found['emq_broker_journal_write_seconds_count{step="record"}']
    )
    size = (site.folder / "data" / "journal.sqlite3").stat().st_size
    assert size == found['emq_broker_journal_bytes{file="database"}']
    assert len(os.listdir(f"/proc/{broker.pid}/fd")) == pytest.approx(found["process_open_fds"], abs=5)

    # A restart: counters begin anew, what waits and is kept stays, and the worker has connected again.
    kept = 6 + 2 + 4 + 2 + 3
    wait_until(lambda: metrics(ours)["emq_broker_results"] == kept)  # counting isn't repeated at once
    broker.kill()
    ours = address_of(site.start_broker("--http", "127.0.0.1:0"))
    wait_until(lambda: metrics(theirs)["emq_worker_reconnects_total"] == 1, 30)
    found = metrics(ours)
    assert (0, LIMIT, 1, kept) == (
        found["emq_broker_messages_published_total"],
        found['emq_broker_queue_messages_waiting{queue="full"}'],
        found["emq_broker_dead_letters"],
        found["emq_broker_results"],
    )
    assert found['emq_broker_queue_oldest_waiting_seconds{queue="full"}'] > 0
    assert delayed.state == "PENDING"
    os.kill(worker.pid, signal.SIGTERM)
    assert 0 == worker.wait()

    # Nothing else is served, and all that is promised is.
    told_names = {name.partition("{")[0] for name in (*told, *found)}
    promised = {
        f"{family.name}_count" if family.kind == "histogram" else family.name
        for family in (*BROKER_FAMILIES, *WORKER_FAMILIES)
    }
    assert promised - told_names <= {"emq_broker_messages_refused_total"}
