"""pydantic=True: models in, models out."""

from __future__ import annotations

import json
from typing import Any, Optional

import pytest

from emq_compat.celery_shim import Celery, EncodeError, Task
from tests.shim.recorder import Recorder, Worker

pytestmark = pytest.mark.unit

pydantic = pytest.importorskip("pydantic")


class Inner(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    n: int


class Model(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    x: int
    inner: Optional[Inner] = None  # noqa: UP045 - as projects write it


@pytest.fixture
def seen() -> list[Any]:
    return []


@pytest.fixture
def double(app: Celery, seen: list[Any]) -> Task[..., Any]:
    """Takes a model, a list of them, one or None, and something plain; returns models."""

    @app.task(name="proj.double", pydantic=True)
    def double(
        m: Model, more: list[Model] = [], maybe: Model | None = None, plain: Any = None  # noqa: B006
    ) -> list[Model]:
        seen.append((m, more, maybe, plain))
        return [Model(x=2 * m.x), *more]

    return double


def test_models_arrive_as_models_and_leave_as_json(
    client: Recorder, worker: Worker, double: Task[..., Any], seen: list[Any]
) -> None:
    """Dicts become the models that annotations name, at any place; the result is plain JSON."""
    result = double.delay({"x": 2, "inner": {"n": 1}}, more=[{"x": 5}], maybe={"x": 6}, plain={"x": 7})
    worker.run(client.last)

    expected = (Model(x=2, inner=Inner(n=1)), [Model(x=5)], Model(x=6), {"x": 7})
    assert [expected] == seen
    assert [{"x": 4, "inner": None}, {"x": 5, "inner": None}] == result.get(timeout=1)


def test_models_may_be_given_to_delay(
    client: Recorder, worker: Worker, double: Task[..., Any], seen: list[Any]
) -> None:
    """A model among the arguments travels as what model_dump gives."""
    double.delay(Model(x=1), more=[Model(x=2, inner=Inner(n=3))])
    worker.run(client.last)
    assert [(Model(x=1), [Model(x=2, inner=Inner(n=3))], None, None)] == seen


def test_a_bad_payload_fails_before_the_body(
    client: Recorder, worker: Worker, double: Task[..., Any], seen: list[Any]
) -> None:
    """FAILURE ValidationError; the body is not run."""
    double.delay({"x": "many"})
    reply = worker.run(client.last)
    assert ("FAILURE", "ValidationError") == (reply.state, json.loads(reply.body)["error"]["type"])
    assert [] == seen


def test_strict_context_and_dump_arguments(app: Celery, client: Recorder, worker: Worker) -> None:
    """pydantic_strict converts nothing, validators get the context, model_dump its arguments."""
    told: list[Any] = []

    class Told(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        x: int = pydantic.Field(serialization_alias="ex")

        @pydantic.field_validator("x")
        @classmethod
        def _note(cls, value: int, info: Any) -> int:
            told.append((info.context["own"], info.context["celery_task_name"]))
            return value

    def body(self: Any, m: Any) -> Any:
        return m

    body.__annotations__ = {"m": Told, "return": Told}
    options = {"pydantic_context": {"own": 1}, "pydantic_dump_kwargs": {"by_alias": True}}
    task: Any = app.task(name="proj.told", bind=True, pydantic=True, pydantic_strict=True, **options)(body)

    assert {"ex": 3} == task({"x": 3})
    assert [(1, "proj.told")] == told
    with pytest.raises(pydantic.ValidationError):
        task({"x": "3"})


def test_without_the_option_a_model_is_no_argument(app: Celery, client: Recorder) -> None:
    """A task that doesn't say pydantic=True refuses a model where it is called."""

    @app.task
    def plain(m: Any) -> None: ...

    with pytest.raises(EncodeError, match="Model"):
        plain.delay(Model(x=1))
    assert [] == client.published


def test_an_async_task_may_have_models(app: Celery, client: Recorder, worker: Worker) -> None:
    """A coroutine function's arguments and result are models, too."""

    @app.task(name="proj.later", pydantic=True)
    async def later(m: Model) -> Model:
        return Model(x=m.x + 1)

    result = later.delay({"x": 1})
    worker.run(client.last)
    assert {"x": 2, "inner": None} == result.get(timeout=1)
