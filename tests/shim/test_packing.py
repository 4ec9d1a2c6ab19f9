"""Messages and results that aren't plain JSON: serializers, compression, accept_content."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kombu import compression as compressions

from emq_compat.celery_shim import Celery, EncodeError, Task
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.packing import pack, unpack
from emq_compat.shim.signals import task_success
from tests.shim.recorder import Recorder, Worker

pytestmark = pytest.mark.unit


class Point:
    """Something that only pickle can carry."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and other.x == self.x

    __hash__ = None  # type: ignore[assignment]


@pytest.fixture
def echo(app: Celery) -> Any:
    """A task that notes its arguments and returns the first."""

    @app.task(bind=True, name="proj.echo", max_retries=1)
    def echo(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.seen.append((list(args), kwargs))
        if kwargs.get("again") and not self.request.retries:
            raise self.retry(args=[*args, "retried"], countdown=0)
        return args[0]

    task: Any = echo
    task.seen = []
    return task


@pytest.mark.parametrize("serializer", ["pickle", "yaml", "msgpack", "json"])
@pytest.mark.parametrize("compression", [None, "gzip", "bzip2", "lzma", "zstd", "brotli"])
def test_every_serializer_and_compression_carries_a_value(serializer: str, compression: str | None) -> None:
    """What is packed comes out equal, and is plain JSON on its way."""
    if serializer in ("yaml", "msgpack"):
        pytest.importorskip(serializer)
    if compression and compression not in compressions._aliases:
        pytest.skip(f"{compression} is not installed")
    value = [[1, "é☃"], {"k": {"n": None}}]
    packed = json.loads(json.dumps(pack(value, serializer, compression)))
    assert value == unpack(packed, [serializer])


@pytest.mark.parametrize("how", ["option", "attribute", "setting"])
def test_a_pickled_call_arrives_where_it_is_accepted(
    app: Celery, client: Recorder, worker: Worker, echo: Any, how: str
) -> None:
    """apply_async, the task or task_serializer choose the serializer; args and kwargs beside it are empty."""
    app.conf.accept_content = ["json", "pickle"]
    options = {}
    if how == "option":
        options["serializer"] = "pickle"
    elif how == "attribute":
        echo.serializer = "pickle"
    else:
        app.conf.task_serializer = "pickle"
    echo.apply_async((1, Point(2)), {"p": Point(3)}, **options)

    assert ((), {}) == (tuple(client.last_job.args), client.last_job.kwargs)
    assert "SUCCESS" == worker.run(client.last).state
    assert [([1, Point(2)], {"p": Point(3)})] == echo.seen


def test_what_isnt_accepted_is_never_read(app: Celery, client: Recorder, worker: Worker, echo: Any) -> None:
    """A pickle that accept_content doesn't name ends as a FAILURE that says so; its errback is published."""
    result = echo.apply_async((Point(1),), serializer="pickle", link_error=echo.s())
    reply = worker.run(client.last)

    assert ("FAILURE", "ContentDisallowed") == (reply.state, json.loads(reply.body)["error"]["type"])
    assert "python-serialize" in str(result.result)
    assert [] == echo.seen
    assert 1 == len(reply.follow_ups)


def test_a_broken_pack_is_a_failure(app: Celery, client: Recorder, worker: Worker, echo: Any) -> None:
    """A message whose packed part can't be read ends its task, not the worker."""
    echo.apply_async((1,), compression="gzip")
    text = client.last.payload.decode().replace('"body":"', '"body":"!')
    reply = worker.run(type(client.last)(queue="q", headers=client.last.headers, payload=text.encode()))
    assert ("FAILURE", "DecodeError") == (reply.state, json.loads(reply.body)["error"]["type"])


def test_values_that_come_before_are_put_in_front(
    app: Celery, client: Recorder, worker: Worker, echo: Any
) -> None:
    """What the broker puts beside a packed part (a chord's values) are the first arguments."""
    app.conf.accept_content = ["pickle"]
    echo.apply_async((Point(2),), serializer="pickle")
    document = json.loads(client.last.payload)
    document[1]["args"] = [[1, 2]]
    payload = json.dumps(document).encode()
    worker.run(type(client.last)(queue="q", headers=client.last.headers, payload=payload))
    assert [([[1, 2], Point(2)], {})] == echo.seen


def test_a_retry_keeps_serializer_and_compression(
    app: Celery, client: Recorder, worker: Worker, echo: Any
) -> None:
    """Changed arguments of a packed call are packed the same way."""
    app.conf.accept_content = ["json", "pickle"]
    echo.apply_async((Point(1),), {"again": True}, serializer="pickle", compression="gzip")
    replies = worker.run_to_end(client.last)

    assert ["RETRY", "SUCCESS"] != [r.state for r in replies]  # the value, a Point, is no JSON
    assert [([Point(1)], {"again": True}), ([Point(1), "retried"], {"again": True})] == echo.seen
    packed = json.loads(replies[0].follow_ups[0].payload)[1]["celery"]["packed"]
    assert ("application/x-python-serialize", "application/x-gzip") == (
        packed["content_type"],
        packed["compression"],
    )


@pytest.mark.parametrize("heard", [False, True])
def test_results_may_be_pickled(
    app: Celery, client: Recorder, worker: Worker, echo: Any, request: pytest.FixtureRequest, heard: bool
) -> None:
    """With result_serializer a value keeps its class, whoever listens; not accepted it is an error."""

    def hear(**told: object) -> None: ...

    if heard:
        task_success.connect(hear)
        request.addfinalizer(lambda: task_success.disconnect(hear))
    app.conf.update(accept_content=["json", "pickle"], result_serializer="pickle")
    result = echo.apply_async((Point(1),), serializer="pickle")
    worker.run(client.last)

    assert Point(1) == result.get(timeout=1)
    app.conf.result_accept_content = ["json"]
    with pytest.raises(Exception, match="refused"):
        result.get(timeout=1)


def test_what_a_serializer_cant_carry_is_refused_at_the_call(
    app: Celery, client: Recorder, echo: Any
) -> None:
    """Nothing is sent then; an unknown serializer is an error, too."""
    with pytest.raises(EncodeError, match=r"proj\.echo"):
        echo.apply_async((lambda: None,), serializer="pickle")
    with pytest.raises(Exception, match="no_such"):
        echo.apply_async((1,), serializer="no_such")
    assert [] == client.published


def test_a_stock_router_carries_json_only(echo: Any, app: Celery) -> None:
    """A stock job manager would run such a message without its arguments: it is refused."""
    app.client = Recorder(stock=True)

    @app.task(name="proj.other")
    def other() -> None: ...

    globals()["other"] = other
    try:
        with pytest.raises(ImproperlyConfigured, match="serializer"):
            other.apply_async((), serializer="pickle")
    finally:
        del globals()["other"]


def test_eager_calls_take_the_serializer_too(app: Celery, echo: Any) -> None:
    """An eager call carries its arguments as the message would."""
    app.conf.task_always_eager = True
    point = Point(1)
    arrived: Task[..., Any] = echo.apply_async((point,), serializer="pickle").get()
    assert (True, False) == (arrived == point, arrived is point)
