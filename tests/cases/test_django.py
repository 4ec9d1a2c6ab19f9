"""A Django project's tasks, transactions and connections in each pool (case 31)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cases.django_project import write_django_project
from tests.processes import Procs, unused_port
from tests.site import POOLS, Site, open_site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

#: Where tasks of each run: pool, and how its processes are started.
WORKERS = (*POOLS, "spawn")

CALL = """
import json
import os
import sys

import django

django.setup()
from django.db import transaction
from django.utils import translation
from django.utils.translation import gettext_lazy
from shop import tasks
from shop.models import Order

told = {}


def get(result):
    value = result.get(timeout=60, propagate=False)
    return type(value).__name__ if isinstance(value, Exception) else value


def waiting(queue):
    rows = tasks.later.app.client.ask("queues")
    return sum(row["waiting"] for row in rows if row["name"] == queue)


told["counts"] = [get(tasks.count.delay()) for _ in range(3)]
for _ in range(2):
    get(tasks.caches.delay())
    get(tasks.acaches.delay())
told["unsafe"] = get(tasks.unsafe.delay())
told["acounts"] = [get(result) for result in [tasks.acount.delay(), tasks.acount.delay()]]
walking = tasks.walks.delay()
get(tasks.acount.delay())
told["walked"] = get(walking)
if sys.argv[1] != "solo":
    for task in ("meets", "ameets"):
        both = [getattr(tasks, task).delay(task + "-1"), getattr(tasks, task).delay(task + "-2")]
        told[task] = [get(result) for result in both]
before = waiting("told")
told["rolled back"] = [get(tasks.order_and_tell.delay("x", fails=True)), waiting("told") - before]
told["committed"] = [get(tasks.order_and_tell.delay("y")), waiting("told") - before]
with translation.override("de"):
    said = tasks.says.delay(gettext_lazy("Monday"))
import kombu.utils.json

with translation.override("fr"):
    told["lazy"] = [get(said), get(tasks.says.delay(gettext_lazy("Monday")))]
print(json.dumps(told))
"""


@dataclass
class Run:
    """What CALL told, and the notes of the worker's connections."""

    pool: str
    told: dict[str, Any]
    notes: list[tuple[str, int, int]]
    worker_pid: int
    log: str


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, dict[str, str]]]:
    """The project and its environment; its broker runs, its tables are there."""
    folder = tmp_path_factory.mktemp("django")
    procs = Procs(folder)
    try:
        with open_site(folder, procs, unused_port) as site:
            site.start_broker()
            environment = write_django_project(site.folder, site.url)
            make = "import django; django.setup(); from django.core.management import call_command as call;"
            tables = "call('migrate', run_syncdb=True, verbosity=0)"
            made = procs.python("-c", make + tables, cwd=site.folder, env=environment)
            assert 0 == made.wait(60), made.tail()
            (site.folder / "call.py").write_text(CALL)
            yield site, environment
    finally:
        procs.close()


@pytest.fixture(scope="module", params=WORKERS)
def run(project: tuple[Site, dict[str, str]], request: pytest.FixtureRequest) -> Run:
    """A worker's run of CALL, in each pool; the worker has ended."""
    site, environment = project
    pool = request.param
    notes = site.folder / f"notes-{pool}"
    for met in (site.folder / "meeting").iterdir():
        met.unlink()
    environment = {**environment, "SHOP_QUEUE": pool, "SHOP_NOTES": str(notes)}
    if pool == "spawn":
        environment["SHOP_START_METHOD"] = "spawn"
    argv = ("worker", "-A", "proj", "-c", "2", "-P", "prefork" if pool == "spawn" else pool)
    worker = site.procs.emq(*argv, cwd=site.folder, env=environment, ready="is ready", timeout_s=60)
    own = {**environment, "SHOP_NOTES": str(site.folder / "notes-of-the-client")}
    call = site.procs.python("call.py", pool, cwd=site.folder, env=own)
    assert 0 == call.wait(110), call.tail() + worker.tail()
    worker.stop()
    lines = (line.split() for line in notes.read_text().splitlines())
    return Run(
        pool,
        json.loads(call.output().splitlines()[-1]),
        [(what, int(pid), int(thread)) for what, pid, thread in lines],
        worker.pid,
        worker.output(),
    )


def test_tasks_begin_without_a_connection(run: Run) -> None:
    """Each task finds its thread's connection closed, and the rows that are committed."""
    assert 3 * [False] == [before for before, *_ in run.told["counts"]]
    counts = [count for _, count, *_ in run.told["counts"]]
    assert counts[:1] * 3 == counts


def test_every_connection_is_closed_by_who_opened_it(run: Run) -> None:
    """No task leaves a connection open, plain or async; a child never closes what its parent opened."""
    opened = [(pid, thread) for what, pid, thread in run.notes if what == "open"]
    closed = [(pid, thread) for what, pid, thread in run.notes if what == "close"]
    left = sorted(set(opened) - set(closed))
    assert [] == [note for note in run.notes if note[0] == "foreign"]
    # What warm_up opens in the parent just before it forks is the parent's.
    assert (run.pool in ("prefork", "spawn")) == len(opened) - len(closed), left
    assert all(pid == run.worker_pid for pid, _ in left)


def test_caches_are_closed_after_tasks(run: Run) -> None:
    """What a task has used of a cache is closed at its end, plain or async."""
    told = [what for what, *_ in run.notes if what.startswith("used-") or what == "cleared"]
    assert 2 * ["used-plain", "cleared", "used-coroutine", "cleared"] == told


def test_a_coroutine_keeps_one_thread_for_the_orm(run: Run) -> None:
    """The ORM's calls of one async task share a thread, which is no other task's at that time."""
    for before, after, threads in run.told["acounts"]:
        assert before < after
        assert 1 == len(threads)
    if run.pool in ("threads", "asyncio"):
        first, second = run.told["ameets"]
        assert first != second


def test_plain_orm_calls_in_coroutines_are_refused(run: Run) -> None:
    """Django's own check holds in an async task, as it does in an async view."""
    assert "SynchronousOnlyOperation" == run.told["unsafe"]


def test_an_iteration_outlives_other_tasks(run: Run) -> None:
    """The end of another async task closes no connection that a coroutine still reads from."""
    assert run.told["walked"] >= 2


def test_runs_at_the_same_time_share_no_connection(run: Run) -> None:
    """Two tasks at once have a connection each."""
    if run.pool != "solo":
        first, second = run.told["meets"]
        assert run.pool in ("prefork", "spawn") or first != second


def test_a_task_s_own_transaction(run: Run) -> None:
    """delay_on_commit inside a task returns None, and sends after its commit, never after a rollback."""
    assert [None, 0] == run.told["rolled back"]
    assert [None, 1] == run.told["committed"]


def test_lazy_texts_travel_as_text(run: Run) -> None:
    """A lazy translation is sent in the language of the call, whether or not kombu is loaded."""
    assert ["Montag", "lundi"] == run.told["lazy"]


def test_checks_are_told_once(run: Run) -> None:
    """What Django's system checks find is in the worker's log, once a worker."""
    assert 1 == run.log.count("?: (shop.W001) the shop has no sign")
