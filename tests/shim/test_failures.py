"""What a task may raise or return, and what its caller gets (cases 22, 23 and 25)."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from typing import Any

import pytest

from emq_compat.celery_shim import (
    Celery,
    EncodeError,
    Ignore,
    Reject,
    SoftTimeLimitExceeded,
    Task,
)
from emq_compat.failures import TEXT_LIMIT
from emq_compat.message import Job
from emq_compat.protocol.limits import Limits
from emq_compat.shim import codec
from emq_compat.shim.surface.serialization import UnpickleableExceptionWrapper
from tests.shim.recorder import Recorder, Worker

pytestmark = [pytest.mark.unit, pytest.mark.cases]


class TwoArgumentsError(Exception):
    """Its constructor needs more than its text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class KeywordError(Exception):
    """Can only be made with a keyword."""

    def __init__(self, *, why: str) -> None:
        super().__init__(why)


class HostileError(Exception):
    """Holds an object, and can't be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class OwnBaseError(BaseException):
    """Not an Exception."""


@pytest.mark.parametrize("how", ["raise", "retry", "chained"])
def test_an_exception_with_its_own_constructor_is_caught_by_its_class(
    how: str, app: Celery, client: Recorder, worker: Worker
) -> None:
    """Raised, given to retry(exc=), or chained from one that holds a lock: class and text survive (22)."""

    @app.task(bind=True, max_retries=0 if how == "retry" else 3)
    def f(self: Task[..., Any]) -> None:
        error = TwoArgumentsError(7, "seven")
        if how == "retry":
            self.retry(exc=error)
        if how == "chained":
            cause = Exception("holds", threading.Lock())
            raise error from cause
        raise error

    result = f.delay()
    assert "FAILURE" == worker.run(client.last).state

    with pytest.raises(TwoArgumentsError, match="7: seven") as caught:
        result.get(timeout=0)
    assert "7: seven" == str(caught.value)
    assert "TwoArgumentsError: 7: seven" in (result.traceback or "")


def test_a_retry_keeps_such_an_exception_as_its_info(
    app: Celery, client: Recorder, worker: Worker
) -> None:
    """retry(exc=) with an exception of its own constructor goes on, and info is that exception (22)."""

    @app.task(bind=True)
    def f(self: Task[..., Any]) -> None:
        self.retry(exc=TwoArgumentsError(1, "one"), countdown=0)

    result = f.delay()

    assert "RETRY" == worker.run(client.last).state
    assert isinstance(result.info, TwoArgumentsError)
    # Celery raises this one in its place: code that catches it goes on working.
    wrapper = result.info
    assert isinstance(wrapper, UnpickleableExceptionWrapper)
    assert ("TwoArgumentsError", ("1: one",)) == (wrapper.exc_cls_name, wrapper.exc_args)
    assert "1: one" == str(wrapper)


def test_a_class_that_isnt_importable_comes_back_under_its_name(
    app: Celery, client: Recorder, worker: Worker
) -> None:
    """A local class can't be found by the caller: an exception of its name and text stands in for it (22)."""

    class LocalError(ValueError):
        pass

    @app.task
    def f() -> None:
        raise LocalError("here")

    result = f.delay()
    worker.run(client.last)

    raised = result.get(propagate=False)
    assert ("LocalError", "here") == (type(raised).__name__, str(raised))


@pytest.mark.parametrize(
    ("exception", "name"),
    [
        (RuntimeError("\x00é☃\ud800" + "x" * 5_000_000 + "end"), "RuntimeError"),
        (HostileError(object()), "HostileError"),
        (KeywordError(why="because"), "KeywordError"),
        (SystemExit(3), "SystemExit"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (asyncio.CancelledError(), "CancelledError"),
        (OwnBaseError("base"), "OwnBaseError"),
        (SoftTimeLimitExceeded(), "SoftTimeLimitExceeded"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_whatever_a_task_raises_is_a_failure_that_can_be_stored_and_read(
    app: Celery, client: Recorder, worker: Worker, exception: BaseException, name: str
) -> None:
    """Each ends FAILURE with bounded, plain UTF-8 text, and the next task runs (23)."""

    @app.task
    def f(fine: bool) -> int:
        if fine:
            return 1
        raise exception

    result = f.delay(False)
    reply = worker.run(client.last)
    after = f.delay(True)
    worker.run(client.last)

    assert "FAILURE" == reply.state
    assert len(reply.body) < 8 * TEXT_LIMIT
    document = json.loads(reply.body.decode("utf-8"))
    assert "\x00" not in document["error"]["message"]
    assert name == type(result.get(propagate=False)).__name__
    assert 1 == after.get(timeout=0)


def test_a_long_message_keeps_both_ends(app: Celery, client: Recorder, worker: Worker) -> None:
    """The text is cut in its middle, and says how much was left out (23)."""

    @app.task
    def f() -> None:
        raise ValueError("begin" + "x" * 5_000_000 + "end")

    result = f.delay()
    worker.run(client.last)

    text = str(result.get(propagate=False))
    assert text.startswith("begin")
    assert text.endswith("end")
    assert "characters left out" in text
    assert len(text) <= TEXT_LIMIT


def test_endless_recursion_is_a_failure(app: Celery, client: Recorder, worker: Worker) -> None:
    """RecursionError ends its task and no more (23)."""

    def deeper() -> None:
        deeper()

    @app.task
    def f() -> None:
        deeper()

    result = f.delay()
    worker.run(client.last)

    with pytest.raises(RecursionError):
        result.get(timeout=0)


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit"])
def test_the_end_of_a_remote_task_doesnt_end_the_caller(
    name: str, app: Celery, client: Recorder, worker: Worker
) -> None:
    """get() never raises a SystemExit or KeyboardInterrupt of a task as that: a stand-in of its name."""
    import builtins

    @app.task
    def f() -> None:
        raise getattr(builtins, name)("bye")

    result = f.delay()
    worker.run(client.last)

    with pytest.raises(Exception, match="bye") as caught:
        result.get(timeout=0)
    assert name == type(caught.value).__name__


def test_a_soft_time_limit_can_be_caught_inside_the_task(
    app: Celery, client: Recorder, worker: Worker
) -> None:
    """SoftTimeLimitExceeded is an Exception that the body may handle."""

    @app.task
    def f() -> str:
        try:
            raise SoftTimeLimitExceeded
        except SoftTimeLimitExceeded:
            return "cleaned up"

    result = f.delay()
    worker.run(client.last)

    assert "cleaned up" == result.get(timeout=0)
    assert SoftTimeLimitExceeded is worker.program.soft_limit_exceeded


@pytest.mark.parametrize("value", [{1, 2}, object(), float, {(1, 2): 3}])
def test_a_result_that_json_lacks_is_a_failure_encodeerror(
    app: Celery, client: Recorder, worker: Worker, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    """A set, or anything else that can't be carried, is FAILURE EncodeError naming the task (25)."""

    @app.task(name="proj.returns")
    def returns() -> object:
        return value

    result = returns.delay()
    with caplog.at_level(logging.ERROR):
        reply = worker.run(client.last)

    assert "FAILURE" == reply.state
    with pytest.raises(EncodeError, match=r"proj\.returns"):
        result.get(timeout=0)
    assert "the result of proj.returns can't be carried" in caplog.text
    assert "or set result_serializer" in caplog.text
    assert f"Task proj.returns[{result.id}]" in caplog.text


def test_a_result_that_is_too_large_is_a_failure_encodeerror(
    app: Celery, client: Recorder, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the task and both sizes, instead of a reply that can't leave the worker."""

    @app.task(name="proj.returns")
    def returns() -> str:
        return "x" * 5000

    monkeypatch.setattr(codec, "LIMITS", Limits(payload_bytes=5000))
    result = returns.delay()
    reply = worker.run(client.last)

    assert "FAILURE" == reply.state
    with pytest.raises(EncodeError, match=r"result of proj\.returns is too large: 5\d\d\d bytes.* 5000"):
        result.get(timeout=0)


def test_ignore_records_nothing(app: Celery, client: Recorder, worker: Worker) -> None:
    """A task that raises Ignore ends without a result."""

    @app.task
    def f() -> None:
        raise Ignore

    f.delay()

    assert "IGNORED" == worker.run(client.last).state


@pytest.mark.parametrize(("requeue", "state"), [(False, "REJECTED"), (True, "REQUEUED")])
def test_reject_puts_the_message_back_or_aside(
    app: Celery, client: Recorder, worker: Worker, requeue: bool, state: str
) -> None:
    """Reject(requeue=True) is a redelivery; Reject() the dead letters, and a FAILURE for who waits."""

    @app.task(acks_late=True)
    def f() -> None:
        raise Reject("reason", requeue=requeue)

    @app.task
    def told(task_id: str) -> None: ...

    result = f.apply_async(link_error=told.s())
    reply = worker.run(client.last)

    assert state == reply.state
    if requeue:
        assert () == reply.follow_ups
        return
    end, errback = reply.follow_ups
    assert ("FAILURE", result.id) == (end.headers.settled, end.headers.task_id)
    assert "Reject" == json.loads(end.payload)["error"]["type"]
    assert (result.id,) == tuple(Job.decode(errback.payload).args)


def test_expected_exceptions_are_logged_without_a_traceback(
    app: Celery, client: Recorder, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    """throws= names exceptions that are part of the task's work."""

    @app.task(throws=(KeyError,), name="proj.throws")
    def f() -> None:
        raise KeyError("expected")

    result = f.delay()
    with caplog.at_level(logging.INFO):
        worker.run(client.last)

    assert "FAILURE" == result.state
    assert "proj.throws" in caplog.text
    assert "Traceback" not in caplog.text
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_failure_is_logged_once_with_its_traceback(
    app: Celery, client: Recorder, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    """The log line names task and id, and the traceback begins in the task's own code."""

    @app.task(name="proj.bad")
    def bad() -> None:
        raise ValueError("é☃ bad")

    result = bad.delay()
    with caplog.at_level(logging.ERROR):
        worker.run(client.last)

    (record,) = caplog.records
    assert f"Task proj.bad[{result.id}] raised unexpected: ValueError: é☃ bad" in record.getMessage()
    assert "emq_compat/shim" not in record.getMessage()
