"""``celery.contrib.abortable`` over each kind of result store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from emq_compat.celery_shim import Celery
from emq_compat.shim.abortable import ABORTED, AbortableTask
from emq_compat.testing.worker import start_worker

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("backend", ["emq://", "cache+memory://"])
def test_a_task_is_asked_to_stop(make_app: Callable[..., Celery], backend: str) -> None:
    """A task finds out that it was asked to stop; until it ends its state is ABORTED, then its own."""
    app = make_app(backend=backend)
    begun, looks = threading.Event(), threading.Event()

    @app.task(bind=True, base=AbortableTask)
    def patient(self: Any) -> str:
        assert not self.is_aborted()
        begun.set()
        looks.wait(10)
        return "stopped" if self.is_aborted() else "never told"

    with start_worker(app):
        result = patient.delay()
        assert begun.wait(10)
        assert (False, "PENDING") == (result.is_aborted(), result.state)
        result.abort()
        assert (True, ABORTED, ABORTED) == (result.is_aborted(), result.state, result.status)
        assert patient.is_aborted(task_id=result.id)
        looks.set()
        assert "stopped" == result.get(timeout=10)
    assert ("SUCCESS", False) == (result.state, patient.is_aborted(task_id="another"))
