"""The result backend ``emq://`` of genuine Celery, over a broker in this process."""

from __future__ import annotations

import gc
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import celery
import pytest
from celery import states
from celery.exceptions import ImproperlyConfigured, Retry, TimeoutError  # noqa: A004 - Celery's name
from celery.result import AsyncResult, GroupResult
from kombu.exceptions import EncodeError

from emq_compat.backends.emq import BrokerStore
from emq_compat.client import Client, client_for
from emq_compat.genuine.backend import EmqBackend
from emq_compat.genuine.backend_consumer import watcher_for
from emq_compat.genuine.capture import Capture, capturing
from emq_compat.genuine.chord_marks import mark
from emq_compat.genuine.tracing import _ended
from emq_compat.testing.broker import memory_broker
from tests.processes import wait_until

pytestmark = pytest.mark.integration

URL = "memory://backend"
_numbers = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def broker() -> Iterator[None]:
    """The broker of this file's tests."""
    with memory_broker(URL):
        yield
        client_for(URL).close()


def make_app(**conf: Any) -> celery.Celery:
    app = celery.Celery("backend", broker="memory://", set_as_current=False)
    app.conf.update(conf)
    app._backend = EmqBackend(app, url=URL)
    return app


@pytest.fixture
def app() -> celery.Celery:
    return make_app()


@pytest.fixture
def new_id() -> Callable[[], str]:
    return lambda: f"task-{next(_numbers)}"


def test_states_and_results_are_stored_and_read(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """PENDING, a state of the task's own, then SUCCESS with its value and time."""
    backend, task_id = app.backend, new_id()
    assert states.PENDING == backend.get_state(task_id)
    backend.store_result(task_id, {"p": 1}, "PROGRESS")
    assert ("PROGRESS", {"p": 1}) == (backend.get_state(task_id), backend.get_result(task_id))
    backend.mark_as_done(task_id, [1, "ä"])
    result = AsyncResult(task_id, app=app)
    assert (states.SUCCESS, [1, "ä"]) == (result.state, result.result)
    assert result.date_done is not None


def test_a_success_is_never_replaced(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """What a lost worker says late changes nothing."""
    task_id = new_id()
    app.backend.mark_as_done(task_id, 1)
    app.backend.mark_as_failure(task_id, ValueError("late"))
    assert states.SUCCESS == app.backend.get_state(task_id)


def test_a_failure_gives_way_to_what_comes_later(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """A task that is run again after its failure has its new result, as in Celery."""
    task_id = new_id()
    app.backend.mark_as_failure(task_id, ValueError("first"))
    app.backend.mark_as_done(task_id, 1)
    assert 1 == AsyncResult(task_id, app=app).get(timeout=5)


class Odd(Exception):
    """Its arguments are not those that it is made of."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one}-{other}")


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_exceptions_come_back(serializer: str, new_id: Callable[[], str]) -> None:
    """By their class; one that can't be made of its arguments still shows its text."""
    app = make_app(result_serializer=serializer, accept_content=["json", "pickle"])
    known, odd = new_id(), new_id()
    app.backend.mark_as_failure(known, KeyError("k"), traceback="tb")
    app.backend.mark_as_failure(odd, Odd(1, 2))
    with pytest.raises(KeyError, match="k"):
        AsyncResult(known, app=app).get(timeout=5)
    assert "tb" == AsyncResult(known, app=app).traceback
    assert "1-2" in str(AsyncResult(odd, app=app).result)


def test_retries_and_revokes_are_told(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """RETRY with the exception that caused it; a revoked task raises TaskRevokedError."""
    task_id = new_id()
    app.backend.mark_as_retry(task_id, Retry("again", exc=ValueError("x")))
    assert states.RETRY == app.backend.get_state(task_id)
    app.backend.mark_as_revoked(task_id, "enough")
    with pytest.raises(celery.exceptions.TaskRevokedError, match="enough"):
        AsyncResult(task_id, app=app).get(timeout=5)


def test_a_forgotten_result_is_pending(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """forget() drops it in the broker."""
    task_id = new_id()
    app.backend.mark_as_done(task_id, 1)
    AsyncResult(task_id, app=app).forget()
    assert states.PENDING == app.backend.get_state(task_id)
    assert not app.backend.task_result_exists(task_id)


def test_groups_are_saved_and_restored(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """A restored group has its members and their results; a deleted one is gone; the shim reads it, too."""
    group_id, members = new_id(), [new_id(), new_id()]
    for n, member in enumerate(members):
        app.backend.mark_as_done(member, n)
    GroupResult(group_id, [AsyncResult(member, app=app) for member in members], app=app).save()
    assert [0, 1] == make_app().GroupResult.restore(group_id).get(timeout=5)
    tree = BrokerStore(lambda: client_for(URL)).load_group(group_id)
    assert tree is not None
    assert members == [member[0][0] for member in tree[1]]
    app.backend.delete_group(group_id)
    assert make_app().GroupResult.restore(group_id) is None


@pytest.mark.parametrize(
    ("expires", "kept"),
    [(None, 0.0), (0, 0.0), (30, 30.0), (timedelta(minutes=1), 60.0), (timedelta(days=1), None)],
)
def test_how_long_results_are_kept(expires: Any, kept: float | None) -> None:
    """None and 0 mean for good; Celery's default leaves it to the broker."""
    assert kept == make_app(result_expires=expires).backend.keep_s


def test_results_expire(new_id: Callable[[], str]) -> None:
    """A result is gone after result_expires seconds, a failure after result_failure_expires."""
    app = make_app(result_expires=100, result_failure_expires=0.2)
    good, bad = new_id(), new_id()
    app.backend.mark_as_done(good, 1)
    app.backend.mark_as_failure(bad, ValueError())
    wait_until(lambda: app.backend.get_state(bad) == states.PENDING)
    assert states.SUCCESS == app.backend.get_state(good)


def test_what_a_task_of_our_worker_comes_to_is_kept_as_long(new_id: Callable[[], str]) -> None:
    """Its REPLY says so: result_expires, and result_failure_expires for a failure."""
    app = make_app(result_expires=100, result_failure_expires=7)
    good, bad = Capture(new_id()), Capture(new_id())
    with capturing(good):
        app.backend.mark_as_done(good.task_id, 1)
    with capturing(bad):
        app.backend.mark_as_failure(bad.task_id, ValueError())
    assert (100.0, 7.0) == (good.keep_s, bad.keep_s)
    assert (100.0, 7.0) == tuple(_ended(c.state or "", c, None).keep_s for c in (good, bad))


def test_a_wrong_time_is_refused() -> None:
    """result_expires below nothing is told of at once."""
    with pytest.raises(ImproperlyConfigured, match="result_expires"):
        make_app(result_expires=-1)


def test_the_address_is_shown_without_its_keys() -> None:
    """as_uri hides where the keys are; emq+ipc is put together again."""
    backend = EmqBackend(make_app(), url="emq://host:1?keys=/etc/secret&worker_port=2")
    assert "emq://host:1?keys=**&worker_port=2" == backend.as_uri()
    assert "secret" in backend.as_uri(include_password=True)
    assert "emq+ipc:///run/emq" == EmqBackend(make_app(), url="ipc:///run/emq").as_uri()


def test_a_stock_router_is_refused() -> None:
    """It keeps no results: the error says so."""
    with pytest.raises(ImproperlyConfigured, match="stock eventmq router"):
        EmqBackend(make_app(), url="emq://127.0.0.1?stock=1")


def test_a_broker_that_is_not_there_is_an_operational_error(free_port: Callable[[], int]) -> None:
    """Kombu's OperationalError, within the client's time."""
    backend = EmqBackend(make_app(), url=f"emq://127.0.0.1:{free_port()}")
    backend.client.timeout_s = 0.2
    with pytest.raises(celery.exceptions.OperationalError):
        backend.get_state("x")


def test_result_backend_always_retry_lasts(free_port: Callable[[], int]) -> None:
    """A store is tried as often as the settings say, and then BackendStoreError is raised."""
    app = make_app(
        result_backend_always_retry=True,
        result_backend_max_retries=2,
        result_backend_base_sleep_between_retries_ms=1,
    )
    backend = EmqBackend(app, url=f"emq://127.0.0.1:{free_port()}")
    backend.client.timeout_s = 0.1
    with pytest.raises(celery.exceptions.BackendStoreError):
        backend.store_result("x", 1, states.SUCCESS)


def test_a_result_that_is_too_large_is_an_encode_error(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """The tracer makes a failure of it, and nobody waits in vain."""
    with pytest.raises(EncodeError, match="bytes"):
        app.backend.mark_as_done(new_id(), "x" * (70 << 20))


# Waiting


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


# Within a run of our worker


def test_the_end_of_a_run_is_captured(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """A final state of the running task is part of its outcome; what it is meanwhile is told at once."""
    task_id = new_id()
    capture = Capture(task_id)
    with capturing(capture):
        app.backend.store_result(task_id, {}, states.STARTED)
        assert states.STARTED == app.backend.get_state(task_id)
        app.backend.mark_as_done(task_id, 5)
    assert states.SUCCESS == capture.state
    assert 5 == json.loads(capture.body or b"")["value"]
    assert [] == capture.follow_ups
    assert states.STARTED == app.backend.get_state(task_id)


def chord_request(task_id: str, **more: Any) -> Any:
    body: dict[str, Any] = {}
    mark(body, "the-chord", [])
    return celery.app.task.Context(
        {"id": task_id, "group": "the-chord", "group_index": 2, "chord": body, **more}
    )


def test_a_captured_part_counts_with_its_outcome(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """The REPLY is the part; where nothing is stored a settled message in it is."""
    kept, ignored = Capture(new_id()), Capture(new_id())
    for capture, store in ((kept, True), (ignored, False)):
        capture.body_ended = True
        with capturing(capture):
            app.backend.mark_as_done(capture.task_id, 5, chord_request(capture.task_id), store)
    assert [] == kept.follow_ups
    [settled] = ignored.follow_ups
    assert ("the-chord:2", "", states.SUCCESS) == (
        settled.headers.chord,
        settled.headers.task_id,
        settled.headers.settled,
    )
    assert 5 == json.loads(settled.payload)["value"]


def test_a_failed_chains_last_step_fails_its_chord(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """What will never run ends in the transaction of what failed, and the chord's error names that."""
    capture = Capture(new_id())
    capture.body_ended = True
    last = {
        "task": "t",
        "options": {"task_id": new_id(), "chord": chord_request("x").chord, "group_index": 1},
    }
    request = celery.app.task.Context({"id": capture.task_id, "chain": [last]})
    with capturing(capture):
        app.backend.mark_as_failure(capture.task_id, ValueError("no"), request=request)
    assert [("", last["options"]["task_id"]), ("the-chord:1", "")] == [
        (message.headers.chord, message.headers.task_id) for message in capture.follow_ups
    ]


def test_a_failed_chains_groups_fail_with_it(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """Each task of a group that a chain never comes to ends, parts of chords too: no wait lasts for good."""

    def step(name: str, **more: Any) -> dict[str, Any]:
        return {"task": name, "args": [], "kwargs": {}, "options": {"task_id": f"{base}-{name}"}, **more}

    base, failed = new_id(), new_id()
    part = step("part")
    part["options"] |= {"chord": chord_request("x").chord, "group_index": 3}
    chained = step("chain", subtask_type="chain", kwargs={"tasks": [step("first"), step("last")]})
    inner = {"header": [step("unreached")], "body": step("body")}
    members = [part, chained, step("chord", subtask_type="chord", kwargs=inner)]
    group = step("group", subtask_type="group", kwargs={"tasks": members})
    capture = Capture(failed)
    capture.body_ended = True
    request = celery.app.task.Context({"id": failed, "chain": [group]})
    with capturing(capture):
        app.backend.mark_as_failure(failed, ValueError("no"), request=request)
    told = [(message.headers.task_id, message.headers.chord) for message in capture.follow_ups]
    names = ("group", "part", "first", "last", "body")
    assert [(f"{base}-{name}", "") for name in names] == [one for one in told if one[0]]
    assert [("", "the-chord:3")] == [one for one in told if not one[0]]
    app.backend.mark_as_failure(failed, ValueError("no"), request=request)
    waited = GroupResult(new_id(), [AsyncResult(f"{base}-last", app=app)], app=app)
    with pytest.raises(ValueError, match="no"):
        waited.get(timeout=10)


def test_errbacks_find_the_failure_of_their_task(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """One that is called in the worker comes before the end is told, and sees its result all the same."""
    seen: list[str] = []

    @app.task(name="errback", shared=False)
    def errback(request: Any, exc: BaseException, traceback: Any) -> None:
        seen.append(app.AsyncResult(request.id).state)

    capture = Capture(new_id())
    capture.body_ended = True
    request = celery.app.task.Context({"id": capture.task_id, "errbacks": [dict(errback.s())]})
    with capturing(capture):
        app.backend.mark_as_failure(capture.task_id, ValueError("no"), request=request)
    assert [states.FAILURE] == seen
    assert (states.FAILURE, []) == (capture.state, capture.follow_ups)


def test_a_chords_generator_is_read_while_its_tasks_are_published(app: celery.Celery) -> None:
    """Nothing is asked of it when the chord begins; the body's parent is its last task."""
    made: list[int] = []

    @app.task(name="part", shared=False)
    def part(number: int) -> None:
        """Nothing."""

    def header() -> Iterator[Any]:
        for number in range(3):
            made.append(number)
            yield part.s(number)

    counted = celery.group(header(), app=app)
    body = part.s()
    gid, results = counted._freeze_group_tasks(group_id="g", chord=body)
    begun = len(made)
    app.backend.chords.begin((gid, results), body)
    assert begun == len(made) < 3
