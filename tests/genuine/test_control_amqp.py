"""Remote control and events on RabbitMQ: a Celery worker and one of ours, side by side."""

from __future__ import annotations

import pytest

from tests.genuine.control_contract import *  # noqa: F403 - the tests

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def place(amqp_url: str, redis_url: str) -> tuple[str, str]:
    return amqp_url, redis_url
