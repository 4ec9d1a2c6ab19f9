"""AsyncResult: what it asks the broker, and what it makes of the answers."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from emq_compat.celery_shim import AsyncResult, Celery, OperationalError, Task
from emq_compat.client import StoredResult
from emq_compat.shim import exceptions
from emq_compat.shim.exceptions import (
    ImproperlyConfigured,
    RemoteTraceback,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from emq_compat.shim.exceptions import TimeoutError as ShimTimeoutError
from tests.shim.recorder import Recorder, Worker

pytestmark = pytest.mark.unit


def stored(state: str, **reply: Any) -> StoredResult:
    """A result as the broker keeps it."""
    return StoredResult(state, body=json.dumps({"state": state, "value": None, **reply}).encode())


def error(kind: str, module: str, *args: Any, message: str | None = None) -> dict[str, Any]:
    """An error as a reply has it."""
    text = ", ".join(map(str, args)) if message is None else message
    return {"type": kind, "module": module, "args": list(args), "message": text}


def test_an_unknown_id_is_pending(app: Celery) -> None:
    """An id that the broker knows nothing of is PENDING and not ready."""
    result = app.AsyncResult("nothing")

    assert ("PENDING", "PENDING", None) == (result.state, result.status, result.result)
    assert result.traceback is None
    assert (False, False, False) == (result.ready(), result.successful(), result.failed())
    with pytest.raises(ValueError, match="id"):
        AsyncResult("")


def test_get_raises_celery_s_timeouterror(app: Celery) -> None:
    """get(timeout=) raises exceptions.TimeoutError, which result.TimeoutError is, too."""
    result = app.AsyncResult("late")

    for timeout in (0, 0.01):
        with pytest.raises(ShimTimeoutError, match="late isn't done"):
            result.get(timeout=timeout)
    assert ShimTimeoutError is result.TimeoutError
    assert exceptions.TimeoutError is ShimTimeoutError


def test_a_value_is_returned_and_kept(app: Celery, client: Recorder) -> None:
    """A final result is asked for once; get() takes Celery's arguments; callback gets id and value."""
    client.stored["t"] = stored("SUCCESS", value=[1, {"__type__": "decimal", "__value__": "1.5"}])
    result = app.AsyncResult("t")
    told: list[Any] = []

    value = result.get(
        timeout=1, propagate=True, interval=0.1, no_ack=True, callback=lambda i, v: told.append((i, v))
    )
    client.stored.clear()

    assert [("t", value)] == told
    assert "1.5" == str(value[1])
    assert (value, value, "SUCCESS", True) == (result.get(), result.wait(), result.state, result.successful())
    assert value == result.info == result.maybe_throw()


def test_a_state_that_isnt_final_shows_its_meta(app: Celery, client: Recorder) -> None:
    """info is what update_state(meta=) set; it is asked for again each time."""
    result = app.AsyncResult("t")
    client.stored["t"] = stored("PROGRESS", value={"done": 1})
    first = (result.state, result.info)
    client.stored["t"] = stored("PROGRESS", value={"done": 2})

    assert ("PROGRESS", {"done": 1}) == first
    assert {"done": 2} == result.info
    assert not result.ready()


class OwnError(Exception):
    """An importable exception."""


def test_a_failure_is_raised_by_its_class_with_the_worker_s_traceback(app: Celery, client: Recorder) -> None:
    """`except TheClass` catches it; the remote traceback is its cause; propagate=False returns it."""
    client.stored["t"] = stored(
        "FAILURE", error=error("OwnError", __name__, "a", 1), traceback="Traceback: there"
    )
    result = app.AsyncResult("t")

    assert result.failed()
    with pytest.raises(OwnError) as caught:
        result.get(timeout=0)
    assert ("a", 1) == caught.value.args
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "Traceback: there" == result.traceback
    assert isinstance(result.get(propagate=False), OwnError)
    assert isinstance(result.result, OwnError)
    with pytest.raises(OwnError):
        result.maybe_throw()


@pytest.mark.parametrize("module", ["celery.exceptions", "emq_compat.shim.exceptions", "billiard.exceptions"])
@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("WorkerLostError", ["the process is gone"], None),
        ("TimeLimitExceeded", [2], "TimeLimitExceeded(2)"),
        ("SoftTimeLimitExceeded", [], "SoftTimeLimitExceeded()"),
        ("TaskRevokedError", ["revoked"], None),
        ("NotRegistered", ["proj.x"], "'proj.x'"),
        ("Terminated", [15], None),
    ],
)
def test_celery_s_own_errors_come_back_as_the_shim_s(
    app: Celery, client: Recorder, module: str, name: str, args: list[Any], message: str | None
) -> None:
    """Whether the broker, a genuine worker or ours names the class: it is the shim's, without a stand-in."""
    client.stored["t"] = stored("FAILURE", error=error(name, module, *args, message=message))

    with pytest.raises(getattr(exceptions, name)) as caught:
        app.AsyncResult("t").get(timeout=0)

    assert getattr(exceptions, name) is type(caught.value)
    assert tuple(args) == caught.value.args


def test_what_a_lost_job_comes_to_is_raised_by_class(app: Celery, client: Recorder) -> None:
    """What the job manager and the broker say of lost and limited tasks is WorkerLostError and the like."""
    from emq_compat.broker.results import failure_body
    from emq_compat.manager.losses import reply_to_lost, revoked
    from emq_compat.message import Delivery, Headers
    from emq_compat.pool.base import Lost
    from emq_compat.run import TaskPolicy

    delivery = Delivery(msgid="m", queue="q", headers=Headers(), payload=b"")

    def lost(reason: Any, limit_s: float | None = None) -> bytes:
        told = Lost(key=("m", 1), reason=reason, detail="signal 9", pid=1)
        return reply_to_lost(told, delivery, TaskPolicy(), limit_s).body

    bodies = {
        WorkerLostError: [
            lost("died"),
            lost("stopped"),
            failure_body("WorkerLostError", "gone"),
        ],
        TimeLimitExceeded: [lost("time-limit", 2.0)],
        TaskRevokedError: [
            revoked("terminated").body,
            failure_body("TaskRevokedError", "revoked", "REVOKED"),
        ],
    }
    for cls, replies in bodies.items():
        for body in replies:
            reply = json.loads(body)
            client.stored["t"] = StoredResult(reply["state"], body=body)
            with pytest.raises(cls) as caught:
                app.AsyncResult("t").get(timeout=0)
            assert cls is type(caught.value)


def test_a_stock_worker_s_reply_is_a_value(app: Celery, client: Recorder) -> None:
    """A plain {"value"} can't be told from an error: it is a SUCCESS."""
    client.stored["t"] = StoredResult("SUCCESS", body=b'{"value": 3}')

    assert 3 == app.AsyncResult("t").get(timeout=0)


def test_nothing_is_imported_because_a_result_says_so(app: Celery, client: Recorder) -> None:
    """A class that isn't loaded is stood in for by one of its name; SystemExit never comes back as itself."""
    told = {
        "Unheard": error("Unheard", "some.module.not.loaded", "x"),
        "SystemExit": error("SystemExit", "builtins", 3, message="3"),
        "CancelledError": error("CancelledError", "asyncio.exceptions"),
        "getcwd": error("getcwd", "os"),
    }
    for name, reply in told.items():
        client.stored[name] = stored("FAILURE", error=reply)
        raised = app.AsyncResult(name).get(propagate=False)
        assert (name, reply["message"]) == (type(raised).__name__, str(raised))
        assert isinstance(raised, Exception)
    assert "some.module.not.loaded" not in sys.modules


def test_the_project_s_own_modules_are_imported_to_raise_their_exceptions(
    app: Celery, client: Recorder, module: Callable[[str, str], None]
) -> None:
    """A class in a package of the app's tasks or of `include` is found though nobody has imported it yet."""
    module("ownproj.errors", "class Own(Exception): pass\n")
    module("otherproj.errors", "class Own(Exception): pass\n")
    module("ownproj.broken", "raise RuntimeError('at import')\n")
    app.conf.include = ["ownproj.tasks"]
    for name in ("ownproj.errors", "otherproj.errors", "ownproj.broken", "ownproj.missing"):
        client.stored[name] = stored("FAILURE", error=error("Own", name, "x"))

    found = {name: app.AsyncResult(name).get(propagate=False) for name in client.stored}

    assert "otherproj.errors" not in sys.modules
    assert type(found["ownproj.errors"]) is sys.modules["ownproj.errors"].Own
    assert {("Own", "x")} == {(type(exc).__name__, str(exc)) for exc in found.values()}


def test_a_reply_that_is_odd_raises_something_that_says_what_it_was(app: Celery, client: Recorder) -> None:
    """A FAILURE without an error, and errors with members of wrong kinds, still raise an Exception."""
    odd: list[dict[str, Any]] = [
        {"value": "text"},
        {"error": "text"},
        {"error": {"type": 3, "module": None, "args": "x", "message": ["y"]}},
        {"error": {}},
    ]
    for reply in odd:
        client.stored["t"] = stored("FAILURE", **reply)
        raised = app.AsyncResult("t").get(propagate=False)
        assert isinstance(raised, Exception)
        assert "text" in str(raised) or "text" not in str(reply)


def test_an_ignored_result_is_none_at_once(app: Celery) -> None:
    """get() of a task that ignores its result returns None and asks nobody."""

    @app.task(ignore_result=True)
    def f() -> int:
        return 1

    assert f.delay().get(timeout=10) is None


def test_forget_and_revoke_ask_the_broker(app: Celery, client: Recorder) -> None:
    """forget drops the result; revoke names signal and terminate, and tells what became of it."""
    client.stored["t"] = stored("SUCCESS", value=1)
    client.answers["revoke"] = {"t": "terminating"}
    result = app.AsyncResult("t")
    result.get()
    result.forget()
    client.stored.clear()

    assert "PENDING" == result.state
    assert "terminating" == result.revoke(terminate=True, signal="SIGKILL")
    result.revoke()
    assert [
        ("forget", {"ids": ["t"]}),
        ("revoke", {"ids": ["t"], "terminate": True, "signal": "SIGKILL"}),
        ("revoke", {"ids": ["t"], "terminate": False, "signal": "SIGTERM"}),
    ] == client.asked


def test_get_inside_a_task_is_refused(app: Celery, client: Recorder, worker: Worker) -> None:
    """A task that waits for another could wait for itself: RuntimeError, unless it is allowed."""
    client.stored["t"] = stored("SUCCESS", value=1)

    @app.task
    def f(allowed: bool) -> Any:
        return app.AsyncResult("t").get(disable_sync_subtasks=not allowed)

    refused = f.delay(False)
    worker.run(client.last)
    allowed = f.delay(True)
    worker.run(client.last)

    with pytest.raises(RuntimeError, match="inside a task"):
        refused.get(timeout=0)
    assert 1 == allowed.get(timeout=0)


def test_a_stock_router_keeps_no_results(app: Celery) -> None:
    """get() and state fail at once and name result_backend; nor does it revoke."""
    app.client = Recorder(stock=True)
    result = app.AsyncResult("t")

    for ask in (lambda: result.get(timeout=5), lambda: result.state, result.forget):
        with pytest.raises(ImproperlyConfigured, match="result_backend"):
            ask()
    with pytest.raises(ImproperlyConfigured, match="stock"):
        result.revoke()


def test_a_result_is_its_id(app: Celery, worker: Worker) -> None:
    """Equality, hash, text and pickling go by the id."""
    result = app.AsyncResult("t")

    assert result == AsyncResult("t") == "t"
    assert result != AsyncResult("u")
    assert 1 == len({result, AsyncResult("t")})
    assert ("t", "<AsyncResult: t>", "t") == (str(result), repr(result), result.task_id)
    assert result == pickle.loads(pickle.dumps(result))


def test_a_task_gives_results_by_id(app: Celery) -> None:
    """task.AsyncResult and app.AsyncResult belong to the app."""

    @app.task
    def f() -> None: ...

    other = Celery("other", set_as_current=True)
    assert app is f.AsyncResult("t").app
    assert other is AsyncResult("t").app
    assert isinstance(f, Task)


def test_an_error_of_the_broker_is_raised(app: Celery, client: Recorder, mocker: Any) -> None:
    """A broker that doesn't answer is an OperationalError of get(), state and revoke."""

    def down(*args: Any, **kwargs: Any) -> Mapping[str, Any]:
        raise OperationalError("down")

    for name in ("results", "wait", "ask"):
        mocker.patch.object(client, name, down)
    result = app.AsyncResult("t")

    for ask in (lambda: result.get(timeout=1), lambda: result.state, result.revoke):
        with pytest.raises(OperationalError, match="down"):
            ask()
