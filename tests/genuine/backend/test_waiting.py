"""Waiting for results by the result backend ``emq://`` of genuine Celery."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import celery
import pytest
from celery.exceptions import TimeoutError  # noqa: A004 - Celery's name
from celery.result import AsyncResult, GroupResult

from emq_compat.client import Client
from emq_compat.genuine.backend_consumer import watcher_for
from tests.genuine.backend.apps import URL, make_app
from tests.processes import wait_until

pytestmark = pytest.mark.integration


def soon(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    return thread


def waited_for(*ids: str) -> bool:
    return watcher_for(URL)._told.keys() >= set(ids)


def test_get_is_told_when_the_result_comes(
    app: celery.Celery, new_id: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks once; then the broker pushes the result, and nothing asks meanwhile."""
    task_id, asked, got = new_id(), [], []
    looked = threading.Event()
    ask = Client._ask

    def counted(self: Client, verb: str, *rest: Any) -> Any:
        asked.append(verb)
        answer = ask(self, verb, *rest)
        looked.set()
        return answer

    monkeypatch.setattr(Client, "_ask", counted)
    result = AsyncResult(task_id, app=app)
    thread = soon(lambda: got.append(result.get(timeout=20)))
    assert looked.wait(10)
    thread.join(0.1)
    make_app().backend.mark_as_done(task_id, 5)
    thread.join(10)
    assert [5] == got
    assert ["results"] == asked


def test_get_that_takes_too_long_is_a_timeout(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """Celery's TimeoutError; with timeout 0 what is there is returned."""
    task_id = new_id()
    with pytest.raises(TimeoutError):
        AsyncResult(task_id, app=app).get(timeout=0.05)
    app.backend.mark_as_done(task_id, 5)
    assert 5 == AsyncResult(task_id, app=app).get(timeout=0)


def test_on_message_is_told_of_states_on_the_way(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """As Celery documents it: each state that the task has while somebody waits."""
    task_id, told, got = new_id(), [], []
    result = AsyncResult(task_id, app=app)
    thread = soon(lambda: got.append(result.get(timeout=20, on_message=told.append)))
    wait_until(lambda: waited_for(task_id))
    app2 = make_app()
    app2.backend.store_result(task_id, {"done": 50}, "PROGRESS")
    wait_until(lambda: any(meta["status"] == "PROGRESS" for meta in told))
    app2.backend.mark_as_done(task_id, 5)
    thread.join(10)
    assert [5] == got
    assert {"done": 50} == next(meta["result"] for meta in told if meta["status"] == "PROGRESS")


def test_then_is_called_while_nobody_waits(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """A callback of then() runs when the result arrives."""
    task_id, told = new_id(), []
    result = AsyncResult(task_id, app=app)
    result.then(lambda one: told.append(one.result))
    make_app().backend.mark_as_done(task_id, 5)
    wait_until(lambda: told)
    assert [5] == told


def test_a_group_is_joined_in_the_order_of_its_tasks(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """join and join_native of 500 results that come in any order; iter_native in theirs."""
    ids = [new_id() for _ in range(500)]
    group = GroupResult("g", [AsyncResult(one, app=app) for one in ids], app=app)
    other = make_app().backend

    def end() -> None:
        for n, one in reversed(list(enumerate(ids))):
            other.mark_as_done(one, n)

    thread = soon(end)
    assert list(range(500)) == group.join_native(timeout=30)
    thread.join(10)
    fresh = GroupResult("g", [AsyncResult(one, app=app) for one in ids], app=app)
    assert list(range(500)) == fresh.join(timeout=30)
    fresh = GroupResult("g", [AsyncResult(one, app=app) for one in ids], app=app)
    assert set(ids) == {task_id for task_id, _ in fresh.iter_native(timeout=30)}


@pytest.mark.parametrize("nested", [False, True])
def test_a_group_whose_tasks_end_while_it_is_made(
    app: celery.Celery, new_id: Callable[[], str], monkeypatch: pytest.MonkeyPatch, nested: bool
) -> None:
    """What another thread hears of meanwhile counts: vine's barrier passes it over."""
    ids = [new_id() for _ in range(3)]
    for n, one in enumerate(ids):
        app.backend.mark_as_done(one, n)
    consumer = app.backend.result_consumer
    begin, heard = consumer.consume_from, consumer.on_state_change
    ended: set[str] = set()

    def on_state_change(meta: dict[str, Any], message: Any) -> None:
        heard(meta, message)
        ended.add(meta["task_id"])

    def consume_from(task_id: str) -> None:
        begin(task_id)
        wait_until(lambda: task_id in ended, 10, what="the result, in another thread")

    monkeypatch.setattr(consumer, "on_state_change", on_state_change)
    monkeypatch.setattr(consumer, "consume_from", consume_from)

    def made() -> GroupResult:
        group = GroupResult("g", [AsyncResult(one, app=app) for one in ids], app=app)
        return GroupResult("outer", [group], app=app) if nested else group

    assert ([[0, 1, 2]] if nested else [0, 1, 2]) == made().get(timeout=5)
    if not nested:
        assert set(ids) == {task_id for task_id, _ in made().iter_native(timeout=5)}


def test_get_many_yields_as_results_come(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """Those that are there at once; then a TimeoutError for the others."""
    there, missing = new_id(), new_id()
    app.backend.mark_as_done(there, 1)
    arriving = app.backend.get_many([there, missing], timeout=0.1)
    assert (there, 1) == (lambda one: (one[0], one[1]["result"]))(next(arriving))
    with pytest.raises(TimeoutError):
        next(arriving)
    assert [there] == [one for one, _ in app.backend.get_many([there, missing], max_iterations=1)]


def test_thirty_threads_wait_for_results_of_one_app(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """Results made in one thread and waited for in others all come, promptly."""
    results = [AsyncResult(new_id(), app=app) for _ in range(30)]
    got: list[Any] = []
    threads = [soon(lambda one=one: got.append(one.get(timeout=30))) for one in results]
    wait_until(lambda: waited_for(*(one.id for one in results)))
    other = make_app().backend
    for n, one in enumerate(results):
        other.mark_as_done(one.id, n)
    for thread in threads:
        thread.join(20)
    assert list(range(30)) == sorted(got)


def test_a_dropped_result_is_not_waited_for(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """A result that nobody holds any more leaves no wait behind."""
    result, other = AsyncResult(new_id(), app=app), new_id()
    result.then(print, weak=True)
    task_id = result.id
    assert waited_for(task_id)
    del result
    gc.collect()
    app.backend.mark_as_done(other, 1)
    assert 1 == AsyncResult(other, app=app).get(timeout=5)
    wait_until(lambda: not waited_for(task_id))
