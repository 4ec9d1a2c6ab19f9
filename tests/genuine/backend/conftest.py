"""An app whose results are in a broker of this process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import celery
import pytest

from emq_compat.client import client_for
from emq_compat.testing.broker import memory_broker
from tests.genuine.backend.apps import URL, make_app

_numbers = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def broker() -> Iterator[None]:
    """The broker of this file's tests."""
    with memory_broker(URL):
        yield
        client_for(URL).close()


@pytest.fixture
def app() -> celery.Celery:
    return make_app()


@pytest.fixture
def new_id() -> Callable[[], str]:
    return lambda: f"task-{next(_numbers)}"
