"""Tasks that are coroutine functions."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import AsyncIterator, Awaitable
from contextvars import ContextVar
from typing import Any

import pytest

from emq_compat.celery_shim import Celery, Ignore, Task, current_task
from emq_compat.coroutines.settle import lasting_loop
from emq_compat.errors import QueueFull
from tests.shim.recorder import Recorder, Worker

pytestmark = pytest.mark.unit


def test_an_async_def_is_run_to_its_end(app: Celery, client: Recorder, worker: Worker) -> None:
    """What its coroutine returns is the result."""

    @app.task
    async def add(x: int, y: int) -> int:
        await asyncio.sleep(0)
        return x + y

    result = add.delay(1, y=2)
    worker.run(client.last)

    assert 3 == result.get(timeout=0)


def test_whatever_gives_an_awaitable_is_run(app: Celery, client: Recorder, worker: Worker) -> None:
    """Class-based, partial, decorated and plain functions that return an awaitable; bound ones, too."""

    class Own(Task[..., Any]):
        name = "own"

        async def run(self, x: int) -> list[Any]:
            await asyncio.sleep(0)
            return [self.request.id is not None, x]

    async def two(x: int, y: int) -> int:
        return x + y

    class Later:
        def __await__(self) -> Any:
            yield from asyncio.sleep(0).__await__()
            return "later"

    def later() -> Awaitable[str]:
        return Later()

    partial = functools.wraps(two)(functools.partial(two, 1))
    tasks = [
        (app.register_task(Own()), (5,), [True, 5]),
        (app.task(name="partial", typing=False)(partial), (2,), 3),
        (app.task(later), (), "later"),
    ]

    for task, args, expected in tasks:
        result = task.delay(*args)
        worker.run(client.last)
        assert expected == result.get(timeout=0)


def test_the_request_is_there_after_an_await(app: Celery, client: Recorder, worker: Worker) -> None:
    """self.request, current_task and update_state work behind an await and in what the body gathers."""

    @app.task(bind=True)
    async def known(self: Task[..., Any]) -> list[str]:
        async def inner() -> str:
            await asyncio.sleep(0)
            return str(current_task.request.id)

        await asyncio.sleep(0)
        self.update_state(state="PROGRESS", meta=1)
        return [str(self.request.id), *await asyncio.gather(inner(), inner())]

    result = known.delay()
    worker.run(client.last)

    assert [result.id] * 3 == result.get(timeout=0)
    assert ["PROGRESS"] == [state for state, _ in worker.reports]


def test_retries_are_those_of_a_plain_task(app: Celery, client: Recorder, worker: Worker) -> None:
    """autoretry_for sees what the coroutine raises; retry() and Ignore end it as ever."""

    @app.task(autoretry_for=(KeyError,), retry_kwargs={"countdown": 0}, max_retries=2)
    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("k")

    @app.task(bind=True, max_retries=1)
    async def again(self: Task[..., Any]) -> int:
        await asyncio.sleep(0)
        if not self.request.retries:
            raise self.retry(countdown=0)
        return int(self.request.retries)

    @app.task
    async def ignored() -> None:
        raise Ignore

    fails.delay()
    assert ["RETRY", "RETRY", "FAILURE"] == [reply.state for reply in worker.run_to_end(client.last)]
    result = again.delay()
    assert ["RETRY", "SUCCESS"] == [reply.state for reply in worker.run_to_end(client.last)]
    assert 1 == result.get(timeout=0)
    ignored.delay()
    assert "IGNORED" == worker.run(client.last).state


@pytest.mark.parametrize("raised", [asyncio.CancelledError("own"), SystemExit(3), KeyboardInterrupt()])
def test_what_the_body_raises_is_its_failure(
    app: Celery, client: Recorder, worker: Worker, raised: BaseException
) -> None:
    """A CancelledError of its own, SystemExit and KeyboardInterrupt end the task under their names."""

    @app.task
    async def throws() -> None:
        await asyncio.sleep(0)
        raise raised

    result = throws.delay()
    reply = worker.run(client.last)

    assert "FAILURE" == reply.state
    assert type(raised).__name__ == type(result.get(timeout=0, propagate=False)).__name__
    assert "in throws" in (result.traceback or "")
    assert "emq_compat" not in (result.traceback or "")


def test_handlers_may_be_coroutine_functions(
    app: Celery, client: Recorder, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    """before_start fails the task, the others are told what it came to; what they raise is logged."""
    seen: list[Any] = []

    class Told(Task[..., Any]):
        async def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            await asyncio.sleep(0)
            seen.append("before")

        async def on_success(self, retval: Any, *args: Any) -> None:
            await asyncio.sleep(0)
            seen.append(retval)
            raise ValueError("handler")

    @app.task(base=Told)
    async def f() -> int:
        return 3

    f.delay()
    with caplog.at_level(logging.ERROR):
        assert "SUCCESS" == worker.run(client.last).state

    assert ["before", 3] == seen
    assert "on_success" in caplog.text


def test_tasks_share_a_loop_and_no_context(app: Celery, client: Recorder, worker: Worker) -> None:
    """A thread's loop lasts from task to task; what a context variable held does not."""
    variable: ContextVar[str] = ContextVar("variable", default="clean")

    @app.task
    async def where() -> list[Any]:
        before = variable.get()
        variable.set("dirty")
        return [id(asyncio.get_running_loop()), before]

    found = []
    with lasting_loop():
        for _ in range(2):
            result = where.delay()
            worker.run(client.last)
            found.append(result.get(timeout=0))

    assert found[0] == found[1]
    assert "clean" == found[0][1]


def test_what_a_task_leaves_behind_is_ended_with_the_loop(
    app: Celery, client: Recorder, worker: Worker
) -> None:
    """Tasks are cancelled and async generators closed when the thread's loop is."""
    seen: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cancelled")

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            seen.append("closed")

    kept: list[Any] = []

    @app.task
    async def leaves() -> None:
        kept.append(asyncio.create_task(endless()))
        kept.append(numbers())
        await kept[1].__anext__()

    with lasting_loop():
        leaves.delay()
        assert "SUCCESS" == worker.run(client.last).state
        assert [] == seen

    assert ["cancelled", "closed"] == seen


def test_a_direct_call_returns_the_coroutine(app: Celery) -> None:
    """Awaited in another task's body it is a plain coroutine, whose request is its own."""

    @app.task(bind=True)
    async def inner(self: Task[..., Any], x: int) -> list[Any]:
        await asyncio.sleep(0)
        return [self.request.called_directly, self.request.args, x]

    assert [True, (2,), 2] == asyncio.run(inner(2))


def test_eager_coroutines_run_in_a_loop_of_their_own(app: Celery) -> None:
    """apply() and delay() with task_always_eager work outside and inside of a running loop."""
    app.conf.task_always_eager = True

    @app.task(bind=True, max_retries=2)
    async def add(self: Task[..., Any], x: int) -> list[int]:
        await asyncio.sleep(0)
        if self.request.retries < 1:
            raise self.retry(countdown=0)
        return [x, self.request.retries]

    async def inside() -> Any:
        return [add.delay(3).get(), add.apply((4,)).get()]

    assert [1, 1] == add.delay(1).get()
    assert [2, 1] == add.apply((2,)).get()
    assert [[3, 1], [4, 1]] == asyncio.run(inside())


def test_coroutines_publish_without_blocking(app: Celery, client: Recorder) -> None:
    """adelay, aapply_async and asend_task give the call's result; a thousand at once make few bulks."""

    @app.task
    def add(x: int, y: int = 0) -> int:
        return x + y

    async def publish() -> list[str]:
        one = await add.aapply_async((1,), {"y": 2}, countdown=3)
        other = await app.asend_task("other", [1])
        chained = await (add.s(1) | add.s(2)).adelay()
        many = await asyncio.gather(*(add.adelay(n) for n in range(1000)))
        return [one.id, other.id, chained.parent.id, *(result.id for result in many)]

    ids = asyncio.run(publish())

    assert ids == [message.headers.task_id for message in client.published]
    assert 1003 == len(set(ids))
    assert len(client.bulks) <= 10


def test_each_coroutine_learns_why_its_own_call_is_not_published(app: Celery, client: Recorder) -> None:
    """Where a bulk isn't confirmed as a whole, the others are, and a refusal says its own reason."""

    @app.task
    def add(x: int) -> int:
        return x

    client.refused = {1}
    client.failures = [QueueFull("full")]

    async def publish() -> list[Any]:
        return await asyncio.gather(*(add.adelay(n) for n in range(3)), return_exceptions=True)

    results = asyncio.run(publish())

    failed = [result for result in results if isinstance(result, BaseException)]
    assert ["QueueFull"] == [type(exc).__name__ for exc in failed]


def test_in_a_pipeline_coroutines_collect(app: Celery, client: Recorder) -> None:
    """adelay inside ``with app.pipeline()`` is published with the block."""

    @app.task
    def add(x: int) -> int:
        return x

    async def publish() -> int:
        with app.pipeline():
            await add.adelay(1)
            return len(client.published)

    assert 0 == asyncio.run(publish())
    assert 1 == len(client.published)


def test_an_eager_call_from_a_coroutine_runs_in_a_thread(app: Celery) -> None:
    """The loop goes on while a plain task runs in place of its publish."""
    app.conf.task_always_eager = True

    @app.task
    def where() -> int:
        return threading.get_ident()

    async def call() -> Any:
        return (await where.adelay()).get()

    assert threading.get_ident() != asyncio.run(call())
