"""Apps for tests of what tests use."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from emq_compat.celery_shim import Celery
from emq_compat.shim import current, declare
from emq_compat.testing.app import TestApp, setup_default_app
from emq_compat.testing.broker import memory_broker


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Shared tasks and the current app are as before after each test, and no broker's name is around."""
    monkeypatch.setattr(declare, "_shared", dict(declare._shared))
    for variable in ("EMQ_BROKER_ADDR", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
        monkeypatch.delenv(variable, raising=False)
    with current.restored():
        yield


@pytest.fixture
def make_app() -> Iterator[Callable[..., Celery]]:
    """A function that makes an app on ``memory://``; arguments are TestApp's."""
    made: list[Celery] = []

    def make(**arguments: object) -> Celery:
        app = TestApp(**arguments)
        made.append(app)
        return app

    with memory_broker():
        yield make
        for app in made:
            with setup_default_app(app):
                pass


@pytest.fixture
def app(make_app: Callable[..., Celery]) -> Celery:
    """An app on ``memory://``."""
    return make_app()
