"""Which ROUTER listens at an endpoint: ours in the broker's thread, or ZeroMQ's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import zmq

from emq_compat.permits import CLIENT
from emq_compat.protocol.frames import LIMITS, Limits
from emq_compat.wire.curve import Gate
from emq_compat.wire.direct_router import DirectRouter
from emq_compat.wire.listening import Listener
from emq_compat.wire.multipart import Socket
from emq_compat.wire.router import RouterWire

__all__ = ["Router", "listen"]

Router: TypeAlias = "RouterWire | DirectRouter"


def listen(
    endpoint: str,
    *,
    context: Callable[[], zmq.Context[Socket]],
    gate: Gate | None = None,
    role: str = CLIENT,
    limits: Limits = LIMITS,
    message_bytes: int,
    unfinished_bytes: int,
) -> Router:
    """Listen at an endpoint: by ZeroMQ where keys are used, at an interface's name, and within the process.

    ``context`` is asked for only then. ``message_bytes``: what a message may have, all frames together, and
    ``unfinished_bytes``: see DirectRouter (ZeroMQ's bounds single frames only).

    Raises:
        OperationalError: the endpoint can't be bound (in use, no such address, no descriptors …).
    """
    if gate is None and Listener.can(endpoint):
        return DirectRouter(
            endpoint, limits=limits, message_bytes=message_bytes, unfinished_bytes=unfinished_bytes
        )
    return RouterWire(context(), endpoint, gate=gate, role=role, limits=limits)
