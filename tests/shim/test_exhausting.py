"""What is called when a task is not tried any more, and what isn't."""

from __future__ import annotations

import json
from typing import Any

import pytest

from emq_compat.celery_shim import Celery
from emq_compat.message import FAILURE, RETRY, SUCCESS, Headers, Publish, Reply
from emq_compat.shim.program import ShimProgram
from tests.shim.recorder import Recorder, Worker

pytestmark = pytest.mark.unit


@pytest.fixture
def noted(app: Celery) -> list[Any]:
    """What the task ``note`` was called with, by way of a message."""
    found: list[Any] = []
    app.task(name="note")(lambda *told: found.append(told))
    return found


def run(app: Celery, client: Recorder, message: Publish | None = None) -> list[Reply]:
    """Run what was published last (or a message), its retries, and what follows."""
    return Worker(ShimProgram(app), client).run_to_end(message or client.last)


def shaky(app: Celery, **options: Any) -> Any:
    @app.task(bind=True, name="shaky", **{"max_retries": 2, "default_retry_delay": 0, **options})
    def shaky(self: Any, kind: str) -> str:
        if kind == "retry":
            raise self.retry(exc=KeyError("x"))
        if kind == "caught":
            try:
                raise self.retry(exc=KeyError("x"), max_retries=0)
            except KeyError:
                return "fine"
        raise ValueError(kind)

    return shaky


@pytest.mark.parametrize("how", ["task", "list", "name", "signature", "link", "both"])
def test_a_signature_is_published_once(app: Celery, client: Recorder, noted: list[Any], how: str) -> None:
    """When the last retry is spent, it is published with the task's end, and told of it."""
    note: Any = app.tasks["note"]
    own = {"task": note, "list": [note.s()], "name": "note", "both": note}.get(how)
    own = note.s("more") if how == "signature" else own
    task = shaky(app, on_retries_exhausted=own)
    more = {"link_exhausted": note.s()} if how in ("link", "both") else {}
    task.apply_async(("retry",), **more)
    assert client.last.headers.epilogue
    replies = run(app, client)
    assert [RETRY, RETRY, FAILURE] == [reply.state for reply in replies[:3]]
    assert (2 if how == "both" else 1) == len(noted) == len(replies) - 3
    told = noted[0][0]
    assert (("more",) if how == "signature" else ()) == noted[0][1:]
    assert ("shaky", ["retry"], {}, 2, "retries") == (
        told["task"],
        told["args"],
        told["kwargs"],
        told["retries"],
        told["reason"],
    )
    assert {"type": "KeyError", "module": "builtins", "message": "'x'"} == told["exception"]
    assert "KeyError: 'x'" in told["traceback"]
    assert client.last.headers.task_id == told["id"]


@pytest.mark.parametrize("kind", ["caught", "other"])
def test_other_ends_call_nothing(app: Celery, client: Recorder, noted: list[Any], kind: str) -> None:
    """Not for a failure that asked for no retry, nor where the body deals with the end of its retries."""
    shaky(app, on_retries_exhausted="note").delay(kind)
    [reply] = run(app, client)
    assert (SUCCESS if kind == "caught" else FAILURE, []) == (reply.state, noted)


def test_automatic_retries_end_so_too(app: Celery, client: Recorder, noted: list[Any]) -> None:
    """autoretry_for spends retries as ``retry`` does."""
    options = {"autoretry_for": (ValueError,), "retry_kwargs": {"countdown": 0}}
    shaky(app, on_retries_exhausted="note", **options).delay("other")
    run(app, client)
    assert ["ValueError"] == [told["exception"]["type"] for told, in noted]


def test_a_method_is_called(app: Celery, client: Recorder) -> None:
    """A task class may define it like on_failure; what it raises changes nothing."""
    called: list[Any] = []

    class Base(app.Task):  # type: ignore[name-defined,misc]
        def on_retries_exhausted(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            called.append((self.name, type(exc), task_id, list(args), kwargs, "KeyError" in str(einfo)))
            raise RuntimeError("so what")

    shaky(app, base=Base).delay("retry")
    replies = run(app, client)
    assert [("shaky", KeyError, client.last.headers.task_id, ["retry"], {}, True)] == called
    assert FAILURE == replies[-1].state


def test_an_eager_run_calls_it(app: Celery) -> None:
    """task.apply() does what a worker would."""
    called: list[Any] = []
    shaky(app, on_retries_exhausted=lambda self, exc, *_: called.append(exc.args)).apply(("retry",))
    assert [("x",)] == called


def epilogue(message: Publish, reply: dict[str, Any]) -> Publish:
    """What the broker publishes when a message's task has ended without a word of its own."""
    payload = ["epilogue", json.loads(message.payload)[1], reply]
    head = Headers(task=message.headers.task, concludes=True, retries=message.headers.retries)
    return Publish(queue=message.queue, headers=head, payload=json.dumps(payload).encode())


@pytest.mark.parametrize(
    ("retries", "more", "reason"),
    [
        (0, {}, None),
        (1, {}, None),
        (2, {}, "lost in the last try"),
        (0, {"exhausted": "redeliveries"}, "redeliveries"),
        (2, {"error": {"type": "TimeLimitExceeded", "args": [], "message": ""}}, None),
    ],
)
def test_a_lost_workers_task(
    app: Celery, client: Recorder, noted: list[Any], retries: int, more: dict[str, Any], reason: str | None
) -> None:
    """Lost too often, or in the last try, a task is not tried any more: another worker calls it."""
    shaky(app, on_retries_exhausted="note").apply_async(("retry",), retries=retries)
    error = {"type": "WorkerLostError", "module": "celery.exceptions", "args": ["gone"], "message": "gone"}
    run(app, client, epilogue(client.last, {"state": "FAILURE", "error": error, **more}))
    assert ([] if reason is None else [reason]) == [told["reason"] for told, in noted]


def test_what_joined_another_goes_on_with_its_value(app: Celery, client: Recorder) -> None:
    """An epilogue that tells of a success publishes the callbacks and the rest of the chain."""
    got: list[Any] = []
    add = app.task(name="add", unique_for=60)(lambda x, y: x + y)
    keep = app.task(name="keep")(lambda *values: got.append(values))
    (add.si(1, 1).set(link=keep.s("link")) | keep.s("chain")).apply_async()
    run(app, client, epilogue(client.last, {"state": "SUCCESS", "value": 42}))
    assert [(42, "chain"), (42, "link")] == sorted(got)


@pytest.mark.parametrize(("serializer", "told"), [("pickle", {1}), ("json", "{1}")])
def test_pickled_arguments_are_told(
    app: Celery, client: Recorder, noted: list[Any], serializer: str, told: Any
) -> None:
    """What JSON can't hold is told as it is where the callback is pickled, too, else as text."""
    app.conf.accept_content = ["json", "pickle"]
    app.tasks["note"].serializer = serializer
    shaky(app, on_retries_exhausted="note", max_retries=0, autoretry_for=(ValueError,)).apply_async(
        ({1},), serializer="pickle"
    )
    run(app, client)
    assert [[told]] == [call[0]["args"] for call in noted]
