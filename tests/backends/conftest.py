"""The stores under test, each as the backend of an app."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emq_compat.celery_shim import Celery
from emq_compat.shim import current
from emq_compat.shim.backend import Backend
from tests.shim.recorder import Recorder


@pytest.fixture(autouse=True)
def _own_state() -> Iterator[None]:
    """No app is current before and after each test."""
    current.set_default_app(None)
    yield
    current.set_default_app(None)


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What result_backend says, of each store that isn't the broker."""
    if request.param == "memory":
        return "cache+memory://"
    if request.param == "sqlite":
        pytest.importorskip("sqlalchemy")
        return f"db+sqlite:///{tmp_path}/results.db"
    pytest.importorskip("redis")
    return str(request.getfixturevalue("redis_url"))


@pytest.fixture
def make_app() -> Iterator[Callable[..., Celery]]:
    """Makes an app with a result backend and further settings; nothing of it stays open."""
    made: list[Celery] = []

    def make(url: str, **changes: object) -> Celery:
        app = Celery(f"proj-{uuid.uuid4().hex}", backend=url, changes=changes)
        app.client = Recorder()
        made.append(app)
        return app

    yield make
    for app in made:
        if isinstance(app.backend, Backend):
            app.backend.process_cleanup()


@pytest.fixture
def app(url: str, make_app: Callable[..., Celery]) -> Celery:
    """An app whose results are in the store."""
    return make_app(url)
