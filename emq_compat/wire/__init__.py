"""Connections that speak commands, of a client or worker and of a broker, with and without ZeroMQ; CURVE."""

from __future__ import annotations

from emq_compat.wire.curve import Gate, client_curve, server_curve
from emq_compat.wire.dealer import Wire
from emq_compat.wire.direct import DirectWire
from emq_compat.wire.direct_router import DirectRouter
from emq_compat.wire.endless import Endless
from emq_compat.wire.multipart import Multipart, identity
from emq_compat.wire.router import RouterWire

__all__ = [
    "DirectRouter",
    "DirectWire",
    "Endless",
    "Gate",
    "Multipart",
    "RouterWire",
    "Wire",
    "client_curve",
    "identity",
    "server_curve",
]
