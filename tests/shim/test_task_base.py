"""Tasks are of their app's task class, also where it comes after them: Flask's patterns."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from emq_compat.celery_shim import Celery, Task, shared_task
from emq_compat.shim import current
from tests.shim.recorder import Recorder, Worker

pytestmark = pytest.mark.unit

seen: list[str] = []


class Wrapping(Task[..., Any]):
    """As Flask's documentation has it: the body runs inside of a context."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        seen.append("entered")
        try:
            return self.run(*args, **kwargs)
        finally:
            seen.append("left")


class Other(Task[..., Any]):
    """A base of a task's own."""


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    seen.clear()


def test_shared_tasks_follow_an_app_that_comes_later() -> None:
    """A shared task declared before its app is of the app's class; one with a base of its own keeps it."""

    @shared_task
    def early(x: int) -> int:
        seen.append("early")
        return x

    @shared_task(base=Other)
    def own() -> None:
        pass

    app = Celery("proj", task_cls=Wrapping)
    app.client = client = Recorder()

    from emq_compat.shim.program import ShimProgram

    worker = Worker(ShimProgram(app), client)
    result = early.delay(3)
    worker.run(client.last)

    assert 3 == result.get(timeout=0)
    assert ["entered", "early", "left"] == seen
    assert isinstance(early, Wrapping)
    assert isinstance(own, Other)
    assert not isinstance(own, Wrapping)


def test_tasks_follow_a_class_that_their_app_gets_later(
    app: Celery, client: Recorder, worker: Worker
) -> None:
    """``app.Task = …`` counts for tasks that were declared before, of this app, shared, or both."""

    @app.task
    def mine() -> None:
        seen.append("mine")

    @shared_task
    def shared() -> None:
        seen.append("shared")

    other = Celery("other", set_as_current=False)

    @other.task
    def foreign() -> None:
        pass

    class ContextTask(app.Task):  # type: ignore[misc, name-defined]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            seen.append("context")
            return self.run(*args, **kwargs)

    app.Task = ContextTask
    for task in (mine, shared):
        task.delay()
        worker.run(client.last)

    assert ["context", "mine", "context", "shared"] == seen
    assert not isinstance(foreign, ContextTask)
    assert app is shared.app


def test_the_current_app_decides() -> None:
    """Of two apps it is the one made current last, by making it or by choice; also in other threads."""

    @shared_task
    def early() -> None:
        pass

    first = Celery("first", task_cls=Wrapping)
    assert isinstance(early, Wrapping)
    Celery("second")
    assert not isinstance(early, Wrapping)
    first.set_current()
    first.set_default()
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(isinstance(early, Wrapping)))
    thread.start()
    thread.join()
    assert [True] == found
    with current.restored():
        Celery("of a test")
        assert not isinstance(early, Wrapping)
    assert isinstance(early, Wrapping)
