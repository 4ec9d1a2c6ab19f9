"""Celery's modules around apps: tracing, finalizers, test apps, a result backend of a project's own, rdb."""

from __future__ import annotations

import io
import re
import socket
import sys
import threading
from typing import Any

import pytest

from emq_compat.shim import current
from emq_compat.shim.app import Celery
from emq_compat.shim.result import GroupResult
from emq_compat.shim.surface import old_modules, rdb, worker_state
from emq_compat.shim.surface.autoretry import add_autoretry_behaviour
from emq_compat.shim.surface.keyvalue_backend import KeyValueStoreBackend
from emq_compat.shim.surface.state import connect_on_app_finalize
from emq_compat.shim.surface.trace import build_tracer, trace_task
from emq_compat.testing.app import TestApp, set_trap, setup_default_app

pytestmark = pytest.mark.unit


@pytest.fixture
def app() -> Celery:
    """An app that isn't current."""
    return Celery("surface", set_as_current=False)


def test_a_task_is_traced_in_place(app: Celery) -> None:
    """trace_task runs it under the id, and tells value, state, exception and time."""

    @app.task(bind=True)
    def half(self: Any, number: int) -> tuple[str, float]:
        return self.request.id, number / 2

    good = trace_task(half, "an-id", (6,), {})
    assert (("an-id", 3.0), None) == (good.retval, good.info)
    assert "('an-id', 3.0)" == good.retstr
    assert 0 <= good.runtime < 60
    bad = build_tracer(half.name, half)("an-id", ("six",), {})
    assert "FAILURE" == bad.info.state
    assert isinstance(bad.info.retval, TypeError)
    assert "TypeError" in bad.retval.traceback
    with pytest.raises(TypeError):
        trace_task(half, "an-id", ("six",), {}, propagate=True)


def test_autoretry_is_added_to_a_task(app: Celery) -> None:
    """add_autoretry_behaviour makes of a plain task one that is retried."""
    tries = []

    @app.task(bind=True, max_retries=2, default_retry_delay=0)
    def shaky(self: Any) -> None:
        tries.append(self.request.retries)
        raise KeyError("again")

    add_autoretry_behaviour(shaky, autoretry_for=(KeyError,))
    assert "FAILURE" == shaky.apply().state
    assert [0, 1, 2] == tries


def test_finalizers_are_called_with_each_app(monkeypatch: pytest.MonkeyPatch, app: Celery) -> None:
    """What connect_on_app_finalize was given is called once for each app, with the builtin tasks there."""
    monkeypatch.setattr(current, "finalizers", [])
    seen: list[Celery] = []
    assert seen.append is connect_on_app_finalize(seen.append) or seen.append == current.finalizers[0]
    assert "celery.chord" in app.tasks
    app.finalize()
    assert [app] == seen


def test_modules_of_old_ask_the_current_app(app: Celery) -> None:
    """celery.log and celery.messaging act for the app that is current."""
    app.conf.broker_url = "emq://elsewhere"
    with current.restored():
        app.set_current()
        assert app.log.get_default_logger() is old_modules.get_default_logger()
        assert "elsewhere" in old_modules.establish_connection().as_uri()
    assert current.app_or_none() is not app


def test_a_test_app(app: Celery) -> None:
    """It has its settings as defaults, keeps results in memory, and isn't current."""
    made = TestApp(config={"task_always_eager": True})
    assert made is not current.app_or_none()
    assert ("cache+memory://", True) == (made.conf.result_backend, made.conf.task_always_eager)
    assert made.log.already_setup
    with setup_default_app(made, use_trap=True), pytest.raises(RuntimeError, match="current app"):
        current.get_app().tasks  # noqa: B018 - asking is what is tested


def test_the_trap_is_taken_away(app: Celery) -> None:
    """After set_trap and setup_default_app the current app is the one that was."""
    before = current.app_or_none()
    with setup_default_app(app):
        app.set_current()
        with set_trap(app):
            assert "Trap" == type(current.get_app()).__name__
        assert app is current.get_app()
    assert before is current.app_or_none()


class Kept(KeyValueStoreBackend):
    """Results in a dict."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.data: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        return self.data.get(key)

    def set(self, key: str, value: bytes) -> None:
        self.data[key] = value

    def delete(self, key: str) -> None:
        self.data.pop(key, None)


def test_a_result_backend_of_ones_own() -> None:
    """get, set and delete are all that a backend over keys and values needs."""
    app = Celery("own", set_as_current=False, result_expires=60)
    app.backend = backend = Kept(app=app, url="kept://here")
    backend.store_result("one", {"n": 1}, "SUCCESS")
    backend.store_result("two", KeyError("k"), "FAILURE")
    assert [backend.get_key_for_task("one"), "celery-task-meta-two"] == list(backend.data)
    assert {"n": 1} == app.AsyncResult("one").get(timeout=5)
    assert isinstance(app.AsyncResult("two").result, KeyError)
    assert 60 == backend.expires
    group = app.GroupResult("members", [app.AsyncResult("one")])
    group.save()
    assert group == GroupResult.restore("members", app=app) == app.GroupResult.restore("members")
    app.AsyncResult("one").forget()
    assert "PENDING" == app.AsyncResult("one").state


def test_a_result_backend_is_chosen_by_its_path() -> None:
    """result_backend may be module.Class:// and so on."""
    path = f"{KeyValueStoreBackend.__module__}.{KeyValueStoreBackend.__name__}"
    app = Celery("own", set_as_current=False, backend=f"{path}://somewhere")
    assert isinstance(app.backend, KeyValueStoreBackend)
    assert "somewhere" in app.backend.as_uri()


def test_a_backend_without_hooks_says_so(app: Celery) -> None:
    """A subclass that lacks one of them is named."""
    with pytest.raises(NotImplementedError, match="KeyValueStoreBackend has no get"):
        KeyValueStoreBackend(app=app).get_task_meta("x")


def test_no_worker_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no worker is, celery.worker.state is empty."""
    monkeypatch.setattr(current, "worker", None)
    assert [] == list(worker_state.active_requests)
    assert 0 == len(worker_state.reserved_requests)
    assert "an-id" not in worker_state.reserved_requests
    assert (0, 0) == (len(worker_state.revoked), len(worker_state.total_count))
    assert 0 == worker_state.total_count["proj.add"]


def test_rdb_is_driven_over_a_socket() -> None:
    """A breakpoint waits for a connection, shows variables there, and lets the program go on."""
    out = io.StringIO()
    came: list[Any] = []

    def program() -> None:
        secret = 41
        with rdb.Rdb(port=0, port_search_limit=1, out=out) as debugger:
            debugger.set_trace(sys._getframe())
            secret += 1
        came.append(secret)

    runs = threading.Thread(target=program)
    runs.start()
    said = _until(out, r"telnet (\S+) (\d+)")
    with socket.create_connection((said[1], int(said[2])), 10) as there:
        talk = there.makefile("rw")
        talk.write("p secret\nc\n")
        talk.flush()
        heard = talk.read()
    runs.join(20)
    assert not runs.is_alive()
    assert "41" in heard
    assert [42] == came


def test_rdb_hung_up_lets_the_program_go_on() -> None:
    """Who leaves without a word doesn't hold the task up."""
    out = io.StringIO()
    came: list[int] = []

    def program() -> None:
        with rdb.Rdb(port=0, port_search_limit=1, out=out) as debugger:
            debugger.set_trace(sys._getframe())
        came.append(1)

    runs = threading.Thread(target=program)
    runs.start()
    said = _until(out, r"telnet (\S+) (\d+)")
    socket.create_connection((said[1], int(said[2])), 10).close()
    runs.join(20)
    assert [1] == came


def test_no_free_port_is_said() -> None:
    """Where no port is free the error names the variable that chooses another."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        with pytest.raises(OSError, match="CELERY_RDB_PORT"):
            rdb.Rdb(port=taken.getsockname()[1], port_search_limit=1, out=io.StringIO())


def _until(out: io.StringIO, pattern: str) -> re.Match[str]:
    from tests.processes import wait_until

    wait_until(lambda: re.search(pattern, out.getvalue()) is not None, 20)
    found = re.search(pattern, out.getvalue())
    assert found is not None
    return found
