"""Whether a job manager could take a job now: what its readiness and the verb ``health`` tell."""

from __future__ import annotations

from typing import Protocol

from emq_compat.pool.base import Pool
from emq_compat.upstream.base import Upstream

__all__ = ["Manager", "checks"]


class Manager(Protocol):
    """What is looked at."""

    pool: Pool
    upstreams: tuple[Upstream, ...]
    received_disconnect: bool

    def is_connected(self, upstream: Upstream) -> bool: ...


def checks(manager: Manager) -> dict[str, str]:
    """Return the name of each check → what is wrong; empty: nothing.

    ``broker``: each broker has taken this worker in and is heard; ``children``: a process for a task could be
    made when that was last tried; ``running``: it isn't on its way to its end. That all slots are busy is no
    trouble.
    """
    away = sum(not manager.is_connected(upstream) for upstream in manager.upstreams)
    brokers = len(manager.upstreams)
    which = "the broker" if brokers == 1 else f"{away} of {brokers} brokers"
    return {
        "broker": f"not connected to {which}" if away else "",
        "children": manager.pool.trouble,
        "running": "it is shutting down" if manager.received_disconnect else "",
    }
