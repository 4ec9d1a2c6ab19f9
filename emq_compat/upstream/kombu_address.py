"""Where a message goes on a broker that kombu speaks to: exchange and routing key, by Celery's rules."""

from __future__ import annotations

from typing import Any

from emq_compat.message import Headers

__all__ = ["address_of", "is_broadcast"]


def address_of(queue: Any, headers: Headers) -> tuple[str, str]:
    """Return the exchange and the routing key of a message.

    A direct exchange is passed by: its queue's name leads there, whatever it is bound by.

    Args:
        queue: kombu's, the one that the message names.
        headers: its own; ``via`` is what its call said.
    """
    if headers.route is not None:
        return headers.route
    exchange = queue.exchange
    if exchange is None or exchange.type == "direct":
        return "", str(queue.name)
    return str(exchange.name), str(queue.routing_key or "")


def is_broadcast(queue: Any) -> bool:
    """Tell whether each worker has a queue of its own for it, so that who publishes declares none."""
    from kombu.common import Broadcast  # noqa: PLC0415 - heavy

    return isinstance(queue, Broadcast)
