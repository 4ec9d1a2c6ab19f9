"""What a type checker must see of the public API: read by mypy in test_typing.py, never run.

A line that ends in ``# type: ignore[…]`` must be an error: mypy --strict reports one that isn't.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from typing_extensions import assert_type

from emq_compat.celery_shim import AsyncResult, Celery, EagerResult, Task, current_app, shared_task, task

app = Celery("typed", broker="emq://127.0.0.1", include=["a"])


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(bind=True, name="other", queue="q", max_retries=3)
def bound(self: Task[..., Any], x: int) -> str:
    raise self.retry(exc=ValueError(), countdown=self.request.retries * 2)


@shared_task
def shared(x: str) -> list[str]:
    return [x]


@shared_task(bind=True)
def shared_bound(self: Task[..., Any], x: str) -> bytes:
    return x.encode()


@shared_task(ignore_result=True)
def shared_with_options(x: str) -> None: ...


@task
def plain(x: float) -> float:
    return x


@app.task
async def awaited(x: int) -> int:
    return x


@shared_task(bind=True)
async def awaited_bound(self: Task[..., Any], x: str) -> bytes:
    return x.encode()


class Base(Task[..., Any]):
    queue = "base"

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None: ...


@app.task(base=Base)
def based() -> None: ...


assert_type(add(1), int)
assert_type(add.delay(1, y=2), AsyncResult[int])
assert_type(add.delay(1).get(timeout=1), int)
assert_type(add.apply_async((1,), countdown=3), AsyncResult[int])
assert_type(add.apply((1,)), EagerResult[int])
assert_type(bound(1), str)
assert_type(bound.delay(1).get(), str)
assert_type(shared.delay("a").get(), list[str])
assert_type(shared_bound.delay("a").get(), bytes)
assert_type(shared_with_options.delay("a").get(), None)
assert_type(plain(1.0), float)
assert_type(app.send_task("x", [1]), AsyncResult[Any])
assert_type(add.delay(1).ready(), bool)
assert_type(add.delay(1).state, str)
assert_type(current_app.conf.task_default_queue, Any)

assert_type(awaited.delay(1), AsyncResult[int])
assert_type(awaited.delay(1).get(), int)
assert_type(awaited_bound.delay("a").get(), bytes)


async def inside() -> None:
    assert_type(await awaited(1), int)
    assert_type(await awaited.adelay(1), AsyncResult[int])
    assert_type(await add.adelay(1, y=2), AsyncResult[int])
    assert_type(await awaited_bound.adelay("a"), AsyncResult[bytes])
    assert_type(await app.asend_task("x", [1]), AsyncResult[Any])
    await awaited.adelay("a")  # type: ignore[arg-type]


untyped: Callable[..., Any] = add

add.delay("a")  # type: ignore[arg-type]
add.delay(1, z=1)  # type: ignore[call-arg]
add("a")  # type: ignore[arg-type]
bound.delay()  # type: ignore[call-arg]
shared.delay(1)  # type: ignore[arg-type]
shared_bound.delay(b"a")  # type: ignore[arg-type]
app.task("name")  # type: ignore[call-overload]
with app.pipeline() as pipeline:
    add.delay(1)
assert_type(len(pipeline.messages), int)
