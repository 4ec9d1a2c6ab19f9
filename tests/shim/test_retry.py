"""self.retry and autoretry_for: what the next try is, and when there is none."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from emq_compat.celery_shim import Celery, EncodeError, MaxRetriesExceededError, Retry, Task
from tests.shim.recorder import Recorder, Worker

pytestmark = pytest.mark.unit


def test_a_countdown_that_comes_to_no_date_is_refused(
    app: Celery, client: Recorder, worker: Worker
) -> None:
    """retry() raises ValueError naming it, which is the task's failure."""

    @app.task(bind=True, name="proj.endless")
    def endless(self: Task[..., Any], countdown: float) -> None:
        raise self.retry(countdown=countdown)

    for countdown in (float("nan"), 1e12):
        result = endless.delay(countdown)
        worker.run(client.last)
        with pytest.raises(ValueError, match="countdown"):
            result.get(timeout=0)


@pytest.mark.cases
def test_every_try_has_the_same_id_queue_priority_headers_and_expiry(
    app: Celery, client: Recorder, worker: Worker
) -> None:
    """A retry loses nothing of how the task was sent (case 13); only retries and eta change."""
    seen: list[Any] = []

    @app.task(bind=True, name="proj.flaky")
    def flaky(self: Task[..., Any], x: int) -> int:
        r = self.request
        info = r.delivery_info or {}
        sent = (info["routing_key"], info["priority"], r.headers, r.expires, r.timelimit)
        seen.append((r.id, r.root_id, *sent, r.args))
        if r.retries < 2:
            raise self.retry(countdown=1)
        return r.retries

    result = flaky.apply_async(
        (5,), queue="q2", priority=5, headers={"h": 1}, expires=60, time_limit=9, soft_time_limit=8
    )
    replies = worker.run_to_end(client.last)

    assert ["RETRY", "RETRY", "SUCCESS"] == [r.state for r in replies]
    assert 2 == result.get(timeout=0)
    assert [seen[0]] * 3 == seen
    assert (result.id, "q2", 5, {"h": 1}) == (seen[0][0], seen[0][2], seen[0][3], seen[0][4])
    first, second = (r.follow_ups[0] for r in replies[:2])
    assert first.headers.task_id == second.headers.task_id == result.id
    assert 3 == len({client.last.msgid, first.msgid, second.msgid})
    assert [1, 2] == [first.headers.retries, second.headers.retries]
    assert time.time() + 1 == pytest.approx(first.headers.eta, abs=5)


def test_a_retry_is_stored_with_its_cause(app: Celery, client: Recorder, worker: Worker) -> None:
    """Until the next try the state is RETRY, and the result's info is the exception."""

    @app.task(bind=True)
    def f(self: Task[..., Any]) -> None:
        try:
            raise KeyError("gone")
        except KeyError as exc:
            raise self.retry(exc=exc) from exc

    result = f.delay()
    worker.run(client.last)

    assert "RETRY" == result.state
    assert isinstance(result.info, KeyError)
    assert not result.ready()


@pytest.mark.parametrize("how", ["countdown", "eta", "default"])
def test_when_the_next_try_is(how: str, app: Celery, client: Recorder, worker: Worker) -> None:
    """countdown= is seconds, eta= a time; without either it is default_retry_delay."""

    @app.task(bind=True, default_retry_delay=77)
    def f(self: Task[..., Any]) -> None:
        when: dict[str, dict[str, Any]] = {
            "countdown": {"countdown": 10},
            "eta": {"eta": datetime.now(timezone.utc) + timedelta(seconds=500)},
            "default": {},
        }
        raise self.retry(**when[how])

    f.delay()
    (again,) = worker.run(client.last).follow_ups

    seconds = {"countdown": 10, "eta": 500, "default": 77}[how]
    assert time.time() + seconds == pytest.approx(again.headers.eta, abs=5)


def test_arguments_and_options_may_change(app: Celery, client: Recorder, worker: Worker) -> None:
    """retry(args=, kwargs=, queue=, priority=, …) changes what the next try gets."""

    @app.task(bind=True)
    def f(self: Task[..., Any], x: int, y: int = 0) -> list[Any]:
        if not self.request.retries:
            raise self.retry(
                args=(7,), kwargs={"y": 8}, queue="q9", priority=9, headers={"n": 1}, expires=50, countdown=0,
                time_limit=5,
            )  # fmt: skip
        return [x, y, self.request.headers]

    result = f.delay(1)
    worker.run(client.last)
    replies = worker.run_to_end(client.last)

    (again,) = replies[0].follow_ups
    assert ("q9", 9, 5) == (again.queue, again.headers.priority, again.headers.limit_s)
    assert time.time() + 50 == pytest.approx(again.headers.expires, abs=5)
    assert [7, 8, {"n": 1}] == result.get(timeout=0)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"coutdown": 3}, TypeError),
        ({"priority": 11}, ValueError),
        ({"queue": ""}, Exception),
        ({"args": (object(),)}, EncodeError),
    ],
)
def test_a_retry_that_cant_be_published_fails_the_task(
    app: Celery, client: Recorder, worker: Worker, options: dict[str, Any], error: type[Exception]
) -> None:
    """What no message can hold, or no option is called, is the task's failure: nothing is lost silently."""

    @app.task(bind=True)
    def f(self: Task[..., Any]) -> None:
        raise self.retry(**options)

    result = f.delay()
    reply = worker.run(client.last)

    assert ("FAILURE", ()) == (reply.state, reply.follow_ups)
    with pytest.raises(error):
        result.get(timeout=0)


def test_after_max_retries_the_exception_or_maxretriesexceeded_is_the_result(
    app: Celery, client: Recorder, worker: Worker
) -> None:
    """max_retries tries after the first one; then exc itself, or MaxRetriesExceededError."""

    class OwnError(Exception):
        pass

    @app.task(bind=True, max_retries=2)
    def with_exc(self: Task[..., Any]) -> None:
        self.retry(exc=OwnError("own"), countdown=0)

    @app.task(bind=True, max_retries=1)
    def without(self: Task[..., Any]) -> None:
        self.retry(countdown=0)

    @app.task(bind=True, max_retries=0)
    def called(self: Task[..., Any]) -> None:
        self.retry(countdown=0, max_retries=1)

    results, tries = [], []
    for task in (with_exc, without, called):
        results.append(task.delay())
        tries.append(len(worker.run_to_end(client.last)))

    assert [3, 2, 2] == tries
    with pytest.raises(Exception, match="own") as caught:
        results[0].get(timeout=0)
    assert "OwnError" == type(caught.value).__name__
    for result in results[1:]:
        with pytest.raises(MaxRetriesExceededError, match="Can't retry"):
            result.get(timeout=0)


def test_max_retries_none_has_no_end(app: Celery, client: Recorder, worker: Worker) -> None:
    """With max_retries=None a task is tried again as often as it asks."""

    @app.task(bind=True, max_retries=None)
    def f(self: Task[..., Any]) -> int:
        if self.request.retries < 50:
            self.retry(countdown=0)
        return self.request.retries

    result = f.delay()
    worker.run_to_end(client.last)

    assert 50 == result.get(timeout=0)


def test_throw_false_goes_on_and_publishes_the_next_try_with_the_outcome(
    app: Celery, client: Recorder, worker: Worker
) -> None:
    """retry(throw=False) returns the Retry; the task's own value stands, and the next try follows."""

    @app.task(bind=True)
    def f(self: Task[..., Any]) -> str:
        again = self.retry(countdown=3, throw=False)
        return type(again).__name__

    f.delay()
    reply = worker.run(client.last)

    assert ("SUCCESS", 1) == (reply.state, len(reply.follow_ups))
    assert "Retry" == json.loads(reply.body)["value"]


def test_outside_of_a_worker_retry_raises_what_went_wrong(app: Celery) -> None:
    """A plain call has nothing to be tried again: exc is raised, with its cause, or Retry."""

    @app.task(bind=True)
    def f(self: Task[..., Any], exc: BaseException | None = None) -> None:
        try:
            raise OSError("cause")
        except OSError:
            self.retry(exc=exc)

    error = ValueError("shown")
    with pytest.raises(ValueError, match="shown") as caught:
        f(error)
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(Retry):
        f()


def test_an_inner_call_of_the_task_is_not_the_run_that_retries(
    app: Celery, client: Recorder, worker: Worker
) -> None:
    """self() inside the body is a plain call with a request of its own; the run's own comes back after it."""

    @app.task(bind=True)
    def f(self: Task[..., Any], inner: bool = False) -> Any:
        if inner:
            return self.request.called_directly
        return [self.request.called_directly, f(True), self.request.called_directly]

    result = f.delay()
    worker.run(client.last)

    assert [False, True, False] == result.get(timeout=0)


def test_autoretry_for_retries_on_the_named_exceptions(
    app: Celery, client: Recorder, worker: Worker
) -> None:
    """autoretry_for is a list or a tuple; dont_autoretry_for takes some out; retry_kwargs go to retry()."""

    @app.task(bind=True, autoretry_for=[OSError], retry_kwargs={"max_retries": 2, "countdown": 4})
    def named(self: Task[..., Any]) -> None:
        raise OSError("again")

    @app.task(autoretry_for=(OSError,), dont_autoretry_for=(FileNotFoundError,))
    def excepted() -> None:
        raise FileNotFoundError("no")

    @app.task(autoretry_for=(OSError,))
    def other() -> None:
        raise KeyError("no")

    states = []
    for task in (named, excepted, other):
        task.delay()
        replies = worker.run_to_end(client.last)
        states.append([r.state for r in replies])
        if task is named:
            eta = replies[0].follow_ups[0].headers.eta
            assert time.time() + 4 == pytest.approx(eta, abs=5)

    assert [["RETRY", "RETRY", "FAILURE"], ["FAILURE"], ["FAILURE"]] == states


def test_retry_backoff_doubles_the_pause_up_to_its_limit(
    app: Celery, client: Recorder, worker: Worker
) -> None:
    """The pause is factor × 2 ** retries, at most retry_backoff_max; jitter takes a random part of it."""

    @app.task(autoretry_for=(OSError,), retry_backoff=3, retry_backoff_max=10, retry_jitter=False)
    def exact() -> None:
        raise OSError

    @app.task(autoretry_for=(OSError,), retry_backoff=True, max_retries=8)
    def jittered() -> None:
        raise OSError

    pauses: dict[str, list[float]] = {}
    for task in (exact, jittered):
        task.delay()
        replies = worker.run_to_end(client.last)
        pauses[task.__name__] = [r.follow_ups[0].headers.eta - time.time() for r in replies[:-1]]

    assert [3, 6, 10] == pytest.approx(pauses["exact"], abs=2)
    assert 8 == len(pauses["jittered"])
    assert all(pause <= 2**n for n, pause in enumerate(pauses["jittered"]))


def test_a_plain_call_of_a_task_with_autoretry_raises(app: Celery) -> None:
    """Called directly, the exception comes through."""

    @app.task(autoretry_for=(OSError,))
    def f() -> None:
        raise OSError("plain")

    with pytest.raises(OSError, match="plain"):
        f()


def test_a_retry_doesnt_pass_through_a_stock_router(app: Celery, worker: Worker) -> None:
    """A stock router takes no follow-up: the task fails and says so, rather than vanish."""
    client = Recorder(stock=True)
    app.client = client

    @app.task(bind=True)
    def f(self: Task[..., Any]) -> None:
        self.retry(countdown=0)

    f.declared_in = __name__
    f.delay()
    reply = worker.run(client.last, attempt=0)

    assert ("FAILURE", ()) == (reply.state, reply.follow_ups)
    assert b"don't pass through a stock eventmq router" in reply.body


@pytest.mark.parametrize(
    ("sent", "again", "runs_with"),
    [
        (((), {"x": 1, "y": 2, "label": "kept"}), {"args": (2, 3)}, ([2, 3], {"label": "kept"})),
        (((1, 2), {}), {"kwargs": {"x": 2}}, ([2, 2], {})),
        (((1, 2), {"label": "l"}), {"kwargs": {"label": "m"}}, ([1, 2], {"label": "m"})),
        (((1, 2), {"label": "l"}), {"args": (), "kwargs": {"x": 5, "y": 6}}, ([], {"x": 5, "y": 6})),
    ],
    ids=["args-for-kwargs", "kwargs-for-args", "same", "both"],
)
def test_a_retry_may_change_how_arguments_are_given(
    app: Celery, client: Recorder, worker: Worker, sent: Any, again: dict[str, Any], runs_with: Any
) -> None:
    """What retry() gives by position or by name replaces what the task had, however that was given."""
    seen: list[Any] = []

    @app.task(bind=True)
    def f(self: Task[..., Any], x: int, y: int, label: str = "") -> None:
        seen.append((self.request.args, self.request.kwargs))
        if not self.request.retries:
            raise self.retry(countdown=0, **again)

    f.apply_async(*sent)
    assert ["RETRY", "SUCCESS"] == [reply.state for reply in worker.run_to_end(client.last)]
    assert runs_with == seen[1]
    assert "SUCCESS" == f.apply(*sent).state
