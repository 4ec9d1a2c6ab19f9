"""Results with a broker and a worker: kept by the broker, and put into other stores by the worker."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emq_compat.shim import exceptions
from emq_compat.shim.result import GroupResult
from tests.processes import Procs, unused_port, wait_until
from tests.site import Site, open_site

pytestmark = pytest.mark.integration

_TASKS = '''

from emq_compat.celery_shim import Ignore, chain, chord, group


app.conf.update({changes})
SAID = {{"exc_type": "ValueError", "exc_module": "builtins", "exc_message": ["said so"]}}


@app.task(bind=True)
def add(self, x, y):
    return x + y


@app.task
def total(numbers):
    return sum(numbers)


@app.task(bind=True)
def progress(self):
    self.update_state(state="PROGRESS", meta={{"done": 1}})
    while os.path.exists({gate!r}):
        time.sleep(0.02)
    return "done"


@app.task
def parent():
    return add.delay(1, 2).id


@app.task(ignore_result=True)
def ignored():
    return 1


@app.task(bind=True)
def own_failure(self):
    self.update_state(state="FAILURE", meta=SAID)
    raise Ignore()


@app.task(bind=True, max_retries=1, default_retry_delay=0)
def again(self):
    raise self.retry(exc=KeyError("k"))
'''


@pytest.fixture(scope="module", params=["emq", "sqlite", "redis"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Site, str, Path]]:
    """A site whose results are in a store, with its broker and worker; and a file that holds a task back."""
    folder = tmp_path_factory.mktemp(f"results-{request.param}")
    gate = folder / "gate"
    changes: dict[str, Any] = {"result_extended": True}
    if request.param == "sqlite":
        pytest.importorskip("sqlalchemy")
        changes["result_backend"] = f"db+sqlite:///{folder}/results.db"
    elif request.param == "redis":
        pytest.importorskip("redis")
        changes["result_backend"] = request.getfixturevalue("redis_url")
    procs = Procs(folder)
    try:
        with open_site(folder, procs, unused_port) as site:
            text = _TASKS.format(changes=repr(changes), gate=str(gate))
            site.write_project(text)
            site.start_broker()
            site.start_worker()
            yield site, request.param, gate
    finally:
        procs.close()


def test_results_come_from_the_store(place: tuple[Site, str, Path]) -> None:
    """Value, state, date, and what result_extended adds."""
    site, kind, _ = place
    result = site.tasks.add.delay(2, 3)

    assert 5 == result.get(timeout=30)
    assert ("SUCCESS", True) == (result.state, result.date_done is not None)
    assert (f"{site.tasks.__name__}.add", [2, 3], {}) == (result.name, result.args, result.kwargs)
    assert ("celery", 0) == (result.queue, result.retries)
    if kind != "emq":
        assert site.client.results([result.id])[result.id] is None, "the broker keeps no copy"


def test_failures_retries_and_ignored_results(place: tuple[Site, str, Path]) -> None:
    """A failure by its class; RETRY is replaced by what came after; an ignored result leaves nothing."""
    site, _, _ = place
    failed, again = site.tasks.fail.delay("boom"), site.tasks.again.delay()
    ignored = site.tasks.ignored.delay()

    with pytest.raises(ValueError, match="boom"):
        failed.get(timeout=30)
    with pytest.raises(KeyError):
        again.get(timeout=30)
    assert "boom" in (failed.traceback or "")
    assert 3 == site.tasks.add.delay(1, 2).get(timeout=30)
    assert not site.tasks.app.AsyncResult(ignored.id).exists()


def test_progress_is_seen_while_it_runs(place: tuple[Site, str, Path]) -> None:
    """update_state of the running task; its end replaces it."""
    site, _, gate = place
    gate.touch()
    result = site.tasks.progress.delay()
    try:
        wait_until(lambda: result.state == "PROGRESS", what="PROGRESS")
        assert {"done": 1} == result.info
    finally:
        gate.unlink()
    assert "done" == result.get(timeout=30)


def test_a_failure_that_a_task_tells_itself(place: tuple[Site, str, Path]) -> None:
    """update_state(FAILURE) and Ignore: the result is what update_state said."""
    site, _, _ = place

    with pytest.raises(ValueError, match="said so"):
        site.tasks.own_failure.delay().get(timeout=30)


def test_children_are_told(place: tuple[Site, str, Path]) -> None:
    """What a task publishes is in its result's tree, where the store has a place for it."""
    site, kind, _ = place
    result = site.tasks.parent.delay()
    child = result.get(timeout=30)

    if kind != "sqlite":
        assert [child] == [c.id for c in result.children or ()]
        assert [child, 3] == [value for _, value in result.collect(timeout=30)]
        assert 3 == result.get_leaf()
        assert 2 == len(result.graph)


def test_a_lost_process_reaches_the_store(place: tuple[Site, str, Path]) -> None:
    """WorkerLostError, which only the job manager knows of, and REVOKED, which only the broker does."""
    site, _, _ = place
    result = site.tasks.sleep.delay(60, "killed")
    site.wait_runs("start killed")
    [pid] = [int(line.split()[2]) for line in site.runs() if line.startswith("start killed")]
    revoked = site.tasks.add.apply_async((1, 2), countdown=3600)

    os.kill(pid, signal.SIGKILL)
    revoked.revoke()

    with pytest.raises(exceptions.WorkerLostError):
        result.get(timeout=30)
    with pytest.raises(exceptions.TaskRevokedError):
        revoked.get(timeout=30)


def test_workflows_count_whatever_the_store(place: tuple[Site, str, Path]) -> None:
    """A chord's body gets the values; what comes behind a failed step is settled in the store, too."""
    site, _, _ = place
    tasks = site.tasks
    body = tasks.chord([tasks.add.s(i, i) for i in range(5)])(tasks.total.s())
    last = tasks.chain(tasks.fail.si("first"), tasks.add.si(1, 2), tasks.add.s(3)).apply_async()

    assert 20 == body.get(timeout=30)
    with pytest.raises(ValueError, match="first"):
        last.get(timeout=30)
    assert ["FAILURE", "FAILURE"] == [last.state, last.parent.state]


def test_waiting_in_an_event_loop(place: tuple[Site, str, Path]) -> None:
    """Many wait in one loop; then() calls back; nothing of it stays."""
    site, _, _ = place
    add, store = site.tasks.add, site.tasks.app.backend.store

    async def main() -> Any:
        results = [add.delay(i, 1) for i in range(30)]
        late = site.tasks.app.AsyncResult("nobody")
        with pytest.raises(exceptions.TimeoutError):
            await late.aget(timeout=0.05)
        return await asyncio.gather(*(result.aget(timeout=30) for result in results))

    called: list[Any] = []
    assert [i + 1 for i in range(30)] == asyncio.run(main())
    add.delay(1, 1).then(lambda result: called.append(result.result))
    wait_until(lambda: called == [2], what="the callback")
    wait_until(lambda: store.watcher.idle, what="the watcher's end")


def test_groups_are_saved(place: tuple[Site, str, Path]) -> None:
    """save, restore, save again and delete, wherever results are."""
    site, _, _ = place
    group = site.tasks.group(site.tasks.add.s(i, i) for i in range(3)).apply_async()
    group.save()
    restored = GroupResult.restore(group.id, app=site.tasks.app)

    assert restored == group
    assert [0, 2, 4] == restored.get(timeout=30)
    group.add(site.tasks.add.delay(4, 4))
    group.save()
    wait_until(lambda: group == GroupResult.restore(group.id, app=site.tasks.app), what="the new members")
    group.delete()
    wait_until(lambda: GroupResult.restore(group.id, app=site.tasks.app) is None, what="the group's end")


def test_a_result_that_is_settled_from_outside(place: tuple[Site, str, Path]) -> None:
    """store_result of a final state, by anybody: who waits is told."""
    site, _, _ = place
    backend = site.tasks.app.backend
    result = site.tasks.app.AsyncResult(f"outside-{unused_port()}")

    backend.store_result(result.id, {"by": "hand"}, "SUCCESS")

    assert {"by": "hand"} == result.get(timeout=30)
