"""self.request: what a running task knows of its message."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from emq_compat.celery_shim import Celery, Context, Task, current_task
from emq_compat.message import Headers, Publish, new_id
from tests.shim.recorder import Recorder, Worker

pytestmark = pytest.mark.unit


@pytest.fixture
def seen(app: Celery) -> list[Context]:
    """The requests of the runs of ``proj.look``."""
    found: list[Context] = []

    @app.task(bind=True, name="proj.look")
    def look(self: Task[..., Any], *args: Any, **kwargs: Any) -> None:
        found.append(self.request)

    return found


def test_the_request_tells_how_the_task_was_sent(
    app: Celery, client: Recorder, worker: Worker, seen: list[Context]
) -> None:
    """Id, arguments, queue, priority, limits, times, headers and origin are there under Celery's names."""
    app.hostname = "celery@node"
    eta = datetime(2030, 1, 2, tzinfo=timezone.utc)
    result = app.tasks["proj.look"].apply_async(
        (1, "x"),
        {"k": [2]},
        queue="q",
        priority=3,
        eta=eta,
        expires=eta + timedelta(days=1),
        time_limit=20,
        soft_time_limit=10,
        headers={"a": 1},
        shadow="sh",
        group_id="g",
        group_index=4,
    )
    worker.run(client.last)

    (r,) = seen
    assert (result.id, result.id, result.id, "proj.look") == (r.id, r.root_id, r.correlation_id, r.task)
    assert ([1, "x"], {"k": [2]}) == (r.args, r.kwargs)
    assert {"exchange": "", "routing_key": "q", "priority": 3, "redelivered": False} == r.delivery_info
    assert (eta.isoformat(), (eta + timedelta(days=1)).isoformat()) == (r.eta, r.expires)
    assert ([20, 10], 20, 10) == (r.timelimit, r.time_limit, r.soft_time_limit)
    assert ({"a": 1}, "sh", "g", 4) == (r.headers, r.shadow, r.group, r.group_index)
    assert ("celery@node", 0, False, False, True) == (
        r.hostname,
        r.retries,
        r.called_directly,
        r.is_eager,
        r.utc,
    )
    assert r.origin is not None
    assert r.origin.startswith(f"gen{os.getpid()}@")


def test_what_was_not_given_has_celery_s_default(
    app: Celery, client: Recorder, worker: Worker, seen: list[Context]
) -> None:
    """An attribute that Celery's Context has is never missing."""
    app.tasks["proj.look"].delay()
    worker.run(client.last)

    (r,) = seen
    names = "parent_id headers eta expires callbacks errbacks chord chain group group_index"
    for name in (names + " reply_to shadow logfile loglevel stamps taskset").split():
        assert getattr(r, name) is None, name
    assert [None, None] == r.timelimit
    assert 0 == r.replaced_task_nesting
    assert [] == r.children
    assert r.get("no_such", 5) == 5
    with pytest.raises(AttributeError):
        _ = r.no_such  # type: ignore[attr-defined]


def test_arguments_as_text(app: Celery, client: Recorder, worker: Worker, seen: list[Context]) -> None:
    """argsrepr and kwargsrepr are there, cut to a bounded length, as is the language of the message."""
    app.tasks["proj.look"].delay(1, "x" * 3000, k=[2])
    worker.run(client.last)

    (r,) = seen
    assert "(1, 'xx" == r.argsrepr[:7]
    assert 1024 >= len(r.argsrepr)
    assert ("{'k': [2]}", "py", None) == (r.kwargsrepr, r.lang, Context().argsrepr)


def test_limits_are_those_given(
    app: Celery, client: Recorder, worker: Worker, seen: list[Context]
) -> None:
    """A whole number stays one on its way, and what isn't given is the task's own."""
    look = app.tasks["proj.look"]
    look.soft_time_limit = 0.5
    look.apply_async(time_limit=9)
    worker.run(client.last)

    assert "[9, 0.5]" == str(seen[0].timelimit)


def test_a_redelivery_is_flagged(
    app: Celery, client: Recorder, worker: Worker, seen: list[Context]
) -> None:
    """delivery_info['redelivered'] tells that an earlier hand-out was lost."""
    app.tasks["proj.look"].delay()
    worker.run(client.last, attempt=2, redelivered=True)

    assert seen[0].delivery_info is not None
    assert seen[0].delivery_info["redelivered"] is True


def test_a_message_without_celery_s_part_has_a_request_too(
    app: Celery, worker: Worker, seen: list[Context]
) -> None:
    """A plain eventmq job that names a registered task by its path runs with its msgid as the task's id."""

    @app.task(bind=True)
    def _plain(self: Task[..., Any], x: int) -> None:
        seen.append(self.request)

    globals()["_plain"] = _plain
    try:
        payload = b'["run",{"path":"%s","callable":"_plain","args":[1]}]' % __name__.encode()
        message = Publish(queue="default", headers=Headers(), payload=payload, msgid=new_id())
        reply = worker.run(message)
    finally:
        del globals()["_plain"]

    assert "SUCCESS" == reply.state
    assert (message.msgid, [1]) == (seen[0].id, seen[0].args)


def test_outside_of_a_run_the_request_is_empty(app: Celery) -> None:
    """task.request is there, and says that nothing runs."""

    @app.task
    def f() -> None: ...

    assert f.request.id is None
    assert f.request.called_directly
    assert not current_task
    assert app.current_task is None


def test_current_task_is_the_running_one(app: Celery, client: Recorder, worker: Worker) -> None:
    """current_task stands for the task that runs here, the innermost one."""
    names: list[Any] = []

    @app.task(name="inner")
    def inner() -> None:
        names.append(current_task.name)

    @app.task(name="outer")
    def outer() -> None:
        names.append(current_task.name)
        inner()
        names.append((current_task.name, current_task == outer))

    outer.delay()
    worker.run(client.last)

    assert ["outer", "inner", ("outer", True)] == names
    assert not current_task


def test_update_state_tells_a_state_that_isnt_final(
    app: Celery, client: Recorder, worker: Worker
) -> None:
    """update_state reports the state and its meta at once."""

    @app.task(bind=True)
    def f(self: Task[..., Any]) -> None:
        self.update_state(state="PROGRESS", meta={"done": 1})

    f.delay()
    worker.run(client.last)

    assert [("PROGRESS", b'{"value":{"done":1},"state":"PROGRESS"}')] == worker.reports


def test_track_started_reports_the_process(app: Celery, client: Recorder, worker: Worker) -> None:
    """track_started tells STARTED with pid and host, unless the result is ignored."""

    @app.task(track_started=True)
    def f() -> None: ...

    f.delay()
    worker.run(client.last)
    f.apply_async(ignore_result=True)
    worker.run(client.last)

    ((state, body),) = worker.reports
    assert "STARTED" == state
    assert f'"pid":{os.getpid()}'.encode() in body


def test_tests_of_a_body_can_set_the_request(app: Celery) -> None:
    """push_request enters a run with a request of the test's own."""

    @app.task(bind=True)
    def f(self: Task[..., Any]) -> Any:
        return self.request.id

    f.push_request(id="made", called_directly=False)
    try:
        assert "made" == f.run()
    finally:
        f.pop_request()
    assert f.run() is None


def test_as_execution_options_gives_what_publishes_it_again(
    app: Celery, client: Recorder, worker: Worker, seen: list[Context]
) -> None:
    """The options of the request are apply_async's."""
    app.tasks["proj.look"].apply_async((1,), headers={"a": 1}, time_limit=3, shadow="s")
    worker.run(client.last)

    app.tasks["proj.look"].apply_async((1,), **seen[0].as_execution_options())
    again = client.last

    assert seen[0].id == again.headers.task_id
    assert 3 == again.headers.limit_s
    assert {"a": 1} == client.last_job.celery["headers"]


@pytest.mark.parametrize(
    ("declared", "sent", "expected"),
    [
        ({"time_limit": 60, "soft_time_limit": 45}, {}, (60, 45)),
        ({"time_limit": 60, "soft_time_limit": 45}, {"time_limit": 50}, (50, 45)),
        ({}, {}, (30, None)),
    ],
    ids=["task", "call", "settings"],
)
def test_time_limits_are_the_calls_else_the_tasks_else_the_settings(
    app: Celery, client: Recorder, worker: Worker, declared: Any, sent: Any, expected: Any
) -> None:
    """request.time_limit and soft_time_limit are what counts for this run, wherever it was said."""
    app.conf.task_time_limit = 30
    found: list[Any] = []

    @app.task(bind=True, **declared)
    def f(self: Task[..., Any]) -> None:
        found.append((self.request.time_limit, self.request.soft_time_limit))

    f.apply_async(**sent)
    worker.run(client.last)
    f.apply(**sent)
    assert [expected, expected] == found


def test_message_properties_of_a_call_reach_the_run_and_its_retries(
    app: Celery, client: Recorder, worker: Worker
) -> None:
    """What AMQP calls properties (app_id …) is taken from a call and found in request.properties."""
    found: list[Any] = []

    @app.task(bind=True)
    def f(self: Task[..., Any]) -> None:
        found.append((self.request.properties, self.request.correlation_id))
        if not self.request.retries:
            raise self.retry(countdown=0, user_id="me")

    result = f.apply_async(app_id="1234", correlation_id="mine")
    worker.run_to_end(client.last)
    first, second = found
    assert ("1234", "mine", "mine") == (first[0]["app_id"], first[0]["correlation_id"], first[1])
    assert ("1234", "me") == (second[0]["app_id"], second[0]["user_id"])
    assert result.id != "mine"
