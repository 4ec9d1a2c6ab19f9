"""Taking messages from a connection of kombu's."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from kombu import Connection

__all__ = ["collecting", "drained", "nothing_comes"]


def drained(connection: Connection, count: int = 1, timeout_s: float = 5.0) -> None:
    """Take so many messages."""
    for _ in range(count):
        connection.drain_events(timeout=timeout_s)


def nothing_comes(connection: Connection, timeout_s: float = 0.1) -> None:
    """Nothing has come when so much time has passed."""
    with pytest.raises(socket.timeout):
        connection.drain_events(timeout=timeout_s)


def collecting(bodies: list[Any]) -> Callable[[Any, Any], None]:
    """A consumer's callback that keeps bodies and acknowledges."""

    def keep(body: Any, message: Any) -> None:
        bodies.append(body)
        message.ack()

    return keep
