"""Connections on which a test says single bytes to a DirectRouter; the fixture ``raws`` closes them."""

from __future__ import annotations

from typing import Any

from emq_compat.wire import DirectRouter
from tests.faults.zmtp import Raw
from tests.processes import wait_until
from tests.wire.conftest import raws_open, turn

__all__ = ["closed", "peer", "port", "raw_to"]


def port(router: DirectRouter) -> int:
    return int(router.endpoint.rpartition(":")[2])


def raw_to(router: DirectRouter) -> Raw:
    """A connection on which nothing was said yet."""
    raws_open.append(Raw(port(router), timeout_s=0.05))
    return raws_open[-1]


def peer(router: DirectRouter, name: str = "raw") -> Raw:
    """A connection of which a first message has come."""
    heard: list[Any] = []
    raw = raw_to(router).shake(name, meanwhile=lambda: heard.extend(turn(router, 0.05)))
    wait_until(lambda: [heard.extend(turn(router)), heard][1])
    return raw


def closed(raw: Raw, router: DirectRouter) -> bool:
    """Whether the router has ended a connection."""
    turn(router)
    return raw.ended()
