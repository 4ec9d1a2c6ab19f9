"""One call from delay() to get(), without sockets."""

from __future__ import annotations

import json

import pytest

from emq_compat.celery_shim import Celery, shared_task, task
from tests.shim.recorder import Recorder, Worker

pytestmark = pytest.mark.unit


def test_a_call_is_published_run_and_its_value_returned(
    app: Celery, client: Recorder, worker: Worker
) -> None:
    """delay() makes a message that ShimProgram runs and whose value get() returns."""

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    result = add.delay(2, 3)
    reply = worker.run(client.last)

    assert reply.state == "SUCCESS"
    stored = json.loads(reply.body)
    assert (5, "SUCCESS") == (stored["value"], stored["state"])
    assert {"value", "state", "date_done"} == set(stored)
    assert 5 == result.get(timeout=1)
    assert "SUCCESS" == result.state


@pytest.mark.parametrize("decorate", [shared_task, task])
def test_shared_tasks_run_in_every_app(
    decorate: object, app: Celery, client: Recorder, worker: Worker
) -> None:
    """A shared task belongs to the apps made before and after it, and acts for the current one."""
    assert callable(decorate)
    double = decorate(_double)
    later = Celery("later", set_as_current=False)

    double.delay(4)

    assert double.name in app.tasks
    assert double.name in later.tasks
    assert f"{__name__}._double" == client.last.headers.task
    assert b'"value":8' in worker.run(client.last).body


def _double(x: int) -> int:
    return 2 * x


def test_the_message_is_one_that_a_stock_job_manager_runs(app: Celery, client: Recorder) -> None:
    """The payload is eventmq's run request; what Celery adds stands beside it under one key."""

    @app.task(name="proj.add", queue="q1", priority=4)
    def add(x: int, y: int) -> int:
        return x + y

    result = add.delay(2, y=3)

    message = client.last
    subcommand, options = json.loads(message.payload)
    assert "run" == subcommand
    assert ([2], {"y": 3}) == (options["args"], options["kwargs"])
    assert ("proj.add", result.id) == (options["celery"]["task"], options["celery"]["id"])
    assert ("q1", 4, True) == (message.queue, message.headers.priority, message.headers.guarantee)
    assert (result.id, "proj.add") == (message.headers.task_id, message.headers.task)
    assert message.msgid != result.id
