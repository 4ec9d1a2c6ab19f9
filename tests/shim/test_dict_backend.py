"""BaseDictBackend: results by a subclass's own methods, as Celery's backends have them."""

from __future__ import annotations

from typing import Any

import pytest

from emq_compat.celery_shim import Celery, OperationalError
from emq_compat.shim.backend_kinds import by_name
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.surface.dict_backend import BaseDictBackend
from tests.shim.recorder import Recorder, Worker

pytestmark = pytest.mark.unit


class Rows(BaseDictBackend):
    """Keeps encoded rows in a dict."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rows: dict[str, dict[str, Any]] = {}
        self.fails: list[Exception] = []

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: str | None = None, request: Any = None
    ) -> Any:
        if self.fails:
            raise self.fails.pop(0)
        self.rows[task_id] = {"status": state, "result": self.encode(result), "traceback": traceback}

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        row = self.rows.get(task_id)
        if row is None:
            return {"status": "PENDING", "result": None}
        return self.meta_from_decoded({**row, "result": self.decode(row["result"])})

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        return isinstance(exc, ConnectionError)


@pytest.fixture
def rows(app: Celery) -> Rows:
    """The app's backend."""
    made = Rows(app=app)
    app.backend = made
    return made


def test_results_pass_through_its_methods(app: Celery, client: Recorder, worker: Worker, rows: Rows) -> None:
    """What a worker tells is stored by them, and read by them."""

    @app.task
    def halve(x: int) -> int:
        return x // 2

    @app.task
    def fail() -> None:
        raise LookupError("nothing", 7)

    good, bad = halve.delay(6), fail.delay()
    assert "PENDING" == good.state
    for message in list(client.published):
        worker.run(message)

    assert 3 == good.get(timeout=0)
    assert {"status": "SUCCESS", "result": "3", "traceback": None} == rows.rows[good.id]
    with pytest.raises(LookupError, match="nothing"):
        bad.get(timeout=0)
    assert "LookupError" in (bad.traceback or "")


def test_a_success_is_not_replaced(rows: Rows) -> None:
    """What a lost worker says late changes nothing."""
    rows.store_result("id", 1, "SUCCESS")
    rows.store_result("id", ValueError("late"), "FAILURE")
    assert ("SUCCESS", 1) == (rows.get_state("id"), rows.get_result("id"))


def test_what_it_raises_is_an_operational_error(rows: Rows) -> None:
    """With the class named; what is safe to retry is tried once more."""
    rows.fails = [ConnectionError("closed")]
    rows.store_result("id", 1, "SUCCESS")
    assert 1 == rows.get_result("id")
    rows.fails = [ConnectionError("closed"), ConnectionError("still closed")]
    with pytest.raises(OperationalError, match="ConnectionError: still closed"):
        rows.store_result("other", 1, "SUCCESS")
    rows.fails = [ValueError("odd")]
    with pytest.raises(OperationalError, match="Rows: ValueError: odd"):
        rows.store_result("other", 1, "SUCCESS")


def test_what_it_lacks_is_told(rows: Rows) -> None:
    """A method that the subclass doesn't have says so."""
    with pytest.raises(NotImplementedError, match="Rows can't forget results"):
        rows.forget("id")


def test_a_package_that_is_missing_is_named() -> None:
    """django-db is django-celery-results'."""
    with pytest.raises(ImproperlyConfigured, match="'django-db' is one of the package django-celery-results"):
        by_name("django-db")
