"""The real servers answer, where there are any."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import kombu
import pytest

pytestmark = [pytest.mark.integration]


def test_redis_answers(redis_url: str) -> None:
    """The Redis of `redis_url` answers a PING."""
    parts = urlsplit(redis_url)
    with socket.create_connection((parts.hostname, parts.port or 6379), timeout=5) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(5) == b"+PONG"


def test_rabbitmq_passes_a_message_on(amqp_url: str) -> None:
    """A message that is put into a queue of the RabbitMQ of `amqp_url` comes out of it."""
    with kombu.Connection(amqp_url) as connection, connection.SimpleBuffer("emq-test") as queue:
        queue.put({"hello": 1})
        message = queue.get(timeout=10)
        message.ack()
        assert message.payload == {"hello": 1}
