"""What the result backend ``emq://`` of genuine Celery stores and reads, over a broker in this process."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import celery
import pytest
from celery import states
from celery.exceptions import ImproperlyConfigured, Retry
from celery.result import AsyncResult, GroupResult
from kombu.exceptions import EncodeError

from emq_compat.backends.emq import BrokerStore
from emq_compat.client import client_for
from emq_compat.genuine.backend import EmqBackend
from emq_compat.genuine.capture import Capture, capturing
from emq_compat.genuine.tracing import _ended
from tests.genuine.backend.apps import URL, make_app
from tests.processes import wait_until

pytestmark = pytest.mark.integration


def test_states_and_results_are_stored_and_read(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """PENDING, a state of the task's own, then SUCCESS with its value and time."""
    backend, task_id = app.backend, new_id()
    assert states.PENDING == backend.get_state(task_id)
    backend.store_result(task_id, {"p": 1}, "PROGRESS")
    assert ("PROGRESS", {"p": 1}) == (backend.get_state(task_id), backend.get_result(task_id))
    backend.mark_as_done(task_id, [1, "ä"])
    result = AsyncResult(task_id, app=app)
    assert (states.SUCCESS, [1, "ä"]) == (result.state, result.result)
    assert result.date_done is not None


def test_a_success_is_never_replaced(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """What a lost worker says late changes nothing."""
    task_id = new_id()
    app.backend.mark_as_done(task_id, 1)
    app.backend.mark_as_failure(task_id, ValueError("late"))
    assert states.SUCCESS == app.backend.get_state(task_id)


def test_a_failure_gives_way_to_what_comes_later(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """A task that is run again after its failure has its new result, as in Celery."""
    task_id = new_id()
    app.backend.mark_as_failure(task_id, ValueError("first"))
    app.backend.mark_as_done(task_id, 1)
    assert 1 == AsyncResult(task_id, app=app).get(timeout=5)


class Odd(Exception):
    """Its arguments are not those that it is made of."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one}-{other}")


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_exceptions_come_back(serializer: str, new_id: Callable[[], str]) -> None:
    """By their class; one that can't be made of its arguments still shows its text."""
    app = make_app(result_serializer=serializer, accept_content=["json", "pickle"])
    known, odd = new_id(), new_id()
    app.backend.mark_as_failure(known, KeyError("k"), traceback="tb")
    app.backend.mark_as_failure(odd, Odd(1, 2))
    with pytest.raises(KeyError, match="k"):
        AsyncResult(known, app=app).get(timeout=5)
    assert "tb" == AsyncResult(known, app=app).traceback
    assert "1-2" in str(AsyncResult(odd, app=app).result)


def test_retries_and_revokes_are_told(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """RETRY with the exception that caused it; a revoked task raises TaskRevokedError."""
    task_id = new_id()
    app.backend.mark_as_retry(task_id, Retry("again", exc=ValueError("x")))
    assert states.RETRY == app.backend.get_state(task_id)
    app.backend.mark_as_revoked(task_id, "enough")
    with pytest.raises(celery.exceptions.TaskRevokedError, match="enough"):
        AsyncResult(task_id, app=app).get(timeout=5)


def test_a_forgotten_result_is_pending(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """forget() drops it in the broker."""
    task_id = new_id()
    app.backend.mark_as_done(task_id, 1)
    AsyncResult(task_id, app=app).forget()
    assert states.PENDING == app.backend.get_state(task_id)
    assert not app.backend.task_result_exists(task_id)


def test_groups_are_saved_and_restored(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """A restored group has its members and their results; a deleted one is gone; the shim reads it, too."""
    group_id, members = new_id(), [new_id(), new_id()]
    for n, member in enumerate(members):
        app.backend.mark_as_done(member, n)
    GroupResult(group_id, [AsyncResult(member, app=app) for member in members], app=app).save()
    assert [0, 1] == make_app().GroupResult.restore(group_id).get(timeout=5)
    tree = BrokerStore(lambda: client_for(URL)).load_group(group_id)
    assert tree is not None
    assert members == [member[0][0] for member in tree[1]]
    app.backend.delete_group(group_id)
    assert make_app().GroupResult.restore(group_id) is None


@pytest.mark.parametrize(
    ("expires", "kept"),
    [(None, 0.0), (0, 0.0), (30, 30.0), (timedelta(minutes=1), 60.0), (timedelta(days=1), None)],
)
def test_how_long_results_are_kept(expires: Any, kept: float | None) -> None:
    """None and 0 mean for good; Celery's default leaves it to the broker."""
    assert kept == make_app(result_expires=expires).backend.keep_s


def test_results_expire(new_id: Callable[[], str]) -> None:
    """A result is gone after result_expires seconds, a failure after result_failure_expires."""
    app = make_app(result_expires=100, result_failure_expires=0.2)
    good, bad = new_id(), new_id()
    app.backend.mark_as_done(good, 1)
    app.backend.mark_as_failure(bad, ValueError())
    wait_until(lambda: app.backend.get_state(bad) == states.PENDING)
    assert states.SUCCESS == app.backend.get_state(good)


def test_what_a_task_of_our_worker_comes_to_is_kept_as_long(new_id: Callable[[], str]) -> None:
    """Its REPLY says so: result_expires, and result_failure_expires for a failure."""
    app = make_app(result_expires=100, result_failure_expires=7)
    good, bad = Capture(new_id()), Capture(new_id())
    with capturing(good):
        app.backend.mark_as_done(good.task_id, 1)
    with capturing(bad):
        app.backend.mark_as_failure(bad.task_id, ValueError())
    assert (100.0, 7.0) == (good.keep_s, bad.keep_s)
    assert (100.0, 7.0) == tuple(_ended(c.state or "", c, None).keep_s for c in (good, bad))


def test_a_wrong_time_is_refused() -> None:
    """result_expires below nothing is told of at once."""
    with pytest.raises(ImproperlyConfigured, match="result_expires"):
        make_app(result_expires=-1)


def test_the_address_is_shown_without_its_keys() -> None:
    """as_uri hides where the keys are; emq+ipc is put together again."""
    backend = EmqBackend(make_app(), url="emq://host:1?keys=/etc/secret&worker_port=2")
    assert "emq://host:1?keys=**&worker_port=2" == backend.as_uri()
    assert "secret" in backend.as_uri(include_password=True)
    assert "emq+ipc:///run/emq" == EmqBackend(make_app(), url="ipc:///run/emq").as_uri()


def test_a_stock_router_is_refused() -> None:
    """It keeps no results: the error says so."""
    with pytest.raises(ImproperlyConfigured, match="stock eventmq router"):
        EmqBackend(make_app(), url="emq://127.0.0.1?stock=1")


def test_a_broker_that_is_not_there_is_an_operational_error(free_port: Callable[[], int]) -> None:
    """Kombu's OperationalError, within the client's time."""
    backend = EmqBackend(make_app(), url=f"emq://127.0.0.1:{free_port()}")
    backend.client.timeout_s = 0.2
    with pytest.raises(celery.exceptions.OperationalError):
        backend.get_state("x")


def test_result_backend_always_retry_lasts(free_port: Callable[[], int]) -> None:
    """A store is tried as often as the settings say, and then BackendStoreError is raised."""
    app = make_app(
        result_backend_always_retry=True,
        result_backend_max_retries=2,
        result_backend_base_sleep_between_retries_ms=1,
    )
    backend = EmqBackend(app, url=f"emq://127.0.0.1:{free_port()}")
    backend.client.timeout_s = 0.1
    with pytest.raises(celery.exceptions.BackendStoreError):
        backend.store_result("x", 1, states.SUCCESS)


def test_a_result_that_is_too_large_is_an_encode_error(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """The tracer makes a failure of it, and nobody waits in vain."""
    with pytest.raises(EncodeError, match="bytes"):
        app.backend.mark_as_done(new_id(), "x" * (70 << 20))
