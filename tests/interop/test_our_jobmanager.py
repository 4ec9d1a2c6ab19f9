"""Our job manager under a stock router."""

from __future__ import annotations

import signal

import pytest

from tests.interop.conftest import Notes, OurJobManager, StockRouter
from tests.processes import wait_until

pytestmark = [pytest.mark.interop]


def _slots(router: StockRouter) -> list[int]:
    """The free slots of each worker that the router knows."""
    workers = router.shown("show_workers")["connected_workers"].values()
    return [worker["available_slots"] for worker in workers]


def test_jobs_of_several_queues_run(router: StockRouter, our_jobmanager: OurJobManager, notes: Notes) -> None:
    """Jobs of every queue listened on run once each, those that waited, too, and all slots return."""
    queues = ((10, "default"), (20, "mail"), (5, "slow"))
    router.start()
    our_jobmanager(router.endpoint("backend"), queues=queues)
    router.defer(
        *(
            f"'stock_tasks.note', args=[{notes.path!r}, '{queue}-{n}'], queue={queue!r}, reply_requested=True"
            for n in range(10)
            for _, queue in queues
        )
    )
    notes.wait(30)
    assert {1} == set(notes.counts().values())
    wait_until(lambda: _slots(router) == [2], what="two free slots")
    # Only a REPLY ends a job for the router.
    assert {} == router.shown("status")["inflight_messages_by_queue"]


@pytest.mark.parametrize(
    "busy_s", [pytest.param(12.0, id="short"), pytest.param(40.0, id="long", marks=pytest.mark.long)]
)
def test_heartbeats_keep_a_busy_job_manager_registered(
    router: StockRouter, our_jobmanager: OurJobManager, notes: Notes, busy_s: float
) -> None:
    """A job manager that is wholly busy outlives the router's look at who is silent (every 10 s)."""
    proc = router.start(HEARTBEAT_TIMEOUT="4")
    our_jobmanager(router.endpoint("backend"), jobs=1)
    job = f"'stock_tasks.note_and_sleep', args=[{notes.path!r}, 'busy', {busy_s}]"
    after = f"'stock_tasks.note', args=[{notes.path!r}, 'after']"
    router.defer(job, after)
    notes.wait(3, timeout_s=busy_s + 20)
    assert ["busy", "busy ended", "after"] == notes.lines()
    assert "No messages from worker" not in proc.output()


def test_a_router_that_is_killed_and_started_again(
    router: StockRouter, our_jobmanager: OurJobManager, notes: Notes
) -> None:
    """The job manager comes back; a job that runs meanwhile goes on, once, and is answered."""
    router.start()
    manager = our_jobmanager(router.endpoint("backend"))
    router.defer(f"'stock_tasks.note_and_sleep', args=[{notes.path!r}, 'long', 4], reply_requested=True")
    notes.wait(1)
    assert router.proc is not None
    router.proc.kill()
    proc = router.start()
    manager.wait_line("connected again to a stock router")
    router.defer(f"'stock_tasks.note', args=[{notes.path!r}, 'meanwhile']")
    notes.wait(2)
    assert ["long", "meanwhile"] == notes.lines()
    notes.wait(3)
    proc.wait_line("'REPLY'")
    wait_until(lambda: _slots(router) == [2], what="two free slots")
    assert {"long": 1, "meanwhile": 1, "long ended": 1} == notes.counts()


def test_term_is_warm(router: StockRouter, our_jobmanager: OurJobManager, notes: Notes) -> None:
    """TERM says KBYE at once, and lets the running job end and be answered; others take what waits."""
    proc = router.start()
    first = our_jobmanager(router.endpoint("backend"), jobs=1)
    job = f"'stock_tasks.note_and_sleep', args=[{notes.path!r}, 'running', 2], reply_requested=True"
    router.defer(job, f"'stock_tasks.note', args=[{notes.path!r}, 'waiting']")
    notes.wait(1)
    first.send_signal(signal.SIGTERM)
    proc.wait_line("'KBYE'")
    assert ["running"] == notes.lines()
    assert 0 == first.wait()
    assert ["running", "running ended"] == notes.lines()
    proc.wait_line("'REPLY'")
    assert [] == _slots(router)
    our_jobmanager(router.endpoint("backend"), jobs=1)
    notes.wait(3)
    assert {1} == set(notes.counts().values())


def test_a_job_without_a_free_process_is_not_taken(
    router: StockRouter, our_jobmanager: OurJobManager, notes: Notes
) -> None:
    """A stock router takes nothing back: no more is asked of it than can begin at once."""
    router.start()
    queues = ((10, "default"),)
    busy = our_jobmanager(router.endpoint("backend"), jobs=1, queues=queues)
    router.defer(f"'stock_tasks.note_and_hang_once', args=[{notes.path!r}, 'hangs', 60]")
    notes.wait(1)
    router.defer(*(f"'stock_tasks.note', args=[{notes.path!r}, '{n}']" for n in range(20)))
    our_jobmanager(router.endpoint("backend"), jobs=1, queues=queues)
    notes.wait(21)
    busy.kill()
    assert {1} == set(notes.counts().values())
