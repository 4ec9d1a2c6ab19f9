"""What delay, apply_async and send_task publish, and what they refuse."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from emq_compat.celery_shim import AsyncResult, Celery, EncodeError, OperationalError, Task
from emq_compat.errors import BrokerRefused, QueueFull
from emq_compat.message import Headers
from emq_compat.protocol.limits import Limits
from emq_compat.shim import codec
from emq_compat.shim.exceptions import AlwaysEagerIgnored, ImproperlyConfigured
from tests.shim.recorder import Recorder, Worker

pytestmark = pytest.mark.unit


@pytest.fixture
def add(app: Celery) -> Task[[int, int], int]:
    """A task of two arguments."""

    @app.task(name="proj.add")
    def add(x: int, y: int = 1) -> int:
        return x + y

    return add


def test_arguments_travel_in_the_plain_members(add: Task[..., int], client: Recorder) -> None:
    """apply_async(args, kwargs) puts them where a stock job manager reads them."""
    add.apply_async((1,), {"y": 2})
    add.apply_async([3])
    add.apply_async(kwargs={"x": 4})

    jobs = [json.loads(m.payload)[1] for m in client.published]
    assert [([1], {"y": 2}), ([3], {}), ([], {"x": 4})] == [(j["args"], j["kwargs"]) for j in jobs]


def test_every_option_reaches_the_message(add: Task[..., int], client: Recorder) -> None:
    """Options become headers and the queue of the message; headers= travels in Celery's part."""
    result = add.apply_async(
        (1,),
        task_id="my-id",
        queue="q2",
        priority=7,
        headers={"tenant": "é"},
        time_limit=30,
        soft_time_limit=20,
        ignore_result=True,
        shadow="shown",
    )

    headers = client.last.headers
    assert ("my-id", "q2", 7) == (result.id, client.last.queue, headers.priority)
    assert (30, 20, True, "my-id") == (
        headers.limit_s,
        headers.soft_limit_s,
        headers.no_result,
        headers.task_id,
    )
    assert {"tenant": "é"} == client.last_job.celery["headers"]
    assert "shown" == client.last_job.celery["shadow"]
    assert Headers.decode(headers.encode()) == headers


@pytest.mark.parametrize(
    ("options", "after_s"),
    [
        ({"countdown": 10}, 10),
        ({"countdown": 0}, None),
        ({"countdown": -5}, None),
        ({"eta": timedelta(seconds=60)}, 60),
        ({"eta": timedelta(seconds=60), "countdown": 5}, 60),
    ],
)
def test_countdown_and_eta_are_the_time_before_which_it_isnt_run(
    add: Task[..., int], client: Recorder, options: dict[str, Any], after_s: float | None
) -> None:
    """eta: is unix time; eta= wins over countdown=, and a countdown that is over means at once."""
    now = time.time()
    given: dict[str, Any] = {
        name: datetime.now(timezone.utc) + value if isinstance(value, timedelta) else value
        for name, value in options.items()
    }

    add.apply_async((1,), **given)

    eta = client.last.headers.eta
    if after_s is None:
        assert 0 == eta
    else:
        assert now + after_s == pytest.approx(eta, abs=5)


@pytest.mark.parametrize("naive_means", ["utc", "zone"])
def test_a_naive_time_is_utc_or_in_the_app_s_zone(
    naive_means: str, app: Celery, add: Task[..., int], client: Recorder
) -> None:
    """A datetime without a zone is UTC; with enable_utc off it is in the setting timezone."""
    if naive_means == "zone":
        app.conf.update(enable_utc=False, timezone="Asia/Tokyo")

    add.apply_async((1,), eta=datetime(2030, 1, 1, 9))  # noqa: DTZ001 - that is the point

    hour = 0 if naive_means == "zone" else 9
    assert datetime(2030, 1, 1, hour, tzinfo=timezone.utc).timestamp() == client.last.headers.eta


@pytest.mark.parametrize(
    "expires",
    [30, 30.0, timedelta(seconds=30), "iso", "Z"],
)
def test_expires_is_seconds_or_a_time(add: Task[..., int], client: Recorder, expires: Any) -> None:
    """expires= is a number of seconds from now, a datetime, or its ISO text."""
    now = time.time()
    at = datetime.now(timezone.utc) + timedelta(seconds=30)
    texts = {"iso": at.isoformat(), "Z": at.isoformat().replace("+00:00", "Z")}
    given = at if isinstance(expires, timedelta) else texts.get(expires, expires)

    add.apply_async((1,), expires=given)

    assert now + 30 == pytest.approx(client.last.headers.expires, abs=5)


def test_a_task_s_own_options_are_the_defaults(app: Celery, client: Recorder) -> None:
    """queue, priority, expires and ignore_result of the declaration hold unless the call says otherwise."""

    @app.task(queue="slow", priority=3, expires=60, ignore_result=True)
    def f() -> None: ...

    result = f.delay()
    own = client.last
    f.apply_async(queue="q", priority=0, expires=5, ignore_result=False)
    called = client.last

    assert ("slow", 3, True) == (own.queue, own.headers.priority, own.headers.no_result)
    assert time.time() + 60 == pytest.approx(own.headers.expires, abs=5)
    assert ("q", 0, False) == (called.queue, called.headers.priority, called.headers.no_result)
    assert result.get(timeout=0) is None


def test_settings_are_the_defaults_of_the_defaults(app: Celery, client: Recorder) -> None:
    """task_default_queue, task_default_priority and task_ignore_result count, also when changed later."""

    @app.task
    def f() -> None: ...

    f.delay()
    app.conf.update(task_default_queue="d", task_default_priority=4, task_ignore_result=True)
    f.delay()
    f.queue = "own"
    f.delay()

    assert ["celery", "d", "own"] == [m.queue for m in client.published]
    assert [0, 4, 4] == [m.headers.priority for m in client.published]
    assert [False, True, True] == [m.headers.no_result for m in client.published]


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"quueue": "x"}, TypeError, "is 'queue' meant"),
        ({"priority": 10}, ValueError, "0 to 9"),
        ({"priority": "3"}, ValueError, "0 to 9"),
        ({"queue": ""}, ImproperlyConfigured, "queue"),
        ({"queue": "a\nb"}, ImproperlyConfigured, "queue"),
        ({"expires": "soon"}, ValueError, "soon"),
        ({"eta": "soon"}, ValueError, "soon"),
        *(
            ({name: value}, ValueError, name)
            for name in ("countdown", "eta", "expires")
            for value in (float("nan"), float("inf"), 10**12, 10**400)
        ),
        ({"expires": object()}, TypeError, "seconds or a datetime"),
        ({"time_limit": 0}, ValueError, "time_limit"),
        ({"time_limit": 1, "soft_time_limit": 2}, ValueError, "less than or equal"),
        ({"compression": "squeeze"}, ImproperlyConfigured, "squeeze"),
        ({"link": object()}, TypeError, "an option of proj.add"),
        ({"task_id": 5}, TypeError, "task_id"),
        ({"task_id": "x" * 1025}, ValueError, "task_id must be at most 1024 printable bytes"),
        ({"task_id": "a\nb"}, ValueError, "printable"),
        ({"task_id": "\ud800"}, ValueError, "printable"),
        ({"headers": "x"}, TypeError, "headers"),
        ({"headers": {"a": object()}}, EncodeError, "can't be carried"),
        ({"exchange": "topic", "routing_key": "a.b"}, ImproperlyConfigured, "exchange"),
    ],
)
def test_an_option_that_cant_be_is_refused_and_nothing_sent(
    add: Task[..., int],
    client: Recorder,
    options: dict[str, Any],
    error: type[Exception],
    told: str,
) -> None:
    """An unknown option, or a value that none can have, raises where it is written."""
    with pytest.raises(error, match=told):
        add.apply_async((1,), **options)

    assert [] == client.published


def test_a_message_that_is_too_large_is_an_encode_error(
    add: Task[..., int], client: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the task and both sizes, with options and without, and nothing is sent."""
    monkeypatch.setattr(codec, "LIMITS", Limits(payload_bytes=5000))
    told = r"the arguments of proj\.add are too large: 5\d\d\d bytes, and a message holds at most 5000"
    with pytest.raises(EncodeError, match=told):
        add.delay(1, "x" * 5000)
    with pytest.raises(EncodeError, match=told):
        add.apply_async((1, "x" * 5000), countdown=5)

    assert [] == client.published


def test_what_only_amqp_has_is_taken_without_effect(add: Task[..., int], client: Recorder) -> None:
    """Options that mean something to kombu only don't get in the way, nor, as in Celery, does a key alone."""
    add.apply_async((1,), delivery_mode=1, mandatory=True, compression="gzip", serializer="json", chain=None)
    add.apply_async((1,), queue="q", exchange="ex", routing_key="rk")
    add.apply_async((1,), routing_key="alone")
    add.apply_async((1,), exchange="", routing_key="by-key")
    add.apply_async((1,), queue=SimpleNamespace(name="kombu-queue"))

    assert ["celery", "q", "celery", "by-key", "kombu-queue"] == [m.queue for m in client.published]


@pytest.mark.parametrize("name", ["a.b", "a-b", "a:b", "a/b", "é☃", "q" * 200, "with blank", "a,b"])
def test_a_queue_s_name_may_be_anything_printable(
    add: Task[..., int], client: Recorder, name: str
) -> None:
    """Names that AMQP and Redis take are taken."""
    add.apply_async((1,), queue=name)

    assert name == client.last.queue


class Colour(Enum):
    """An enum."""

    RED = 1


@dataclass
class Point:
    """A dataclass."""

    x: int


@pytest.mark.cases
@pytest.mark.parametrize("value", [Colour.RED, Point(1), {1, 2}, timedelta(1), object(), lambda: None])
@pytest.mark.parametrize("way", ["positional", "named", "nested", "eager"])
def test_an_argument_that_json_lacks_raises_naming_it_and_nothing_is_sent(
    app: Celery, client: Recorder, value: object, way: str
) -> None:
    """Unsupported arguments raise at delay(), a TypeError as in Celery, that names the argument (case 25)."""

    @app.task(name="proj.take")
    def take(x: object, y: object = None) -> None: ...

    app.conf.task_always_eager = way == "eager"
    call: tuple[tuple[Any, ...], dict[str, Any]] = {
        "positional": ((1, value), {}),
        "eager": ((1, value), {}),
        "named": ((1,), {"y": value}),
        "nested": ((1, {"deep": [value]}), {}),
    }[way]

    with pytest.raises(TypeError) as caught:
        take.delay(*call[0], **call[1])

    assert isinstance(caught.value, EncodeError)
    assert ("argument 'y'" if way == "named" else "argument 1") in str(caught.value)
    assert "proj.take" in str(caught.value)
    assert [] == client.published


def test_types_of_kombu_s_json_come_out_as_they_went_in(
    app: Celery, client: Recorder, worker: Worker
) -> None:
    """Dates, decimals, UUIDs and bytes arrive as themselves, and come back so, as with Celery's JSON."""
    values = [
        datetime(2024, 1, 2, 3, tzinfo=timezone.utc),
        date(2024, 1, 2),
        Decimal("1.20"),
        UUID(int=7),
        b"\xff\x00",
        "é☃\ud800",
        OrderedDict(a=1),
    ]
    seen: list[Any] = []

    @app.task
    def take(*args: Any) -> list[Any]:
        seen.extend(args)
        return list(args)

    result = take.delay(*values)
    worker.run(client.last)

    assert values == seen
    assert values == result.get(timeout=0)


@pytest.mark.parametrize("call", [((), {}), ((1, 2, 3), {}), ((1,), {"z": 1})])
def test_arguments_that_dont_fit_the_signature_raise_at_once(
    app: Celery, add: Task[..., int], client: Recorder, call: tuple[tuple[Any, ...], dict[str, Any]]
) -> None:
    """delay() checks arguments as Python does; typing=False leaves that to the worker."""

    @app.task(typing=False, name="loose")
    def loose(x: int) -> None: ...

    with pytest.raises(TypeError, match=r"add\(\)"):
        add.delay(*call[0], **call[1])
    loose.delay(*call[0], **call[1])

    assert ["loose"] == [m.headers.task for m in client.published]


def test_the_check_knows_keyword_only_and_bound_arguments(app: Celery, client: Recorder) -> None:
    """A bound task's self is not the caller's; keyword-only arguments and defaults are as declared."""

    @app.task(bind=True)
    def f(self: object, a: int, /, b: int = 2, *rest: int, c: int, **more: int) -> None: ...

    f.delay(1, c=3)
    f.delay(1, 2, 3, 4, c=3, d=4)
    with pytest.raises(TypeError, match="keyword-only argument"):
        f.delay(1)  # type: ignore[call-arg]
    assert 2 == len(client.published)


def test_calling_a_task_runs_it_here(app: Celery, client: Recorder) -> None:
    """task() is a plain call: nothing is published, the request says that it was called directly."""
    seen: list[Any] = []

    @app.task(bind=True)
    def f(self: Task[..., Any], x: int) -> int:
        seen.append((self.request.called_directly, self.request.id, self.request.args))
        return x + 1

    assert 3 == f(2)
    assert [(True, None, (2,))] == seen
    assert [] == client.published


def test_what_a_task_publishes_knows_its_parent_and_root(
    app: Celery, client: Recorder, worker: Worker
) -> None:
    """parent_id is the publishing task, root_id the first of all."""

    @app.task(bind=True)
    def nest(self: Task[..., Any], depth: int) -> list[str | None]:
        if depth:
            nest.delay(depth - 1)
            nest.apply_async((0,), queue="q")
        return [self.request.parent_id, self.request.root_id]

    first = nest.delay(2)
    worker.run(client.published[0])
    second = client.published[1]
    worker.run(second)
    third = client.published[3]

    assert [None, first.id] == first.get(timeout=0)
    for message, parent in ((second, first.id), (client.published[2], first.id)):
        assert (parent, first.id) == _family(message.payload)
    assert (second.headers.task_id, first.id) == _family(third.payload)


def _family(payload: bytes) -> tuple[str, str]:
    celery = json.loads(payload)[1]["celery"]
    return celery["parent_id"], celery["root_id"]


def test_send_task_publishes_by_name(app: Celery, client: Recorder) -> None:
    """send_task needs no task here; its path is the one that the name tells; options are apply_async's."""
    result = app.send_task("other.mod.f", [1], {"a": 2}, queue="q", priority=2, task_id="t", countdown=9)

    message, job = client.last, client.last_job
    assert isinstance(result, AsyncResult)
    assert ("t", "t", "other.mod.f", "q") == (
        result.id,
        message.headers.task_id,
        message.headers.task,
        message.queue,
    )
    assert ("other.mod", "f", [1], {"a": 2}) == (job.path, job.callable, job.args, job.kwargs)
    with pytest.raises(TypeError, match="is 'queue' meant"):
        app.send_task("other.mod.f", quue="x")


def test_send_task_publishes_even_where_tasks_are_eager(app: Celery, client: Recorder) -> None:
    """task_always_eager doesn't hold for send_task, and a warning says so, as in Celery."""
    app.conf.task_always_eager = True

    with pytest.warns(AlwaysEagerIgnored):
        app.send_task("x.y")

    assert 1 == len(client.published)


def test_a_publish_that_fails_is_tried_again_as_the_policy_says(
    add: Task[..., int], client: Recorder
) -> None:
    """retry_policy= tries the same message again; without one the client's own limit is the end."""
    client.failures = [OperationalError("down"), OperationalError("down")]
    add.apply_async((1,), retry_policy={"max_retries": 2, "interval_start": 0, "interval_step": 0})
    assert 1 == len(client.published)
    assert 1 == len(set(client.tried))

    client.failures = [OperationalError("down")]
    with pytest.raises(OperationalError, match="down"):
        add.delay(1)
    client.failures = [OperationalError("down")]
    with pytest.raises(OperationalError, match="down"):
        add.apply_async((1,), retry=False, retry_policy={"max_retries": 2})
    client.failures = [OperationalError("down")] * 2
    with pytest.raises(OperationalError, match="down"):
        add.apply_async((1,), retry_policy={"max_retries": 1, "interval_start": 0})


def test_the_setting_s_policy_holds_where_it_was_set(
    app: Celery, add: Task[..., int], client: Recorder
) -> None:
    """task_publish_retry_policy counts when the project sets it; task_publish_retry=False turns it off."""
    app.conf.task_publish_retry_policy = {"max_retries": 1, "interval_start": 0}
    client.failures = [OperationalError("down")]
    add.delay(1)
    assert 1 == len(client.published)

    app.conf.task_publish_retry = False
    client.failures = [OperationalError("down")]
    with pytest.raises(OperationalError):
        add.delay(1)


@pytest.mark.parametrize("refusal", [QueueFull("full"), BrokerRefused("no")])
def test_a_refusal_is_final(add: Task[..., int], client: Recorder, refusal: Exception) -> None:
    """What the broker refuses is not tried again."""
    client.failures = [refusal]

    with pytest.raises(type(refusal)):
        add.apply_async((1,), retry_policy={"max_retries": 5})

    assert 1 == len(client.tried)


def test_two_calls_are_two_messages(add: Task[..., int], client: Recorder) -> None:
    """Each publish has a msgid of its own, also where the task id is the same."""
    add.apply_async((1,), task_id="same")
    add.apply_async((1,), task_id="same")

    first, second = client.published
    assert first.msgid != second.msgid
    assert first.headers.task_id == second.headers.task_id


def test_a_task_whose_soft_limit_is_beyond_its_hard_one_cant_be_sent(app: Celery, client: Recorder) -> None:
    """It is refused where it is sent, as Celery refuses it."""

    @app.task(time_limit=1, soft_time_limit=2)
    def f() -> None: ...

    with pytest.raises(ValueError, match="soft_time_limit must be less than or equal to time_limit"):
        f.delay()
    assert [] == client.published
