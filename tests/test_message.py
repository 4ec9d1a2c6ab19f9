"""What is published, run and answered: encoding and reading it back loses nothing, and says what is wrong."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emq_compat.errors import MessageError
from emq_compat.message import (
    FAILURE,
    RETRY,
    SUCCESS,
    Delivery,
    Failure,
    Headers,
    Job,
    Outcome,
    Publish,
    ReplyHeaders,
    new_id,
)

pytestmark = pytest.mark.unit

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=3)
NAMES = TEXT.filter(bool)


@given(NAMES, NAMES, st.lists(JSON, max_size=3), OBJECTS, st.lists(JSON, max_size=3), OBJECTS, OBJECTS)
def test_a_job_survives(
    path: str,
    function: str,
    args: list[Any],
    kwargs: dict[str, Any],
    class_args: list[Any],
    class_kwargs: dict[str, Any],
    celery: dict[str, Any],
) -> None:
    """Job.decode(job.encode()) is the job, whatever JSON its arguments hold."""
    job = Job(
        path=path,
        callable=function,
        args=args,
        kwargs=kwargs,
        class_args=class_args,
        class_kwargs=class_kwargs,
        celery=celery,
    )
    assert job == Job.decode(job.encode())


def test_a_job_is_eventmqs() -> None:
    """The payload is eventmq's: ["run", {…}] with all six members, and nothing more for a plain job."""
    subcommand, options = json.loads(Job(path="m", callable="f", args=(1,)).encode())
    assert "run" == subcommand
    assert {"path", "callable", "args", "kwargs", "class_args", "class_kwargs"} == options.keys()
    assert [1] == options["args"]


def test_what_eventmq_leaves_out_is_empty() -> None:
    """Members that a stock client leaves out, or sends as null, are empty."""
    job = Job.decode(b'["run", {"path": "m", "callable": "f", "args": null, "more": 1}]')
    assert Job(path="m", callable="f") == job


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"run": {}}', "is not ["),
        (b'["run"]', "is not ["),
        (b'["run", []]', "is not ["),
        (b'["stop", {}]', "'stop' is unknown"),
        (b'["run", {"callable": "f"}]', "'path' as a non-empty string, not None"),
        (b'["run", {"path": "", "callable": "f"}]', "'path' as a non-empty string"),
        (b'["run", {"path": "m", "callable": 1}]', "'callable' as a non-empty string, not 1"),
        (b'["run", {"path": "m", "callable": "f", "args": {}}]', "'args' as a list, not a dict"),
        (b'["run", {"path": "m", "callable": "f", "kwargs": []}]', "'kwargs' as an object, not a list"),
        (b'["run", {"path": "m", "callable": "f", "celery": "x"}]', "'celery' as an object, not a str"),
    ],
)
def test_a_job_that_is_none_says_why(payload: bytes, named: str) -> None:
    """A payload that is no job is refused with an error that names the member, and what it is instead."""
    with pytest.raises(MessageError) as refused:
        Job.decode(payload)
    assert named in str(refused.value)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", {("a", "b"): 1}])
def test_what_is_no_json_is_refused(value: object) -> None:
    """Arguments and values that JSON can't carry raise MessageError, and nothing else."""
    with pytest.raises(MessageError, match=r"the job m\.f is not JSON"):
        Job(path="m", callable="f", args=(value,)).encode()
    with pytest.raises(MessageError, match="the result is not JSON"):
        Outcome(state=SUCCESS, value=value).encode()


def test_what_is_endless_is_refused() -> None:
    """So does a value that contains itself, or is nested too deeply."""
    endless: list[Any] = []
    endless.append(endless)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (endless, deep):
        with pytest.raises(MessageError):
            Outcome(state=SUCCESS, value=value).encode()


@given(JSON, OBJECTS)
def test_a_value_survives(value: Any, extra: dict[str, Any]) -> None:
    """An Outcome's reply is an object with its value, as eventmq's, and its state and further members."""
    reply = Outcome(state=SUCCESS, value=value, extra=extra).encode()
    document = json.loads(reply.body)
    assert {"value": value, "state": SUCCESS, **extra} == document
    assert SUCCESS == reply.state


def test_a_failure_survives() -> None:
    """A failure's reply has the message where eventmq has the value, and the exception beside it."""
    failure = Failure(type="KeyError", module="builtins", args=("k",), message="'k'", traceback="Traceback …")
    document = json.loads(Outcome(state=FAILURE, failure=failure).encode().body)
    assert {
        "value": "'k'",
        "state": FAILURE,
        "error": {"type": "KeyError", "module": "builtins", "args": ["k"], "message": "'k'"},
        "traceback": "Traceback …",
    } == document


def test_follow_ups_leave_with_the_reply() -> None:
    """What is to be published next, and that no result is kept, go from the Outcome to its Reply."""
    again = Publish(queue="q", headers=Headers(retries=1), payload=b"[]")
    reply = Outcome(state=RETRY, follow_ups=(again,), no_result=True).encode()
    assert ((again,), True, RETRY) == (reply.follow_ups, reply.no_result, reply.state)


def test_each_publish_has_its_msgid() -> None:
    """Two publishes never share a msgid, though all else is equal."""
    first, second = (Publish(queue="q", headers=Headers(), payload=b"") for _ in range(2))
    assert first.msgid != second.msgid


def test_a_delivery_tells_its_attempt() -> None:
    """The attempt is the header's; a stock router's deliveries have 0."""
    delivery = Delivery(msgid="m", queue="q", headers=Headers.decode("attempt:3"), payload=b"")
    assert 3 == delivery.attempt
    assert 0 == Delivery(msgid="m", queue="q", headers=Headers.decode("guarantee"), payload=b"").attempt


def test_ids_sort_by_time() -> None:
    """Ids are UUIDs of version 7, all different, in the order of the milliseconds they were made in."""
    ids = [new_id() for _ in range(10_000)]
    assert {(7, uuid.RFC_4122)} == {(uuid.UUID(one).version, uuid.UUID(one).variant) for one in ids}
    assert len(ids) == len(set(ids))
    times = [one[:13] for one in ids]
    assert sorted(times) == times


def test_headers_are_values() -> None:
    """Headers that were read equal headers that were made, hash alike, and can't be changed."""
    made = Headers(guarantee=True, task_id="a,b %", task="t", priority=3, eta=1.5, attempt=2, chord="c:1")
    read = Headers.decode(made.encode())
    assert made == read
    assert hash(made) == hash(read)
    assert repr(made) == repr(read)
    with pytest.raises(AttributeError):
        read.attempt = 3  # type: ignore[misc]


def test_headers_of_others_are_skipped() -> None:
    """Unknown headers are no error, and blanks around a comma don't matter."""
    assert Headers(guarantee=True, timeout=5) == Headers.decode("guarantee, x-new:1, timeout:5 ,y")
    assert Headers() == Headers.decode("")


@pytest.mark.parametrize(
    "text",
    [
        "timeout:soon",
        "timeout:-1",
        "timeout:2.5",
        "retry-count:99999999999",
        "priority:10",
        "eta:nan",
        "eta:-1",
        "expires:inf",
        "limit:x",
        "attempt:",
        "retries:1e3",
    ],
)
def test_a_header_with_a_wrong_value_is_named(text: str) -> None:
    """A known header whose value is no number in its range is refused by name."""
    name, _, value = text.partition(":")
    with pytest.raises(MessageError) as refused:
        Headers.decode(f"guarantee,{text}")
    assert f"header {name!r} has the value {value!r}" in str(refused.value)


@pytest.mark.parametrize("value", ["x" * 1025, "%E2%98%83" * 342, "a%0Ab"])
def test_a_task_id_that_no_answer_could_name_is_refused(value: str) -> None:
    """A task id too long for a frame, or unprintable, is refused where it arrives."""
    with pytest.raises(MessageError, match=r"header 'id' has the value .* too long or unprintable"):
        Headers.decode(f"guarantee,id:{value}")
    longest = "☃" * 341
    assert longest == Headers.decode(Headers(task_id=longest).encode()).task_id


@pytest.mark.parametrize("value", ["x", "", "-1", "1.5"])
def test_a_reply_with_a_wrong_attempt_is_refused(value: str) -> None:
    """So is a REPLY's attempt."""
    with pytest.raises(MessageError, match="header 'attempt'"):
        ReplyHeaders.decode(f"attempt:{value},state:SUCCESS")
