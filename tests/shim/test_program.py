"""ShimProgram: what a job manager is told of an app, and what it does with a delivery."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from emq_compat.celery_shim import Celery, NotRegistered, Task, TaskRevokedError, shared_task
from emq_compat.message import Headers, Publish, new_id
from emq_compat.run import Program, TaskPolicy
from emq_compat.shim import current
from emq_compat.shim.loader import BaseLoader
from emq_compat.shim.program import ShimProgram, rebuild
from emq_compat.shim.signals import task_internal_error
from tests.shim.recorder import Recorder, Worker

pytestmark = pytest.mark.unit
WriteModule = Callable[[str, str], None]


def _message(payload: bytes, **headers: object) -> Publish:
    return Publish(queue="celery", headers=Headers(**headers), payload=payload)  # type: ignore[arg-type]


def test_policies_are_the_tasks_own_or_the_settings(app: Celery) -> None:
    """Each registered task has its policy; what is not registered has the settings'."""

    @app.task(name="own", acks_late=True, reject_on_worker_lost=True, time_limit=9, soft_time_limit=8)
    def own() -> None: ...

    @shared_task(name="plain", retry_on_worker_lost=True, max_retries=7, default_retry_delay=60)
    def plain() -> None: ...

    app.conf.update(task_time_limit=5, task_acks_late=True, task_default_queue="dq")
    program: Program = ShimProgram(app)

    settings = TaskPolicy(acks_late=True, limit_s=5)
    wanted = TaskPolicy(
        acks_late=True, reject_on_worker_lost=True, max_retries=3, limit_s=9, soft_limit_s=8
    )
    tried_again = replace(settings, lost_retry_s=60.0, max_retries=7)
    assert {"own": wanted, "plain": tried_again} == {name: program.policies[name] for name in app.tasks.own()}
    assert {"celery.accumulate", "celery.chord_unlock", "emq_compat.launch"} < set(program.policies)
    assert settings == program.default_policy
    assert ("proj", "dq") == (program.name, program.default_queue)


def test_worker_init_imports_the_tasks_and_tells_odd_settings(
    app: Celery, module: WriteModule, caplog: pytest.LogCaptureFixture
) -> None:
    """Include modules are imported before anything forks; problems of the settings are warned about."""
    module("pg1", "from emq_compat.celery_shim import shared_task\n@shared_task\ndef f(): ...\n")
    app.conf.update(include=["pg1"], task_acks_lat=True)
    program = ShimProgram(app)

    with caplog.at_level(logging.WARNING):
        program.worker_init()

    assert "pg1.f" in (program.policies or {})
    assert "unknown setting task_acks_lat: is task_acks_late meant?" in caplog.text


def test_child_init_makes_the_app_current(app: Celery) -> None:
    """In a child, also in its threads, current_app is the worker's app."""
    program = ShimProgram(app)
    Celery("another")

    program.child_init()
    program.child_exit()

    assert app is current.get_app()


@pytest.mark.cases
def test_an_unknown_name_is_notregistered_and_the_log_names_the_nearest(
    app: Celery, client: Recorder, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    """FAILURE NotRegistered for the caller, the nearest registered names for the operator (case 28)."""

    @app.task(name="proj.tasks.add")
    def add() -> None: ...

    result = app.send_task("proj.task.add")
    with caplog.at_level(logging.ERROR):
        worker.run(client.last)

    with pytest.raises(NotRegistered, match=r"proj\.task\.add"):
        result.get(timeout=0)
    assert "no task 'proj.task.add' is registered here; near it: proj.tasks.add" in caplog.text


def test_a_success_is_logged_with_its_result(
    app: Celery, client: Recorder, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    """The line ends with the result's repr, cut to resultrepr_maxsize."""

    @app.task(name="proj.echo", resultrepr_maxsize=20)
    def echo(value: object) -> object:
        return value

    with caplog.at_level(logging.INFO):
        for value in ("short", "x" * 100):
            echo.delay(value)
            worker.run(client.last)

    lines = [line for line in caplog.messages if "succeeded in" in line]
    assert ["'short'", "'xxxxxxxxxxxxxxxx..."] == [line.partition("s: ")[2] for line in lines]


def test_a_path_that_is_no_registered_task_is_refused(app: Celery, worker: Worker) -> None:
    """worker -A runs registered tasks and nothing else, whatever path a message names."""
    for path, called in (("os", "system"), ("emq_compat.shim.paths:ByName", "run"), (__name__, "_message")):
        payload = json.dumps(["run", {"path": path, "callable": called, "args": ["true"]}]).encode()
        reply = worker.run(_message(payload))
        assert "FAILURE" == reply.state
        assert "NotAllowed" == json.loads(reply.body)["error"]["type"]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'["run"]',
        b'["stop",{}]',
        b'["run",{"path":"m"}]',
        b'["run",{"path":"m","callable":"f","args":{}}]',
        b'["run",{"path":"m","callable":"f","celery":3}]',
        b'["run",{"path":"m","callable":"f","celery":{"task":["x"]}}]',
        b'["run",{"path":"m","callable":"f","celery":{"task":"proj.f","id":3,"headers":4,"root_id":[]}}]',
        b'["run",{"path":"m","callable":"f","celery":{"task":"proj.f"},'
        b'"args":[{"__type__":"no","__value__":1}]}]',
        b'["run",{"path":"m","callable":"f","celery":{"task":"proj.f"},"args":[{"__type__":"date",'
        b'"__value__":3}]}]',
        b'["run",{"path":"m","callable":"f","celery":{"task":"proj.f"},"kwargs":{"": 1}}]',
        b"[" * 100_000,
    ],
)
def test_a_malformed_message_is_a_reply_never_an_exception(
    app: Celery, worker: Worker, payload: bytes
) -> None:
    """work() answers whatever comes."""

    @app.task(name="proj.f")
    def f(*args: object) -> int:
        return 1

    def hear(**told: object) -> None: ...

    reply = worker.run(_message(payload))
    task_internal_error.connect(hear)
    try:
        again = worker.run(_message(payload))
    finally:
        task_internal_error.disconnect(hear)

    assert reply.state in ("FAILURE", "SUCCESS")
    assert reply.state == again.state
    json.loads(reply.body)


def test_expiry_is_looked_at_again_before_the_body_runs(
    app: Celery, client: Recorder, worker: Worker
) -> None:
    """A task that expired between the broker and the child is REVOKED, its body not run."""
    ran = []

    @app.task
    def f() -> None:
        ran.append(1)

    result = f.apply_async(expires=10)
    worker.run(client.last, expires=time.time() - 1)

    assert ("REVOKED", []) == (result.state, ran)
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(timeout=0)


@pytest.mark.parametrize("errors_kept", [False, True])
def test_an_ignored_result_is_not_kept_but_errors_may_be(
    app: Celery, client: Recorder, worker: Worker, errors_kept: bool
) -> None:
    """The message says to keep nothing; store_errors_even_if_ignored leaves that to the worker."""
    app.conf.task_store_errors_even_if_ignored = errors_kept

    @app.task(ignore_result=True)
    def f(fail: bool) -> int:
        if fail:
            raise ValueError
        return 1

    kept = []
    for fail in (False, True):
        f.delay(fail)
        reply = worker.run(client.last)
        kept.append(not (client.last.headers.no_result or reply.no_result))

    assert [False, errors_kept] == kept


def test_the_task_s_own_ignore_result_holds_for_messages_that_dont_say(
    app: Celery, client: Recorder, worker: Worker
) -> None:
    """send_task doesn't know the task: its worker does. apply_async(ignore_result=False) overrides it."""

    @app.task(name="proj.f", ignore_result=True)
    def f() -> int:
        return 1

    app.send_task("proj.f")
    by_name = worker.run(client.last)
    f.apply_async(ignore_result=False)
    overridden = worker.run(client.last)

    assert (True, False) == (by_name.no_result, overridden.no_result)


def test_a_spawned_process_makes_the_program_again(
    module: WriteModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rebuild finds the app by what -A said, and keeps the node's name."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))  # it makes `import celery` mean the shim
    module("pg2", "from emq_compat.celery_shim import Celery\napp = Celery('again')\n")
    app = Celery("first")
    app.hostname = "celery@here"

    assert ShimProgram(app).rebuild is None
    named = ShimProgram(app, found_as="pg2:app").rebuild
    assert ("emq_compat.shim.program:rebuild", ("pg2:app", "celery@here")) == named
    made = rebuild("pg2:app", "celery@here")
    assert ("again", "celery@here", named) == (made.name, made.app.hostname, made.rebuild)


def test_tasks_registered_later_run_too(app: Celery, client: Recorder, worker: Worker) -> None:
    """A task that a task's import registers is found by its name."""
    _ = worker.program.policies

    @app.task(name="late")
    def late() -> int:
        return 3

    result = late.apply_async(task_id=new_id())
    worker.run(client.last)

    assert 3 == result.get(timeout=0)


def test_a_loader_s_hooks_are_called_around_tasks(client: Recorder) -> None:
    """A loader that defines on_task_init and on_process_cleanup is called before and after each task."""
    calls: list[str] = []

    class Hooked(BaseLoader):
        def on_task_init(self, task_id: str, task: Task[..., Any]) -> None:
            calls.append(f"init {task.name}")

        def on_process_cleanup(self) -> None:
            calls.append("cleanup")

    app = Celery("p", loader=Hooked, set_as_current=False)
    app.client = client

    @app.task(name="p.noted")
    def noted() -> None:
        calls.append("body")

    noted.delay()
    Worker(ShimProgram(app), client).run(client.last)

    assert ["init p.noted", "body", "cleanup"] == calls
