"""What every result store does, through an app's backend and results."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from emq_compat.celery_shim import Celery, chain
from emq_compat.shim import exceptions
from emq_compat.shim.program import ShimProgram
from emq_compat.shim.request import Context
from emq_compat.shim.result import GroupResult, ResultSet
from tests.processes import wait_until
from tests.shim.recorder import delivered

pytestmark = pytest.mark.integration


def new_id() -> str:
    """An id that no other test has: Redis is shared."""
    return uuid.uuid4().hex


class OwnError(Exception):
    """An importable exception."""


class TwoArguments(Exception):
    """An exception whose text its arguments don't tell."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")
        self.two = two


def test_a_success_is_stored_and_read(app: Celery) -> None:
    """State, value (with what JSON lacks), date and children come back as they were."""
    task_id, child = new_id(), new_id()
    request = Context(id=task_id, task="proj.add")
    request.children.append(app.AsyncResult(child))
    when = datetime(2026, 1, 2, tzinfo=timezone.utc)
    value = {"list": [1, None, 2.5], "exact": Decimal("1.50"), "when": when}

    app.backend.store_result(task_id, value, "SUCCESS", request=request)

    result = app.AsyncResult(task_id)
    assert ("SUCCESS", value, value) == (result.state, result.result, result.get(timeout=5))
    if "sqlite" not in app.backend.store.url:  # Celery's tables have no column for children
        assert [child] == [c.id for c in result.children or ()]
    assert result.date_done is not None
    assert abs(result.date_done - datetime.now(timezone.utc)) < timedelta(minutes=1)
    assert (None, None) == (result.traceback, result.name)


def test_an_unknown_id_is_pending(app: Celery) -> None:
    """Nothing stored reads as PENDING; exists() tells it from a state that was stored."""
    result = app.AsyncResult(new_id())

    assert ("PENDING", None, None, False) == (result.state, result.result, result.children, result.exists())
    assert {"status": "PENDING", "result": None, "task_id": result.id} == app.backend.get_task_meta(result.id)
    with pytest.raises(exceptions.TimeoutError, match=result.id):
        result.get(timeout=0.1)


@pytest.mark.parametrize("error", [OwnError("a", 1), TwoArguments(1, 2), KeyError("k"), ValueError()])
def test_a_failure_comes_back_by_its_class(app: Celery, error: Exception) -> None:
    """Class, arguments and text of an exception survive each store."""
    task_id = new_id()
    app.backend.mark_as_failure(task_id, error, traceback="Traceback: there")
    result = app.AsyncResult(task_id)

    with pytest.raises(type(error)) as caught:
        result.get(timeout=5)

    assert (str(error), error.args) == (str(caught.value), caught.value.args)
    assert ("FAILURE", "Traceback: there") == (result.state, result.traceback)


def test_states_on_the_way_show_their_meta(app: Celery) -> None:
    """STARTED, a state of the task's own and RETRY are read at once, and replaced by what comes later."""
    task_id = new_id()
    result = app.AsyncResult(task_id)
    seen: list[Any] = []

    app.backend.mark_as_started(task_id, pid=3)
    seen.append((result.state, result.info))
    app.backend.store_result(task_id, {"done": 1}, "PROGRESS")
    seen.append((result.state, result.info))
    app.backend.mark_as_retry(task_id, ValueError("again"))
    seen.append((result.state, repr(result.info)))
    app.backend.mark_as_revoked(task_id, "revoked")

    assert [("STARTED", {"pid": 3}), ("PROGRESS", {"done": 1}), ("RETRY", "ValueError('again')")] == seen
    with pytest.raises(exceptions.TaskRevokedError, match="revoked"):
        result.get(timeout=5)


def test_a_revoked_task_that_nobody_has_is_revoked_in_the_store(app: Celery) -> None:
    """What a worker elsewhere has told of a task stays; what the broker ends by itself is its to tell."""
    untold, begun, told, here = (new_id() for _ in range(4))
    app.backend.store_result(begun, None, "PROGRESS")
    app.backend.mark_as_done(told, 1)
    client: Any = app.client
    client.answers["revoke"] = {untold: "noted", begun: "noted", told: "noted", here: "revoked"}

    answer = app.backend.revoke([untold, begun, told, here])

    assert {"revoked"} == set(answer.values())
    states = [app.backend.get_state(task_id) for task_id in (untold, begun, told, here)]
    assert ["REVOKED", "PROGRESS", "SUCCESS", "PENDING"] == states


def test_an_errback_finds_what_it_is_told_of_stored(app: Celery) -> None:
    """The failure, and the end of what would have come later, are in the store before; and go there once."""
    seen: list[Any] = []

    @app.task(name="proj.bad")
    def bad() -> None:
        raise OwnError("no")

    @app.task(name="proj.look")
    def look(request: Context, exc: Exception, traceback: str) -> None:
        seen.extend(app.backend.get_state(one) for one in (request.id, rest.id))

    rest = chain(bad.si().on_error(look.s()), bad.si()).apply_async()
    client: Any = app.client
    written: list[str] = []
    write = app.backend.store.write
    app.backend.store.write = lambda task_id, reply: (written.append(task_id), write(task_id, reply))
    message = delivered(client.published[0])
    reply = ShimProgram(app).work(message, lambda state, body: None)

    assert ["FAILURE", "FAILURE"] == seen
    assert [rest.id, message.headers.task_id] == written
    assert (True, "FAILURE") == (reply.no_result, reply.state)


def test_a_success_is_never_replaced(app: Celery) -> None:
    """What a lost worker says late changes nothing."""
    task_id = new_id()
    app.backend.mark_as_done(task_id, 1)
    app.backend.mark_as_failure(task_id, ValueError("late"))

    assert 1 == app.AsyncResult(task_id).get(timeout=5)


def test_what_is_waited_for_comes(app: Celery) -> None:
    """get() returns what is stored while it waits; join() takes many at once, in their order."""
    ids = [new_id() for _ in range(20)]
    group = GroupResult(new_id(), [app.AsyncResult(i) for i in ids])
    arrived: list[str] = []

    def store() -> None:
        for number, task_id in reversed(list(enumerate(ids))):
            app.backend.mark_as_done(task_id, number)

    timer = threading.Timer(0.2, store)
    timer.start()
    values = group.get(timeout=30, interval=0.05, on_message=lambda meta: arrived.append(meta["task_id"]))
    timer.join()

    assert list(range(20)) == values
    assert set(ids) == set(arrived)
    assert (True, True, False, 20) == (
        group.ready(),
        group.successful(),
        group.failed(),
        group.completed_count(),
    )


def test_the_first_error_is_raised_without_waiting_for_the_others(app: Celery) -> None:
    """join() raises it though another member is never done; propagate=False waits for all."""
    failed, pending = new_id(), new_id()
    app.backend.mark_as_failure(failed, OwnError("boom"))
    members = ResultSet([app.AsyncResult(pending), app.AsyncResult(failed)])

    with pytest.raises(OwnError, match="boom"):
        members.join(timeout=10, interval=0.05)
    with pytest.raises(exceptions.TimeoutError, match=pending):
        members.join(timeout=0.2, interval=0.05, propagate=False)
    assert (True, True, 0) == (members.waiting(), members.failed(), members.completed_count())


@pytest.mark.parametrize("group", [False, True], ids=["a task", "a group"])
@pytest.mark.parametrize("wait", ["get", "aget"])
def test_the_earliest_error_of_a_chain_is_raised(app: Celery, wait: str, group: bool) -> None:
    """Behind a failed chord every step has its ChordError: who waits for the last is told the cause."""
    part, body, end = (app.AsyncResult(new_id()) for _ in range(3))
    body.parent = GroupResult(new_id(), [app.AsyncResult(new_id()), part])
    last: Any = GroupResult(new_id(), [end]) if group else end
    last.parent = body
    app.backend.mark_as_failure(part.id, OwnError("cause"))
    for later in (body, end):
        app.backend.mark_as_failure(later.id, exceptions.ChordError("Dependency …"))

    async def waited() -> Any:
        return await last.aget(timeout=5)

    with pytest.raises(OwnError, match="cause"):
        asyncio.run(waited()) if wait == "aget" else last.get(timeout=5)


def test_on_interval_is_called_while_nothing_comes(app: Celery) -> None:
    """Every interval seconds; what it raises ends the waiting."""
    calls: list[float] = []

    def tick() -> None:
        calls.append(time.monotonic())
        if len(calls) == 3:
            raise OwnError("enough")

    with pytest.raises(OwnError, match="enough"):
        app.AsyncResult(new_id()).get(timeout=30, interval=0.05, on_interval=tick)
    assert calls[2] - calls[0] >= 0.05


def test_aget_waits_without_blocking_the_loop(app: Celery) -> None:
    """Many wait in one loop while it turns; a timeout and a cancellation end a waiting, and leave nothing."""
    ids = [new_id() for _ in range(10)]

    async def main() -> Any:
        waiting = [asyncio.create_task(app.AsyncResult(i).aget(timeout=30)) for i in ids]
        cancelled = asyncio.create_task(app.AsyncResult(new_id()).aget())
        late = asyncio.create_task(app.AsyncResult(new_id()).aget(timeout=0.05))
        with pytest.raises(exceptions.TimeoutError):
            await late
        cancelled.cancel()
        loop = asyncio.get_running_loop()
        for number, task_id in enumerate(ids):
            await loop.run_in_executor(None, app.backend.mark_as_done, task_id, number)
        values = await asyncio.gather(*waiting)
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        return values, await GroupResult(None, [app.AsyncResult(i) for i in ids]).aget(timeout=30)

    assert (list(range(10)), list(range(10))) == asyncio.run(main())
    wait_until(lambda: app.backend.store.watcher.idle, what="the watcher's end")


def test_then_calls_back(app: Celery) -> None:
    """A callback gets the result once it is final: at once, or from a thread of ours."""
    done, later = new_id(), new_id()
    app.backend.mark_as_done(done, 1)
    told: list[Any] = []
    known = app.AsyncResult(done)
    known.get(timeout=5)
    pending = app.AsyncResult(later)

    known.then(lambda result: told.append(result.result))
    pending.then(lambda result: told.append(repr(result.result)))
    app.backend.mark_as_failure(later, OwnError("x"))

    wait_until(lambda: len(told) == 2, what="both callbacks")
    assert [1, "OwnError('x')"] == told


def test_groups_are_saved_and_restored(app: Celery) -> None:
    """With nested groups and a parent; deleting keeps the members' results."""
    first = app.AsyncResult(new_id())
    inner = GroupResult(new_id(), [app.AsyncResult(new_id())])
    group = GroupResult(new_id(), [app.AsyncResult(new_id()), inner], parent=first)

    group.save()
    restored = GroupResult.restore(str(group.id), app=app)
    group.delete()

    assert restored is not None
    assert group == restored
    assert first == restored.parent
    assert isinstance(restored[1], GroupResult)
    assert GroupResult.restore(str(group.id), app=app) is None
    assert GroupResult.restore(new_id(), app=app) is None


def test_forget_drops_a_result(app: Celery) -> None:
    """It reads as PENDING then; forgetting a set forgets its members."""
    ids = [new_id(), new_id()]
    for task_id in ids:
        app.backend.mark_as_done(task_id, 1)
    members = ResultSet([app.AsyncResult(i) for i in ids])

    members.forget()

    assert ["PENDING", "PENDING"] == [app.backend.get_state(i) for i in ids]


def test_extended_results_tell_of_the_call(url: str, make_app: Callable[..., Celery]) -> None:
    """name, args, kwargs, worker, retries and queue, if result_extended is set."""
    app = make_app(url, result_extended=True)
    task_id = new_id()
    request = Context(
        id=task_id,
        task="proj.add",
        args=[1, "ä"],
        kwargs={"z": None},
        hostname="w@host",
        retries=2,
        delivery_info={"routing_key": "q"},
    )

    app.backend.mark_as_done(task_id, 3, request=request)

    result = app.AsyncResult(task_id)
    assert ("proj.add", [1, "ä"], {"z": None}) == (result.name, result.args, result.kwargs)
    assert ("w@host", 2, "q") == (result.worker, result.retries, result.queue)


def test_results_expire(url: str, make_app: Callable[..., Celery]) -> None:
    """After result_expires a result is gone: by itself, or where a database keeps it, by backend.cleanup."""
    app = make_app(url, result_expires=1)
    task_id, group_id = new_id(), new_id()
    app.backend.mark_as_done(task_id, 1)
    GroupResult(group_id, [app.AsyncResult(task_id)]).save()

    def gone() -> bool:
        if not app.backend.supports_autoexpire:
            app.backend.cleanup()
        return app.backend.get_state(task_id) == "PENDING" and app.backend.restore_group(group_id) is None

    assert not gone()
    wait_until(gone, timeout_s=10, what="the result's end")


@pytest.mark.parametrize("never", [0, None])
def test_results_that_never_expire(url: str, make_app: Callable[..., Celery], never: int | None) -> None:
    """0 and None keep results without end; cleanup deletes nothing."""
    app = make_app(url, result_expires=never)
    task_id = new_id()
    app.backend.mark_as_done(task_id, 1)
    app.backend.cleanup()

    assert 1 == app.AsyncResult(task_id).get(timeout=5)
    app.backend.forget(task_id)


def test_pickled_results_need_to_be_accepted(url: str, make_app: Callable[..., Celery]) -> None:
    """result_serializer pickle carries what JSON can't, for who accepts it."""
    writer = make_app(url, result_serializer="pickle", result_accept_content=["pickle", "json"])
    reader = make_app(url, result_serializer="pickle")
    task_id = new_id()
    writer.backend.store_result(task_id, {"a": [1, 2]}, "SUCCESS")
    odd = new_id()
    writer.backend.store_result(odd, {1: {frozenset([2])}}, "SUCCESS")

    assert {"a": [1, 2]} == writer.AsyncResult(task_id).get(timeout=5)
    assert {1: {frozenset([2])}} == writer.AsyncResult(odd).get(timeout=5)
    if not url.startswith("db+"):  # whose records are always pickles of plain values
        with pytest.raises(exceptions.OperationalError, match="accepted"):
            _ = reader.AsyncResult(task_id).state
