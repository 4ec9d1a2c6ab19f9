"""app.connection() and what is like it: views of the client, and health checks."""

from __future__ import annotations

from typing import Any

import pytest

from emq_compat.celery_shim import Celery
from emq_compat.errors import OperationalError
from tests.shim.recorder import Recorder

pytestmark = pytest.mark.unit


class Answering(Recorder):
    """Answers questions about queues, after some failures."""

    def __init__(self, failures: int = 0) -> None:
        super().__init__()
        self.failures = failures

    def ask(self, verb: str, /, timeout_s: float | None = None, **arguments: Any) -> Any:
        if self.failures:
            self.failures -= 1
            raise OperationalError("no answer")
        return [{"name": "q", "waiting": 3, "workers": 2}] if verb == "queues" else 5


def app_of(client: Recorder) -> Celery:
    app = Celery("p", broker="emq://user:hidden@h:1", set_as_current=False)
    app.client = client
    return app


def test_a_connection_is_a_health_check() -> None:
    """ensure_connection asks the broker, again with pauses where it doesn't answer, and raises in the end."""
    app = app_of(Answering(failures=2))
    pauses: list[float] = []

    with app.connection() as connection:
        assert not connection.connected
        found = connection.ensure_connection(
            errback=lambda exc, pause_s: pauses.append(pause_s), interval_start=0, interval_step=0.01
        )
        assert found is connection
        assert connection.connected
    assert [0, 0.01] == pauses
    with pytest.raises(OperationalError):
        app_of(Answering(failures=9)).connection().ensure_connection(max_retries=1, interval_start=0)
    with pytest.raises(OperationalError):
        app_of(Answering(failures=9)).connection_for_read().ensure_connection(timeout=0.5, interval_start=1)


def test_its_address_hides_the_password() -> None:
    """as_uri masks the password unless it is asked for."""
    connection = app_of(Recorder()).connection()

    assert "emq://user:**@h:1" == connection.as_uri()
    assert "emq://user:hidden@h:1" == connection.as_uri(include_password=True)
    assert "hidden" not in repr(connection)
    assert ("emq", "emq") == (connection.transport_cls, connection.info()["transport"])


def test_a_channel_tells_how_long_a_queue_is() -> None:
    """queue_declare(passive=True) is how projects ask for a queue's length."""
    channel = app_of(Answering()).connection().default_channel

    assert ("q", 3, 2) == tuple(channel.queue_declare("q", passive=True))
    assert 0 == channel.queue_declare("none").message_count
    assert 5 == channel.queue_purge("q")


def test_connections_and_producers_are_handed_out_and_taken(client: Recorder) -> None:
    """What was given stays, otherwise there is a new one; calls take both and go their own way."""
    app = app_of(client)
    given = app.connection_for_write()

    with app.connection_or_acquire(given) as same:
        assert same is given
    with app.producer_or_acquire() as producer, app.connection_or_acquire() as connection:
        app.send_task("a", producer=producer, connection=connection)
    with app.pool.acquire(block=True) as pooled, app.producer_pool.acquire() as pooled_producer:
        assert pooled.url == pooled_producer.connection.url == app.broker_url
    assert "a" == client.last.headers.task
    assert "emq://other" == app.connection("emq://other").url


def test_what_kind_of_broker_it_is() -> None:
    """Monitors can tell that it is none of those that they know how to ask."""
    transport = app_of(Recorder()).connection().transport
    assert ("emq", "emq-compat") == (transport.driver_type, transport.driver_name)
