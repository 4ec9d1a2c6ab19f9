"""Celery's messages as `run` requests, and back."""

from __future__ import annotations

import gzip
import json
import pickle
import zlib
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emq_compat.celery_message import CeleryMessage, delivery_of, message_of, publish_of
from emq_compat.errors import MessageError
from emq_compat.message import Headers, Job
from emq_compat.shim.packing import pack
from emq_compat.shim.request import request_of

pytestmark = pytest.mark.unit


def protocol_2(*args: Any, embed: dict[str, Any] | None = None, **headers: Any) -> CeleryMessage:
    """A message as Celery 5 makes it."""
    told = {
        "lang": "py", "task": "proj.tasks.add", "id": "t-1", "shadow": None, "eta": None, "expires": None,
        "group": None, "group_index": None, "retries": 0, "timelimit": [None, None], "root_id": "t-1",
        "parent_id": None, "argsrepr": "(2, 3)", "kwargsrepr": "{}", "origin": "gen1@host",
        "ignore_result": False,
        "replaced_task_nesting": 0, "stamped_headers": None, "stamps": {},
    }  # fmt: skip
    none = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return CeleryMessage(
        body=json.dumps([list(args), {}, embed or none]).encode(),
        content_type="application/json",
        content_encoding="utf-8",
        headers={**told, **headers},
        properties={"correlation_id": "t-1", "reply_to": "r", "priority": 0, "delivery_mode": 2},
    )


def back(message: CeleryMessage, **options: Any) -> CeleryMessage:
    """The message after a journey through a REQUEST, headers as text."""
    publish = publish_of(message, queue="celery")
    return message_of(Headers.decode(publish.headers.encode()), publish.payload, **options)


def test_a_task_becomes_a_call_that_a_stock_job_manager_can_make() -> None:
    """Path, callable and arguments stand where eventmq looks for them."""
    job = Job.decode(publish_of(protocol_2(2, 3), queue="celery").payload)
    assert ("proj.tasks", "add", [2, 3], {}) == (job.path, job.callable, job.args, job.kwargs)


def test_what_the_broker_acts_on_is_in_the_headers() -> None:
    """Times, limits, tries, priority: the broker and the job manager never read the payload."""
    given = protocol_2(
        eta="2030-01-01T00:00:00+00:00", expires="2030-01-01T00:00:01Z", timelimit=[2.5, 1], retries=4
    )
    given.properties["priority"] = 7  # type: ignore[index]
    headers = publish_of(given, queue="q").headers
    start = datetime(2030, 1, 1, tzinfo=timezone.utc).timestamp()
    expected = Headers(
        guarantee=True, timeout=3, task_id="t-1", task="proj.tasks.add", priority=7, eta=start,
        expires=start + 1,        limit_s=2.5, soft_limit_s=1.0, retries=4, epilogue=True,
    )  # fmt: skip
    assert expected == headers


_text = st.text(st.characters(codec="utf-8"), max_size=8)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(_json, max_size=3), st.dictionaries(_text, _json, max_size=3))
def test_a_celery_worker_gets_the_identical_message(args: list[Any], own: dict[str, Any]) -> None:
    """Body, headers and properties are those that the producer sent, whatever they hold."""
    given_message = protocol_2(*args)
    whole = CeleryMessage(
        body=given_message.body,
        content_type=given_message.content_type,
        content_encoding=given_message.content_encoding,
        headers={**own, **given_message.headers},
        properties=given_message.properties,
    )
    assert whole == back(whole)


@pytest.mark.parametrize("compression", [None, "application/x-gzip", "application/gzip"])
def test_a_body_that_is_not_json_is_never_read(compression: str | None) -> None:
    """A pickle travels as it is: nothing on the way can run it."""
    body = pickle.dumps([(1,), {}, {"callbacks": None}]) + b"!"
    compressed = zlib.compress(body) if compression else body
    message = CeleryMessage(
        body=compressed,
        content_type="application/x-python-serialize",
        content_encoding="binary",
        headers={**protocol_2().headers, **({"compression": compression} if compression else {})},
        properties={},
    )
    assert message == back(message)


def test_a_shim_worker_sees_what_celery_said() -> None:
    """The request of a task that Celery published has the workflow, the project's headers, the group."""
    link = {"task": "proj.tasks.done", "args": [], "kwargs": {}, "options": {}, "subtask_type": None}
    message = protocol_2(
        1, embed={"callbacks": [link], "errbacks": None, "chain": None, "chord": None},
        group="g", group_index=0, root_id="root", parent_id="p", ignore_result=True, tenant="acme",
    )  # fmt: skip
    delivery = delivery_of(message, queue="celery", msgid="m", attempt=1)
    request = request_of("proj.tasks.add", Job.decode(delivery.payload), delivery, "w@h")
    assert ([1], [link], "g", 0) == (request.args, request.callbacks, request.group, request.group_index)
    assert ("root", "p", True, "acme") == (
        request.root_id, request.parent_id, request.ignore_result, request.tenant,
    )  # fmt: skip


def test_protocol_1_is_read_and_given_back() -> None:
    """A message of an old Celery, all in its body."""
    body = {
        "task": "t.old", "id": "i", "args": [1], "kwargs": {"a": 2}, "retries": 1,
        "eta": "2030-01-01T00:00:00",
        "expires": None, "utc": True, "callbacks": None, "errbacks": None, "timelimit": [None, None],
        "taskset": "g", "chord": None,
    }  # fmt: skip
    message = CeleryMessage(
        body=json.dumps(body).encode(), content_type="application/json", content_encoding="utf-8", headers={},
        properties={"correlation_id": "i"},
    )  # fmt: skip
    publish = publish_of(message, queue="q")
    job = Job.decode(publish.payload)
    assert ("t.old", "i", "g", [1], {"a": 2}) == (
        publish.headers.task, publish.headers.task_id, job.celery["group"], job.args, job.kwargs,
    )  # fmt: skip
    returned = back(message)
    assert (body, message.headers) == (json.loads(returned.body), returned.headers)


def test_headers_that_json_lacks_come_back_as_they_were() -> None:
    """AMQP's headers may hold times and bytes."""
    moment = datetime(2030, 1, 1, tzinfo=timezone.utc)
    message = protocol_2(1, when=moment, raw=b"\xff\x00")
    assert (moment, b"\xff\x00") == (back(message).headers["when"], back(message).headers["raw"])


def test_what_the_shim_has_made_is_protocol_2() -> None:
    """A Celery worker can run what a shim client published."""
    job = Job(
        path="p", callable="f", args=[1], kwargs={"k": 2}, celery={"task": "p.f", "chain": [{"task": "x"}]}
    )
    message = message_of(Headers(task_id="i", task="p.f", retries=2, eta=1.9e9, priority=3), job.encode())
    args, kwargs, embed = json.loads(message.body)
    assert ([1], {"k": 2}, [{"task": "x"}], None) == (args, kwargs, embed["chain"], embed["chord"])
    assert ("i", "p.f", 2, "2030-03-17T17:46:40+00:00", "i") == tuple(
        message.headers[name] for name in ("id", "task", "retries", "eta", "root_id")
    )
    assert 3 == message.properties["priority"]


def test_values_in_front_of_packed_arguments_are_joined_where_they_may_be_read() -> None:
    """A chord's values, and the workflow that stands outside of it, get into a body that isn't plain JSON."""
    packed = pack([[2], {}, {}], "pickle", "gzip")
    job = Job(path="p", callable="f", args=[[1]], celery={"packed": packed, "chain": [{"task": "x"}]})
    message = message_of(Headers(task_id="i", task="p.f"), job.encode(), accept=["pickle"])
    assert [[[1], 2], {}, {"chain": [{"task": "x"}]}] == pickle.loads(gzip_or_zlib(message.body))
    with pytest.raises(MessageError, match="can't be joined"):
        message_of(Headers(task_id="i", task="p.f"), job.encode(), accept=["json"])


def gzip_or_zlib(body: bytes) -> bytes:
    """What was compressed."""
    return gzip.decompress(body) if body[:2] == b"\x1f\x8b" else zlib.decompress(body)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"body": b"{"}, "not JSON"),
        ({"body": b"[1]"}, "not \\[args, kwargs, embed\\]"),
        ({"body": b"[{}, {}, {}]"}, "arguments"),
        ({"headers": {"task": 3, "id": "x"}}, "'task' is 3"),
        ({"headers": {"task": "a.b", "id": ""}}, "'id' is ''"),
        ({"headers": {"task": "a.b", "id": "x", "eta": "soon"}}, "eta is 'soon'"),
        ({"headers": {"task": "a.b", "id": "x", "timelimit": 5}}, "timelimit is 5"),
        ({"headers": {"task": "a.b", "id": "x", "timelimit": [float("nan"), 1]}}, "timelimit is nan"),
        ({"headers": {}}, "neither the header 'task'"),
        ({"headers": {"task": "a.b", "id": "x", "odd": object()}}, "a header of the message"),
    ],
)
def test_what_is_no_task_message_is_named(change: dict[str, Any], told: str) -> None:
    """An error says what is wrong with it."""
    good = protocol_2()
    parts = {
        name: getattr(good, name)
        for name in ("body", "content_type", "content_encoding", "headers", "properties")
    }
    with pytest.raises(MessageError, match=told):
        publish_of(CeleryMessage(**{**parts, **change}), queue="q")
