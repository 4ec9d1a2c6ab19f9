"""Which of a job manager's upstreams are connected, and what is announced: to all of them."""

from __future__ import annotations

from collections.abc import Callable

from emq_compat.upstream.base import Upstream

__all__ = ["Connections"]


class Connections:
    """The upstreams that are connected now.

    Attributes:
        reconnects: connections since the start beyond the first of each upstream.
    """

    def __init__(self) -> None:
        self.reconnects = 0
        self._met: set[Upstream] = set()
        self._there: dict[Upstream, None] = {}
        #: Those whose next Connected is of the connection that they had.
        self._standing: set[Upstream] = set()

    def connected(self, upstream: Upstream) -> bool:
        """Note that an upstream is connected; returns whether it is a new connection."""
        self._there[upstream] = None
        anew = upstream not in self._standing
        self._standing.discard(upstream)
        self.reconnects += anew and upstream in self._met
        self._met.add(upstream)
        return anew

    def stands(self, upstream: Upstream) -> bool:
        """Whether an upstream is connected."""
        return upstream in self._there

    def disconnected(self, upstream: Upstream, *, cut: bool) -> bool:
        """Note that an upstream isn't connected; returns whether none is. ``cut`` as Disconnected has it."""
        self._there.pop(upstream, None)
        if not cut:
            self._standing.add(upstream)
        return not self._there

    @property
    def announce(self) -> Callable[[str, bytes], bool] | None:
        """What announces something to all that can; None: none of them can."""
        return self._announce if any(upstream.announces for upstream in self._there) else None

    def _announce(self, topic: str, payload: bytes) -> bool:
        announced = False
        for upstream in self._there:
            if upstream.announces:
                announced = upstream.announce(topic, payload) or announced
        return announced
