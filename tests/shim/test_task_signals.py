"""The signals of a task: at its publish, and where it runs."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest

from emq_compat.celery_shim import Celery, Ignore, Reject
from emq_compat.shim import signals
from emq_compat.shim.dispatch import Signal
from emq_compat.shim.exceptions import EncodeError
from tests.shim.recorder import Recorder, Worker

RUN = ("task_prerun", "task_success", "task_failure", "task_retry", "task_postrun")
PUBLISH = ("before_task_publish", "after_task_publish", "task_sent")


@pytest.fixture
def heard() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """(name, arguments) of each signal that was sent, in order."""
    seen: list[tuple[str, dict[str, Any]]] = []

    def listen(signal: Signal, **named: Any) -> None:
        seen.append((str(signal.name), named))

    for name in (*RUN, *PUBLISH, "task_internal_error"):
        getattr(signals, name).connect(listen)
    yield seen
    for name in (*RUN, *PUBLISH, "task_internal_error"):
        assert getattr(signals, name).disconnect(listen)


def names(heard: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return [name for name, _ in heard]


def test_a_success(app: Celery, client: Recorder, worker: Worker, heard: list[Any]) -> None:
    """task_prerun, task_success and task_postrun come in this order, with the task as the sender."""

    @app.task(name="proj.add")
    def add(a: int, b: int) -> int:
        return a + b

    result = add.delay(2, b=3)
    heard.clear()
    worker.run(client.last)

    assert ["task_prerun", "task_success", "task_postrun"] == names(heard)
    prerun, success, postrun = (named for _, named in heard)
    call = {"task_id": result.id, "task": add, "args": [2], "kwargs": {"b": 3}}
    assert {"sender": add, **call} == prerun
    assert (add, 5) == (success["sender"], success["result"])
    assert success["runtime"] >= 0
    assert {"sender": add, **call, "retval": 5, "state": "SUCCESS"} == postrun


def test_a_failure(app: Celery, client: Recorder, worker: Worker, heard: list[Any]) -> None:
    """task_failure has the exception, its traceback, and an einfo that shows it; task_postrun comes last."""
    error = KeyError("gone")

    @app.task(name="proj.fails")
    def fails() -> None:
        raise error

    result = fails.delay()
    heard.clear()
    worker.run(client.last)

    assert ["task_prerun", "task_failure", "task_postrun"] == names(heard)
    failure, postrun = heard[1][1], heard[2][1]
    assert (fails, result.id, error) == (failure["sender"], failure["task_id"], failure["exception"])
    assert "fails" in [entry.name for entry in traceback.extract_tb(failure["traceback"])]
    assert "KeyError: 'gone'" in str(failure["einfo"])
    assert (error, "FAILURE") == (postrun["retval"], postrun["state"])


def test_a_retry(app: Celery, client: Recorder, worker: Worker, heard: list[Any]) -> None:
    """task_retry has the request and the reason; the next try is announced as a publish, too."""

    @app.task(name="proj.again", bind=True)
    def again(self: Any) -> None:
        raise self.retry(exc=OSError("busy"), countdown=9)

    result = again.delay()
    heard.clear()
    worker.run(client.last)

    assert ["task_prerun", *PUBLISH, "task_retry", "task_postrun"] == names(heard)
    assert 1 == heard[1][1]["headers"]["retries"]
    retry = heard[4][1]
    assert (again, result.id) == (retry["sender"], retry["request"].id)
    assert "busy" in str(retry["reason"].exc)
    assert "RETRY" == heard[5][1]["state"]


@pytest.mark.parametrize(("raised", "state"), [(Ignore(), "IGNORED"), (Reject("no"), "REJECTED")])
def test_neither_success_nor_failure(
    app: Celery, client: Recorder, worker: Worker, heard: list[Any], raised: Exception, state: str
) -> None:
    """Ignore is neither: task_prerun and task_postrun alone; what is rejected for good is a failure, too."""

    @app.task(name="proj.x")
    def x() -> None:
        raise raised

    x.delay()
    heard.clear()
    worker.run(client.last)
    told = ["task_failure"] if state == "REJECTED" else []
    assert ["task_prerun", *told, "task_postrun"] == names(heard)
    assert state == heard[-1][1]["state"]


def test_run_here(app: Celery, heard: list[Any]) -> None:
    """A task that is run here by apply() is told as in a worker."""

    @app.task(name="proj.add")
    def add(a: int, b: int) -> int:
        return a + b

    assert 5 == add.apply((2, 3)).get()
    assert ["task_prerun", "task_success", "task_postrun"] == names(heard)


def test_a_plain_call_sends_nothing(app: Celery, heard: list[Any]) -> None:
    """A task called as a function is no run."""

    @app.task(name="proj.one")
    def one() -> int:
        return 1

    assert 1 == one()
    assert not heard


def test_order_with_handlers(app: Celery, client: Recorder, worker: Worker) -> None:
    """A handler of the class comes before the signal of the same event."""
    order: list[str] = []

    class Base(app.Task):  # type: ignore[name-defined,misc]
        def before_start(self, *args: Any) -> None:
            order.append("before_start")

        def on_success(self, *args: Any) -> None:
            order.append("on_success")

        def after_return(self, *args: Any) -> None:
            order.append("after_return")

    def listen(signal: Signal, **named: Any) -> None:
        order.append(str(signal.name))

    @app.task(name="proj.one", base=Base)
    def one() -> int:
        return 1

    for name in RUN:
        getattr(signals, name).connect(listen)
    try:
        one.delay()
        worker.run(client.last)
    finally:
        for name in RUN:
            getattr(signals, name).disconnect(listen)
    assert [
        "task_prerun", "before_start", "on_success", "task_success", "after_return", "task_postrun"
    ] == order  # fmt: skip


def test_a_receiver_that_raises_fails_nothing(
    app: Celery, client: Recorder, worker: Worker, heard: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The task runs and the other receivers are called; the log names the receiver and the signal."""

    def broken(**named: Any) -> None:
        raise ValueError("boo")

    @app.task(name="proj.one")
    def one() -> int:
        return 1

    signals.task_prerun.connect(broken)
    try:
        one.delay()
        heard.clear()
        assert "SUCCESS" == worker.run(client.last).state
    finally:
        signals.task_prerun.disconnect(broken)
    assert "task_prerun" in names(heard)
    assert "broken" in caplog.text
    assert "task_prerun" in caplog.text


def test_a_publish_in_celerys_shapes(app: Celery, client: Recorder, heard: list[Any]) -> None:
    """The sender is the task's name; headers, body and properties are those of Celery's protocol 2."""

    @app.task(name="proj.add")
    def add(*args: Any, **kwargs: Any) -> None: ...

    when = datetime(2030, 1, 1, tzinfo=timezone.utc)
    result = add.apply_async((1, when), {"k": 2}, queue="q", eta=when, headers={"trace": "t1"})

    assert list(PUBLISH) == names(heard)
    before, after, sent = (named for _, named in heard)
    assert ("proj.add", "", "q") == (before["sender"], before["exchange"], before["routing_key"])
    empty = dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))
    assert ([1, when], {"k": 2}, empty) == before["body"]
    headers = before["headers"]
    assert ("proj.add", result.id, result.id) == (headers["task"], headers["id"], headers["root_id"])
    assert (when.isoformat(), 0, "t1") == (headers["eta"], headers["retries"], headers["trace"])
    assert result.id == before["properties"]["correlation_id"]
    assert before["headers"] is after["headers"]
    assert (result.id, [1, when], {"k": 2}) == (sent["task_id"], sent["args"], sent["kwargs"])


def test_what_a_receiver_puts_in_arrives(app: Celery, client: Recorder, worker: Worker) -> None:
    """A header set by before_task_publish is in request.headers; so are changed arguments and priority."""
    seen: list[Any] = []

    @app.task(name="proj.look", bind=True)
    def look(self: Any, tenant: str = "") -> None:
        seen.append((self.request.headers, self.request.trace_id, tenant))

    @signals.before_task_publish.connect(sender="proj.look")
    def put_in(headers: Any, body: Any, properties: Any, **named: Any) -> None:
        headers["trace_id"] = "abc"
        body[1]["tenant"] = "acme"
        properties["priority"] = 7

    try:
        look.delay()
        app.send_task("proj.look")
    finally:
        signals.before_task_publish.disconnect(put_in, sender="proj.look")
    for message in client.published:
        assert 7 == message.headers.priority
        worker.run(message)
    assert [({"trace_id": "abc"}, "abc", "acme")] * 2 == seen


def test_what_cannot_be_carried(app: Celery, client: Recorder) -> None:
    """A header that is no JSON fails the publish by an error that names the signal."""

    @signals.before_task_publish.connect
    def put_in(headers: Any, **named: Any) -> None:
        headers["lock"] = object()

    try:
        with pytest.raises(EncodeError, match="before_task_publish"):
            app.send_task("proj.x")
    finally:
        signals.before_task_publish.disconnect(put_in)
    assert not client.published


def test_nothing_is_made_where_nobody_listens(app: Celery, client: Recorder) -> None:
    """The payload is the very same with a receiver that changes nothing as without one."""

    @app.task(name="proj.add")
    def add(*args: Any) -> None: ...

    def listen(**named: Any) -> None: ...

    add.apply_async((1, "ü\ud800"), task_id="i1", headers={"a": 1})
    signals.before_task_publish.connect(listen)
    try:
        add.apply_async((1, "ü\ud800"), task_id="i1", headers={"a": 1})
    finally:
        signals.before_task_publish.disconnect(listen)
    first, second = client.published
    assert first.payload == second.payload


def test_a_result_that_cannot_be_carried(
    app: Celery, client: Recorder, worker: Worker, heard: list[Any]
) -> None:
    """Such a task has failed: task_failure is sent, and not task_success."""

    @app.task(name="proj.x")
    def x() -> object:
        return object()

    x.delay()
    heard.clear()
    assert "FAILURE" == worker.run(client.last).state
    assert ["task_prerun", "task_failure", "task_postrun"] == names(heard)
    assert isinstance(heard[1][1]["exception"], EncodeError)


def test_an_error_beside_the_body(
    app: Celery, client: Recorder, worker: Worker, heard: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails outside of the body is task_internal_error, with the request and the exception."""

    @app.task(name="proj.x")
    def x(n: int) -> None: ...

    def fail(*args: Any) -> None:
        raise RuntimeError("beside")

    monkeypatch.setattr("emq_compat.shim.program.execute", fail)
    result = x.delay(1)
    heard.clear()
    assert "FAILURE" == worker.run(client.last).state
    [(name, named)] = heard
    assert ("task_internal_error", x, result.id, [1]) == (
        name, named["sender"], named["task_id"], named["args"]
    )  # fmt: skip
    assert result.id == named["request"].id
    assert "RuntimeError: beside" in str(named["einfo"])
