"""Tasks of a genuine Celery app, run by Celery's tracer: what the job manager is told."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery, signals
from celery.backends.cache import _DUMMY_CLIENT_CACHE
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from kombu.serialization import dumps

from emq_compat.celery_message import CeleryMessage, delivery_of
from emq_compat.genuine.capture import capturing, current
from emq_compat.genuine.program import GenuineProgram
from emq_compat.genuine.view import AppView
from emq_compat.message import Delivery, Headers, Reply
from emq_compat.shim.packing import pack

pytestmark = pytest.mark.unit


@pytest.fixture
def app() -> Iterator[Celery]:
    """An app whose messages and results stay in this process."""
    made = Celery("proj", broker="memory://", backend="cache+memory://", set_as_current=False)
    made.task = functools.partial(made.task, shared=False)  # of this app alone
    made.conf.update(broker_transport_options={"polling_interval": 0.01}, worker_enable_remote_control=False)
    yield made
    made.close()
    _DUMMY_CLIENT_CACHE.clear()


@pytest.fixture
def program(app: Celery) -> GenuineProgram:
    """The app's program, before its tasks are read."""
    return GenuineProgram(app, hostname="w@h")


def delivery(app: Celery, task: Any, *args: Any, serializer: str = "json", **options: Any) -> Delivery:
    """A message of the task as a worker gets it."""
    message = app.amqp.as_task_v2("id-1", task.name, args, {}, **options)
    content_type, encoding, body = dumps(message.body, serializer)
    return delivery_of(
        CeleryMessage(
            body=body if isinstance(body, bytes) else body.encode(),
            content_type=content_type,
            content_encoding=encoding,
            headers=message.headers,
            properties=message.properties,
        ),
        queue="celery",
        msgid="m",
    )


def told(state: str, body: bytes) -> None:
    """Where states that aren't final go."""


def run(program: GenuineProgram, message: Delivery) -> Reply:
    """Run a message in a process that is ready for it."""
    program.child_init()
    try:
        return program.work(message, told)
    finally:
        program.child_exit()


@pytest.mark.parametrize("accepted", [True, False])
def test_a_chords_body_gets_what_its_parts_gave_packed(app: Celery, program: Any, accepted: bool) -> None:
    """With result_serializer pickle; where accept_content doesn't allow that the body fails and says so."""
    if accepted:
        app.conf.accept_content = ["json", "pickle"]
    seen: list[Any] = []

    @app.task
    def body(values: Any) -> None:
        seen.append(values)

    packed = {"__type__": "serialized", "__value__": pack({1, 2}, "pickle")}
    run(program, delivery(app, body, [packed, 3]))
    result = app.AsyncResult("id-1")
    assert ("SUCCESS" if accepted else "FAILURE") == result.state
    assert ([[{1, 2}, 3]] if accepted else []) == seen
    assert accepted or "ContentDisallowed" == type(result.result).__name__


def test_a_task_runs_and_its_result_is_where_the_app_keeps_results(app: Celery, program: Any) -> None:
    """The Reply says no more than that it has ended: the result is not the broker's."""

    @app.task(bind=True)
    def add(self: Any, x: int, y: int) -> int:
        assert ("id-1", "w@h", False, "celery") == (
            self.request.id, self.request.hostname, self.request.called_directly,
            self.request.delivery_info["routing_key"],
        )  # fmt: skip
        return x + y

    reply = run(program, delivery(app, add, 2, 3))
    assert ("SUCCESS", True) == (reply.state, reply.no_result)
    assert 5 == app.AsyncResult("id-1").result


@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml"])
def test_arguments_come_in_any_serializer_that_is_accepted(
    app: Celery, program: Any, serializer: str
) -> None:
    """What the message says of itself decides how it is read."""
    app.conf.accept_content = ["json", "pickle", "yaml"]
    task = app.task(double, name="double")
    assert "SUCCESS" == run(program, delivery(app, task, [1, 2], serializer=serializer)).state
    assert [1, 2, 1, 2] == app.AsyncResult("id-1").result


def test_a_pickle_that_is_not_accepted_fails_its_task(app: Celery, program: Any) -> None:
    """Nothing of it is read, and whoever waits is told."""
    task = app.task(double, name="double")
    assert "FAILURE" == run(program, delivery(app, task, 1, serializer="pickle")).state
    assert "ContentDisallowed" == type(app.AsyncResult("id-1").result).__name__


def double(xs: Any) -> Any:
    """A body."""
    return 2 * xs


def one() -> int:
    """Another one."""
    return 1


def failing(error: BaseException) -> Callable[[], None]:
    """A body that raises."""

    def body() -> None:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "state", "stored"),
    [
        (ValueError("no"), "FAILURE", "FAILURE"),
        (Ignore(), "IGNORED", "PENDING"),
        (Reject("bad"), "REJECTED", "FAILURE"),
        (Reject("later", requeue=True), "REQUEUED", "PENDING"),
        (SystemExit(3), "FAILURE", "FAILURE"),
        (KeyboardInterrupt(), "FAILURE", "FAILURE"),
        (SoftTimeLimitExceeded(), "FAILURE", "FAILURE"),
    ],
    ids=repr,
)
def test_each_end_is_told_and_stored(
    app: Celery, program: Any, error: BaseException, state: str, stored: str
) -> None:
    """What a body raises is Celery's to store, and the job manager's to acknowledge or put back."""
    task = app.task(failing(error), name="failing")
    assert state == run(program, delivery(app, task)).state
    assert stored == app.AsyncResult("id-1").state


def test_a_failed_late_task_may_be_put_aside(app: Celery, program: Any) -> None:
    """acks_on_failure_or_timeout=False rejects the message."""
    task = app.task(failing(ValueError()), name="t", acks_late=True, acks_on_failure_or_timeout=False)
    assert "REJECTED" == run(program, delivery(app, task)).state


def test_a_retry_and_callbacks_are_sent_before_the_reply(app: Celery, program: Any) -> None:
    """Over another broker or result backend they go their own way, as with Celery's worker."""

    @app.task(bind=True)
    def flaky(self: Any) -> None:
        raise self.retry(countdown=0)

    sent: list[Any] = []

    def note(sender: Any = None, headers: Any = None, **_: Any) -> None:
        sent.append((sender, headers["id"], headers["retries"]))

    signals.before_task_publish.connect(note)
    try:
        assert "RETRY" == run(program, delivery(app, flaky)).state
        link = app.signature("proj.done")
        plain = app.task(one, name="plain")
        assert "SUCCESS" == program.work(delivery(app, plain, callbacks=[link.set(task_id="l")]), told).state
    finally:
        signals.before_task_publish.disconnect(note)
    assert [(flaky.name, "id-1", 1), ("proj.done", "l", 0)] == sent


@pytest.mark.parametrize("custom", [False, True], ids=["run", "__call__"])
def test_the_end_of_the_body_is_noted(app: Celery, program: Any, custom: bool) -> None:
    """From then on what is published belongs to the outcome, for tasks with a __call__ of their own, too."""

    class Base(app.Task):  # type: ignore[name-defined,misc]
        abstract = True

        def on_success(self, *args: Any) -> None:
            seen.append(current().body_ended)  # type: ignore[union-attr]

    class Calling(Base):
        abstract = True

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.run(*args, **kwargs)

    seen: list[bool] = []

    @app.task(base=Calling if custom else Base)
    def body() -> None:
        seen.append(current().body_ended)  # type: ignore[union-attr]

    program._tracing._captures = True
    assert "SUCCESS" == run(program, delivery(app, body)).state
    assert [False, True] == seen
    assert current() is None


def test_a_coroutine_function_is_run_to_its_end(app: Celery, program: Any) -> None:
    """async def works, and autoretry_for sees what it raises."""

    @app.task(autoretry_for=(KeyError,), retry_kwargs={"countdown": 0})
    async def later(fails: bool) -> str:
        if fails:
            raise KeyError("again")
        return "done"

    assert "SUCCESS" == run(program, delivery(app, later, False)).state
    assert "done" == app.AsyncResult("id-1").result
    assert "RETRY" == program.work(delivery(app, later, True), told).state


def test_a_name_that_is_not_registered_fails(app: Celery, program: Any, caplog: Any) -> None:
    """The log names the nearest one; who waits for it is told, and so are its errbacks."""
    seen: list[Any] = []

    def errback(request: Any, exc: BaseException, traceback: Any) -> None:
        seen.append((request.id, exc.args))

    app.task(errback, name="errback")
    app.task(one, name="proj.add")
    message = delivery(app, _named("proj.ad"), errbacks=[app.signature("errback")])
    assert "FAILURE" == run(program, message).state
    assert "near it: proj.add" in caplog.text
    assert "NotRegistered" == type(app.AsyncResult("id-1").result).__name__
    assert [("id-1", ("proj.ad",))] == seen


def test_what_fails_outside_of_the_body_is_stored(app: Celery, program: Any, monkeypatch: Any) -> None:
    """A soft limit may come when the body has ended: the task has failed then, and the worker goes on."""
    task = app.task(one, name="task")
    program.child_init()

    def late(*_: Any) -> None:
        raise SoftTimeLimitExceeded

    monkeypatch.setattr(program._tracing, "run", late)
    try:
        assert "FAILURE" == program.work(delivery(app, task), told).state
    finally:
        program.child_exit()
    assert "SoftTimeLimitExceeded" == type(app.AsyncResult("id-1").result).__name__


def _named(name: str) -> Any:
    return type("Named", (), {"name": name})


def test_what_follows_from_a_lost_run_is_done_by_celery(app: Celery, program: Any) -> None:
    """An epilogue stores the failure and calls the errbacks."""
    seen: list[Any] = []

    def errback(request: Any, exc: BaseException, traceback: Any) -> None:
        seen.append((request.id, type(exc).__name__))

    app.task(errback, name="errback")
    lost = app.task(one, name="lost")
    job = delivery(app, lost, errbacks=[app.signature("errback")])
    reply = b'{"value":"gone","state":"FAILURE","error":{"type":"WorkerLostError","args":["gone"]}}'
    payload = b'["epilogue",' + job.payload[len(b'["run",') : -1] + b"," + reply + b"]"
    concluding = Delivery(
        msgid="m", queue="celery", headers=Headers(concludes=True, task="lost"), payload=payload
    )
    assert "SUCCESS" == run(program, concluding).state
    result = app.AsyncResult("id-1")
    assert ("FAILURE", "WorkerLostError") == (result.state, type(result.result).__name__)
    assert [("id-1", "WorkerLostError")] == seen


def test_policies_are_the_tasks_attributes(app: Celery, program: Any) -> None:
    """Acknowledgement, limits and rates of each task are the job manager's to keep."""
    app.task(one, name="t", acks_late=True, time_limit=9, soft_time_limit=4, rate_limit="30/m")
    policy = program.policies["t"]
    assert (True, 9, 4, 2.0) == (policy.acks_late, policy.limit_s, policy.soft_limit_s, policy.interval_s)


def test_without_our_broker_nothing_is_captured() -> None:
    """What a capture would hold back leaves at once."""
    with capturing(None):
        assert current() is None


def test_what_has_expired_is_revoked_and_does_not_run(app: Celery, program: Any) -> None:
    """A message that comes after its expiry is REVOKED in the result backend; the body doesn't run."""
    ran = []

    @app.task
    def late() -> None:
        ran.append(1)

    reply = run(program, delivery(app, late, expires=datetime.now(timezone.utc) - timedelta(seconds=1)))

    assert ("REVOKED", True, []) == (reply.state, reply.no_result, ran)
    assert "REVOKED" == app.AsyncResult("id-1").state


def test_a_bug_report_of_a_genuine_app_names_its_settings(app: Celery) -> None:
    """What the commands ask of an app a view of a genuine one has, too."""
    app.conf.task_time_limit = 7
    view = AppView(app)
    assert (7, [], "memory://") == (view.conf.changes["task_time_limit"], view.problems(), view.broker_url)


@pytest.mark.parametrize(
    ("url", "options", "expected"),
    [
        ("amqp://guest@127.0.0.1:1//", {}, True),
        (["amqps://a", "amqps://b"], {"max_retries": 1}, True),
        ("amqp://guest@127.0.0.1:1//", {"confirm_publish": False}, False),
        ("redis://127.0.0.1:1/0", {}, None),
    ],
)
def test_rabbitmq_confirms_what_tasks_publish(
    app: Celery, program: GenuineProgram, url: Any, options: dict[str, Any], expected: bool | None
) -> None:
    """Where tasks run, unless the project says otherwise; its other options stay."""
    app.conf.update(broker_url=url, broker_transport_options=options)
    program.child_init()
    told = app.conf.broker_transport_options
    assert (expected, options) == (told.get("confirm_publish"), {**options, **{k: told[k] for k in options}})
    with app.connection_for_write() as connection:
        assert expected == connection.transport_options.get("confirm_publish")
