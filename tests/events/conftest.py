"""An app whose client keeps what is announced."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from emq_compat.celery_shim import Celery
from emq_compat.errors import OperationalError
from emq_compat.shim import current
from tests.shim.recorder import Recorder


class Announcing(Recorder):
    """A recorder that takes announcements, too, as (topic, events); ``away``: it refuses them."""

    def __init__(self) -> None:
        super().__init__()
        self.announced: list[tuple[str, Any]] = []
        self.away = False

    def announce(self, topic: str, payload: bytes) -> None:
        if self.away:
            raise OperationalError("no broker")
        self.announced.append((topic, json.loads(payload)))

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events, in order."""
        found = []
        for _, told in self.announced:
            found += told if isinstance(told, list) else [told]
        return found


@pytest.fixture(autouse=True)
def _no_current_app() -> Iterator[None]:
    current.set_default_app(None)
    yield
    current.set_default_app(None)


@pytest.fixture
def client() -> Announcing:
    return Announcing()


@pytest.fixture
def app(client: Announcing) -> Celery:
    made = Celery("proj")
    made.client = client
    return made
