"""Unique tasks, concurrency keys, shared rates and the end of retries, with two workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from emq_compat.celery_shim import chain, chord, group
from emq_compat.errors import DuplicateTask
from tests.processes import Procs, unused_port, wait_until
from tests.site import Site, open_site

pytestmark = pytest.mark.integration

TASKS = """

@app.task(unique_for=60, unique_key=("mark",))
def only(mark, seconds=0.0):
    return _sleep(seconds, mark)


@app.task(unique_for=60, on_duplicate="refuse")
def refused(mark):
    return _sleep(0.5, mark)


@app.task
def double(value):
    return 2 * value


@app.task
def listed(values):
    return list(values)


@app.task(concurrency_key="k:{key}", acks_late=True)
def alone(key, mark):
    note(f"in {key} {mark}")
    time.sleep(0.05)
    note(f"out {key} {mark}")


@app.task(concurrency_limit=2)
def pair(mark):
    note(f"in pair {mark}")
    time.sleep(0.1)
    note(f"out pair {mark}")


@app.task(global_rate_limit="5/s")
def paced(mark):
    note(f"paced {mark} {time.time()}")


@app.task(bind=True, max_retries=1, default_retry_delay=0, on_retries_exhausted="siteproj.exhausted")
def shaky(self, mark):
    note(f"try {mark}")
    raise self.retry(exc=KeyError(mark))


@app.task
def exhausted(told):
    note(f"exhausted {told['args'][0]} {told['reason']} {told['exception']['type']}")


@app.task(acks_late=True, on_retries_exhausted="siteproj.exhausted")
def deadly(mark):
    note(f"deadly {mark}")
    os.kill(os.getpid(), 9)  # the pool is of threads
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("own")
    (folder / "procs").mkdir()
    processes = Procs(folder / "procs")
    try:
        with open_site(folder, processes, unused_port) as made:
            made.write_project(TASKS)
            made.start_broker("--dead-after", "2", "--max-redeliveries", "1")
            for _ in range(2):
                made.start_worker("-P", "threads", "-c", "4")
            yield made
    finally:
        processes.close()


def most_at_once(site: Site, key: str) -> int:
    """How many of a key ran at once, as the tasks themselves noted it."""
    now = most = 0
    for line in site.runs():
        if line.startswith(f"in {key} "):
            now += 1
        elif line.startswith(f"out {key} "):
            now -= 1
        most = max(most, now)
    return most


def test_a_second_call_has_the_firsts_result(site: Site) -> None:
    """While the first runs every other call returns its handle; afterwards there is a new one."""
    only = site.tasks.only
    first = only.delay("a", seconds=0.5)
    others = [only.delay("a", seconds=9) for _ in range(5)]
    assert {first.id} == {other.id for other in others}
    assert only.delay("b").id != first.id
    assert ["a"] * 6 == [result.get(timeout=20) for result in (first, *others)]
    again = only.delay("a")
    assert again.id != first.id
    assert "a" == again.get(timeout=20)
    assert 2 == site.count("start a")


def test_a_second_call_is_refused(site: Site) -> None:
    """The error is raised by delay(), names the first one's id, and is an OperationalError, too."""
    first = site.tasks.refused.delay("r")
    with pytest.raises(DuplicateTask, match=first.id) as caught:
        site.tasks.refused.delay("r")
    assert first.id == caught.value.first
    first.get(timeout=20)


def test_workflows_with_second_calls_end(site: Site) -> None:
    """Parts of chords and groups, steps of chains and calls in a pipeline have the first one's value."""
    only, double, listed = site.tasks.only, site.tasks.double, site.tasks.listed
    first = only.delay("w", seconds=1.0)
    body = chord([only.s("w"), double.s(4), only.s("w")], listed.s()).delay()
    side = group(only.s("w"), double.s(1)).delay()
    row = chain(only.s("w"), double.s(), double.s()).delay()
    with site.tasks.app.pipeline():
        collected = only.delay("w")
    assert ["w", 8, "w"] == body.get(timeout=20)
    assert ["w", 2] == side.get(timeout=20)
    assert "wwww" == row.get(timeout=20)
    assert "w" == collected.get(timeout=20) == first.get(timeout=20)
    assert 1 == site.count("start w")


def test_a_chord_of_refused_parts_fails(site: Site) -> None:
    """A part that may not join another ends its chord with an error that says so."""
    refused, listed = site.tasks.refused, site.tasks.listed
    first = refused.delay("c")
    body = chord([refused.s("c"), site.tasks.double.s(1)], listed.s()).delay()
    with pytest.raises(DuplicateTask, match=first.id):
        body.get(timeout=20)
    first.get(timeout=20)


def test_keys_run_one_after_the_other(site: Site) -> None:
    """Of each key one at a time in their order, of different keys side by side."""
    alone = site.tasks.alone
    with site.tasks.app.pipeline():
        results = [alone.delay(key, n) for n in range(8) for key in "xyz"]
    for result in results:
        result.get(timeout=30)
    assert [1, 1, 1] == [most_at_once(site, key) for key in "xyz"]
    for key in "xyz":
        order = [line.split()[2] for line in site.runs() if line.startswith(f"in {key} ")]
        assert [str(n) for n in range(8)] == order


def test_a_task_has_places_over_all_workers(site: Site) -> None:
    """concurrency_limit without a key is for the task, over all workers."""
    with site.tasks.app.pipeline():
        results = [site.tasks.pair.delay(n) for n in range(12)]
    for result in results:
        result.get(timeout=30)
    assert 2 == most_at_once(site, "pair")


def test_a_rate_is_that_of_all_workers(site: Site) -> None:
    """Two workers together start no more than the limit allows."""
    with site.tasks.app.pipeline():
        results = [site.tasks.paced.delay(n) for n in range(6)]
    for result in results:
        result.get(timeout=30)
    at = sorted(float(line.split()[2]) for line in site.runs() if line.startswith("paced "))
    assert at[-1] - at[0] >= 5 * 0.2 - 0.1


def test_the_end_of_retries_is_told(site: Site) -> None:
    """After the last try the callback runs, once."""
    result = site.tasks.shaky.delay("s")
    with pytest.raises(KeyError):
        result.get(timeout=20)
    site.wait_runs("exhausted s retries KeyError")
    assert (2, 1) == (site.count("try s"), site.count("exhausted s"))


def test_what_is_held_is_shown(site: Site) -> None:
    """A client can ask which keys are held, by whom, and what waits at which gate."""
    only, alone = site.tasks.only, site.tasks.alone
    first = only.apply_async(("shown",), countdown=3600)
    blocker = alone.apply_async(("shown", 0))
    held = site.client.ask("keys")
    assert [first.id] == [row["holder"] for row in held["unique"] if row["key"].endswith("(mark=shown)")]
    blocker.get(timeout=20)
    first.revoke()
    wait_until(lambda: not site.client.ask("keys")["unique"], timeout_s=10)


def test_a_task_that_kills_its_workers_is_told_of(site: Site) -> None:
    """Lost more often than it may be, a task is not tried any more: another worker calls the callback."""
    result = site.tasks.deadly.delay("d")
    wait_until(lambda: not any(worker.alive() for worker in site.workers[:2]), timeout_s=30)
    site.start_worker("-P", "threads", "-c", "4")
    site.wait_runs("exhausted d redeliveries WorkerLostError")
    with pytest.raises(Exception, match="the limit is 1"):
        result.get(timeout=20)
    assert (2, 1) == (site.count("deadly d"), site.count("exhausted d"))


def test_nothing_is_left(site: Site) -> None:
    """In the end no key is held, and nothing waits anywhere."""

    def left() -> list[Any]:
        rows = site.client.ask("queues")
        keys = site.client.ask("keys")
        kinds = ("waiting", "parked", "held", "delayed", "in_flight")
        return [*keys["unique"], *keys["gates"], *(1 for row in rows if any(row[kind] for kind in kinds))]

    wait_until(lambda: not left(), timeout_s=20, what="nothing left")
