"""What goes to, and comes from, a stock eventmq router: only what stock peers know."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest

from emq_compat.bulk import publish_frames
from emq_compat.celery_shim import Celery, EncodeError, Task
from emq_compat.message import Delivery, Headers
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.program import ShimProgram
from tests.shim.recorder import Recorder

pytestmark = pytest.mark.unit


@pytest.fixture
def router(app: Celery) -> Recorder:
    """The app's client is a stock router's."""
    client = Recorder(stock=True)
    app.client = client
    return client


@pytest.fixture
def f(app: Celery) -> Task[..., Any]:
    """A task with an importable path and a time limit."""

    @app.task(bind=True, time_limit=2.5, name="proj.f")
    def f(self: Task[..., Any], *args: Any, **kwargs: Any) -> Any:
        return [self.request.id, list(args), kwargs]

    f.declared_in = __name__
    return f


def test_only_stock_headers_leave_for_a_stock_router(router: Recorder, f: Task[..., Any]) -> None:
    """No confirm is asked for, a time limit is whole seconds, and no header of ours is on the wire."""
    f.delay(1)
    f.apply_async((1,), queue="q", time_limit=7, priority=3, headers={"a": 1}, ignore_result=True)

    csv = [publish_frames(m, stock=True)[-2] for m in router.published]
    assert [b"timeout:3", b"timeout:7"] == csv
    assert ["celery", "q"] == [m.queue for m in router.published]
    assert {"a": 1} == router.last_job.celery["headers"]


@pytest.mark.parametrize(
    "options", [{"countdown": 3}, {"eta": datetime(2030, 1, 1, tzinfo=timezone.utc)}, {"expires": 3}]
)
def test_times_are_refused_as_a_stock_router_keeps_none(
    router: Recorder, f: Task[..., Any], options: dict[str, Any]
) -> None:
    """A task that would run at the wrong time is refused instead."""
    with pytest.raises(ImproperlyConfigured, match="stock eventmq router can't do"):
        f.apply_async((), **options)

    assert [] == router.published


def test_arguments_are_what_plain_json_holds(app: Celery, router: Recorder, f: Task[..., Any]) -> None:
    """A stock job manager passes arguments on as they are: kombu's envelopes would reach the task."""
    with pytest.raises(EncodeError, match=r"argument 1 \(datetime\) can't be carried"):
        f.delay(1, datetime(2030, 1, 1, tzinfo=timezone.utc))
    f.delay(1, {"a": [None, "é"]})

    assert [1, {"a": [None, "é"]}] == json.loads(router.last.payload)[1]["args"]


def test_our_worker_under_a_stock_router_knows_task_and_id_from_the_payload(
    app: Celery, router: Recorder, f: Task[..., Any]
) -> None:
    """Without our headers the Celery part of the payload tells both."""
    result = f.delay(1, a=2)
    headers = Headers.decode(router.last.headers.stock())
    delivery = Delivery(
        msgid=router.last.msgid, queue=router.last.queue, headers=headers, payload=router.last.payload
    )

    reply = ShimProgram(app).work(delivery, lambda state, body: None)

    assert [result.id, [1], {"a": 2}] == json.loads(reply.body)["value"]


def test_a_message_of_ours_says_that_it_wants_a_confirm(app: Celery, client: Recorder) -> None:
    """To our own broker each message has guarantee, its task id and its name."""

    @app.task(name="proj.g")
    def g() -> None: ...

    g.delay()

    csv = publish_frames(client.last, stock=False)[-2].decode()
    assert csv.startswith("guarantee,id:")
    assert csv.endswith(",task:proj.g")
