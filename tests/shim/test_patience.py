"""Trying a result store that can't be reached again: how often, how long, and what is raised then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import pytest

from emq_compat.backends.cache import MemoryStore
from emq_compat.celery_shim import Celery
from emq_compat.shim import exceptions
from emq_compat.shim.backend import Backend
from emq_compat.shim.exceptions import OperationalError
from emq_compat.shim.patience import Patience, patience_of
from emq_compat.shim.record_codec import codec_of
from emq_compat.stored import StoredResult

pytestmark = pytest.mark.unit


class Failing(MemoryStore):
    """A store that can't be reached for some calls."""

    failures = 0

    def _call(self) -> None:
        if self.failures:
            self.failures -= 1
            raise OperationalError("it is gone")

    def read(self, ids: Sequence[str]) -> Mapping[str, StoredResult | None]:
        self._call()
        return super().read(ids)

    def write(self, task_id: str, reply: Mapping[str, Any]) -> None:
        self._call()
        super().write(task_id, reply)

    def wait(
        self, ids: Any, timeout_s: float | None, interval_s: float = 0.5
    ) -> Iterator[tuple[str, StoredResult]]:
        self._call()
        yield from super().wait(ids, timeout_s, interval_s)


@pytest.fixture
def backend() -> Backend:
    """An app's backend over it."""
    app = Celery("patient")
    app.conf.update(result_backend_always_retry=True, result_backend_base_sleep_between_retries_ms=0.1)
    return Backend(app, store=Failing(codec_of(app)))


def failing(backend: Backend, times: int) -> Failing:
    """Have the store fail so often."""
    assert isinstance(backend.store, Failing)
    backend.store.failures = times
    return backend.store


def test_pauses_double_up_to_the_longest() -> None:
    """The settings say the first pause, the longest, and how many there are; their defaults are Celery's."""
    conf = Celery("settings").conf
    assert patience_of(conf) is None
    conf.result_backend_always_retry = True
    endless = patience_of(conf)
    assert endless is not None
    assert [0.01, 0.02, 0.04] == list(islice(endless.pauses(lambda: 1.0), 3))
    assert 10.0 == next(islice(endless.pauses(lambda: 1.0), 1000, None))
    assert [0.5, 1.0, 1.0] == list(Patience(tries=3, first_s=0.5, longest_s=1).pauses(lambda: 1.0))


def test_a_store_that_is_back_has_the_result(backend: Backend) -> None:
    """Writing, reading and waiting go on until the store answers."""
    store = failing(backend, 5)
    backend.store_result("t", 1, "SUCCESS")
    store.failures = 5
    assert "SUCCESS" == backend.get_state("t")
    store.failures = 5
    assert 1 == backend.app.AsyncResult("t", backend=backend).get(timeout=10)
    assert 0 == store.failures


def test_the_last_try_raises(backend: Backend) -> None:
    """After result_backend_max_retries Celery's BackendStoreError or BackendGetMetaError names the task."""
    backend.app.conf.result_backend_max_retries = 2
    failing(backend, 3)
    with pytest.raises(exceptions.BackendStoreError, match="it is gone") as store_error:
        backend.store_result("t", 1, "SUCCESS")
    assert ("t", "SUCCESS") == (store_error.value.task_id, store_error.value.state)
    failing(backend, 3)
    with pytest.raises(exceptions.BackendGetMetaError, match="it is gone") as meta_error:
        backend.get_state("t")
    assert "t" == meta_error.value.task_id


def test_without_the_setting_it_is_tried_once(backend: Backend) -> None:
    """What the store doesn't try by itself isn't tried again."""
    backend.app.conf.result_backend_always_retry = False
    failing(backend, 1)
    with pytest.raises(OperationalError, match="it is gone"):
        backend.store_result("t", 1, "SUCCESS")
