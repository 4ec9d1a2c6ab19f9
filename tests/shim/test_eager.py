"""apply() and task_always_eager: the task runs here."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from emq_compat.celery_shim import AsyncResult, Celery, EagerResult, Ignore, Reject, Task
from tests.shim.recorder import Recorder

pytestmark = pytest.mark.unit


def test_apply_runs_here_and_returns_an_eagerresult(app: Celery, client: Recorder) -> None:
    """apply() gives a result with value and state; nothing is published."""

    @app.task
    def add(x: int, y: int = 0) -> int:
        return x + y

    result = add.apply((1,), {"y": 2}, task_id="t")

    assert isinstance(result, EagerResult)
    assert isinstance(result, AsyncResult)
    assert (3, "SUCCESS", "t", True) == (result.get(timeout=1), result.state, result.id, result.successful())
    assert (3, 3, "SUCCESS", None) == (result.result, result.info, result.status, result.traceback)
    assert (True, False, None) == (result.ready(), result.failed(), result.children)
    assert [] == client.published


def test_a_failing_task_is_kept_or_raised(app: Celery) -> None:
    """The exception is in the result, and get() raises it; throw=True raises it at once."""

    @app.task
    def f() -> int:
        raise ValueError("no")

    result = f.apply()

    assert ("FAILURE", True) == (result.state, result.failed())
    assert isinstance(result.result, ValueError)
    assert "ValueError: no" in (result.traceback or "")
    with pytest.raises(ValueError, match="no"):
        result.get()
    assert id(result.result) == id(result.get(propagate=False))
    with pytest.raises(ValueError, match="no"):
        f.apply(throw=True)
    app.conf.task_eager_propagates = True
    with pytest.raises(ValueError, match="no"):
        f.apply()


def test_retries_are_made_at_once(app: Celery) -> None:
    """An eager task that asks for a retry runs again, with the arguments it asked for."""
    tries: list[Any] = []

    @app.task(bind=True, max_retries=3)
    def f(self: Task[..., Any], x: int) -> int:
        tries.append((self.request.retries, x, self.request.is_eager))
        if x < 3:
            raise self.retry(args=(x + 1,), countdown=1000)
        return x

    result = f.apply((1,))

    assert 3 == result.get()
    assert [(0, 1, True), (1, 2, True), (2, 3, True)] == tries


def test_an_eager_task_fails_after_max_retries(app: Celery) -> None:
    """Also eagerly retries end."""

    @app.task(bind=True, max_retries=2)
    def f(self: Task[..., Any]) -> None:
        self.retry(exc=KeyError("x"))

    result = f.apply()

    assert "FAILURE" == result.state
    assert isinstance(result.result, KeyError)


@pytest.mark.parametrize(("raised", "state"), [(Ignore(), "IGNORED"), (Reject("r"), "REJECTED")])
def test_ignore_and_reject_are_states(app: Celery, raised: Exception, state: str) -> None:
    """A task that raises Ignore or Reject ends in that state."""

    @app.task
    def f() -> None:
        raise raised

    assert state == f.apply().state


def test_always_eager_needs_no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """With task_always_eager delay() runs the task here, whatever the broker's address is."""
    app = Celery("e", broker="memory://", changes={"task_always_eager": True})

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    assert 3 == add.delay(1, 2).get()
    assert 4 == add.apply_async((1,), {"y": 3}, countdown=1000, queue="q").get()


def test_always_eager_passes_arguments_as_a_message_would(app: Celery) -> None:
    """Tuples become lists, dates stay dates: what a worker would get."""
    app.conf.task_always_eager = True

    @app.task
    def f(x: Any) -> Any:
        return x

    when = datetime(2024, 1, 1, tzinfo=timezone.utc)
    assert [[1, 2], when] == f.delay(((1, 2), when)).get()
    with pytest.raises(TypeError, match=r"f\(\)"):
        f.apply_async()


def test_a_nested_eager_call_knows_its_parent(app: Celery) -> None:
    """parent_id and root_id are those of the run around it."""

    @app.task(bind=True)
    def inner(self: Task[..., Any]) -> Any:
        return self.request.parent_id, self.request.root_id

    @app.task(bind=True)
    def outer(self: Task[..., Any]) -> Any:
        return inner.apply().get()

    result = outer.apply(task_id="outer")

    assert ("outer", "outer") == result.get()


def test_the_request_of_apply_is_a_worker_s(app: Celery) -> None:
    """called_directly is False, headers and delivery_info are there."""

    @app.task(bind=True)
    def f(self: Task[..., Any]) -> Any:
        r = self.request
        return r.called_directly, r.headers, (r.delivery_info or {})["routing_key"], r.task

    assert (False, {"a": 1}, "q", f.name) == f.apply(headers={"a": 1}, queue="q").get()


@pytest.mark.parametrize("ignored", [False, True])
def test_results_of_runs_here_are_stored_where_that_is_asked_for(ignored: bool) -> None:
    """task_store_eager_result: value and exception are found in the result backend by their ids."""
    app = Celery("e", backend="cache+memory://", changes={"task_always_eager": True})
    app.conf.task_store_eager_result = True

    @app.task(ignore_result=ignored)
    def half(x: int) -> float:
        return 1 / x

    good, bad = half.delay(2), half.delay(0)
    states = [app.AsyncResult(one.id).state for one in (good, bad)]
    assert (["PENDING"] * 2 if ignored else ["SUCCESS", "FAILURE"]) == states
    if not ignored:
        assert 0.5 == app.AsyncResult(good.id).get(timeout=0)
        with pytest.raises(ZeroDivisionError):
            app.AsyncResult(bad.id).get(timeout=0)
    app.conf.task_store_eager_result = False
    assert "PENDING" == app.AsyncResult(half.delay(2).id).state
