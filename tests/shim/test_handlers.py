"""The methods of a task class around its body."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from emq_compat.celery_shim import Celery, Ignore, Task
from tests.shim.recorder import Recorder, Worker

pytestmark = pytest.mark.unit

calls: list[Any] = []


class Told(Task[..., Any]):
    """Notes what is called."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        calls.append(("before_start", list(args)))

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        calls.append(("on_success", retval))

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        calls.append(("on_failure", str(exc), "ValueError: bad" in str(einfo), einfo.type))

    def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        calls.append(("on_retry", str(exc)))

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        calls.append(("after_return", status, task_id == self.request.id))


@pytest.fixture(autouse=True)
def _fresh() -> None:
    calls.clear()


_EXPECTED: dict[str, list[Any]] = {
    "return": [("on_success", 5), ("after_return", "SUCCESS", True)],
    "fail": [("on_failure", "bad", True, ValueError), ("after_return", "FAILURE", True)],
    "retry": [("on_retry", "again"), ("after_return", "RETRY", True)],
    "ignore": [],
}


@pytest.mark.parametrize("way", ["worker", "eager"])
@pytest.mark.parametrize("end", _EXPECTED)
def test_handlers_are_called_in_celery_s_order(
    way: str, end: str, app: Celery, client: Recorder, worker: Worker
) -> None:
    """before_start, then the one for the end, then after_return; in a worker and in apply()."""

    @app.task(base=Told, bind=True)
    def f(self: Task[..., Any], what: str) -> int:
        if what == "fail":
            raise ValueError("bad")
        if what == "retry" and not self.request.retries:
            raise self.retry(exc=KeyError("again"), countdown=0)
        if what == "ignore":
            raise Ignore
        return 5

    if way == "worker":
        f.delay(end)
        worker.run(client.last)
    else:
        f.apply((end,))

    expected = [("before_start", [end]), *_EXPECTED[end]]
    if end == "retry":
        expected[1] = ("on_retry", "'again'")
        if way == "eager":
            expected += [("before_start", [end]), *_EXPECTED["return"]]
    assert expected == calls


def test_what_before_start_raises_fails_the_task(app: Celery, client: Recorder, worker: Worker) -> None:
    """The body doesn't run then."""

    class Strict(Task[..., Any]):
        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            raise ValueError("not now")

    @app.task(base=Strict)
    def f() -> None:
        calls.append("ran")

    f.delay()

    assert "FAILURE" == worker.run(client.last).state
    assert [] == calls


def test_what_another_handler_raises_is_logged_and_changes_nothing(
    app: Celery, client: Recorder, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    """A failing on_success is logged by name; the result stands."""

    class Clumsy(Task[..., Any]):
        def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            raise ValueError("clumsy")

    @app.task(base=Clumsy, name="proj.f")
    def f() -> int:
        return 1

    result = f.delay()
    with caplog.at_level(logging.ERROR):
        worker.run(client.last)

    assert 1 == result.get(timeout=0)
    assert "on_success of <@task: proj.f of " in caplog.text


def test_a_class_with_its_own_call_is_called_through_it(
    app: Celery, client: Recorder, worker: Worker
) -> None:
    """A base class's __call__ wraps the body, which still sees the worker's request."""

    class Wrapping(Task[..., Any]):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            calls.append("around")
            return super().__call__(*args, **kwargs)

    @app.task(base=Wrapping, bind=True)
    def f(self: Task[..., Any]) -> Any:
        return self.request.called_directly

    result = f.delay()
    worker.run(client.last)

    assert result.get(timeout=0) is False
    assert f() is True
    assert f.apply().get() is False
    assert ["around"] * 3 == calls


def test_an_app_s_base_class_is_its_tasks(app: Celery) -> None:
    """task_cls, app.Task and base= choose the class; options win over its attributes."""

    class Base(Task[..., Any]):
        queue = "base"
        max_retries = 9

    own = Celery("own", task_cls=Base, set_as_current=False)

    @own.task
    def f() -> None: ...

    @own.task(queue="mine")
    def g() -> None: ...

    @app.task(base=Base)
    def h() -> None: ...

    assert ["base", "mine", "base"] == [t.queue for t in (f, g, h)]
    assert isinstance(f, Base)
    assert 9 == h.max_retries
