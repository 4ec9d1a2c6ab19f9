"""Large messages that have begun and not ended: whose is to be read on, so that all of them are bounded."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

__all__ = ["LARGE_BYTES", "STANDS_STILL_S", "Large"]

#: A message is large once so much of it has come.
LARGE_BYTES: Final = 1 << 20
#: Of whom nothing has come for so long, while others wait for its end, it is not to be expected any more.
STANDS_STILL_S: Final = 30.0

T = TypeVar("T")


class Large(Generic[T]):
    """Peers in the midst of a large message, in the order in which theirs became large.

    Once their messages have more than ``most_bytes`` together only the first goes on, and the others are
    held: it comes to its end, and the next one is the first. So there is room for all, one after the other,
    and what has come is never more than the bound, one message, and what makes a message large of each peer.

    Attributes:
        total_bytes: what has come of all these messages.
        held: the peers that are held.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes: dict[T, int] = {}
        self.held: dict[T, None] = {}
        #: When something came of the first one's message, or it became the first.
        self._moved_at = 0.0
        self.total_bytes = 0

    def __contains__(self, peer: T) -> bool:
        """Tell whether a peer is in the midst of a large message."""
        return peer in self._bytes

    def grown(self, peer: T, size: int, now: float) -> bool:
        """Note how much has come of a peer's message; returns whether it is to be read on now."""
        self.total_bytes += size - self._bytes.get(peer, 0)
        self._bytes[peer] = size
        if peer == self._first():
            self._moved_at = now
        elif self.total_bytes > self._most_bytes:
            self.held[peer] = None
            return False
        return True

    def ended(self, peer: T, now: float) -> list[T]:
        """Note that a peer's message has ended, or won't; returns those that are to be read on now."""
        if peer not in self._bytes:
            return []
        if peer == self._first():
            self._moved_at = now
        self.total_bytes -= self._bytes.pop(peer)
        self.held.pop(peer, None)
        room = self.total_bytes <= self._most_bytes
        going_on = [one for one in self.held if room or one == self._first()]
        for one in going_on:
            del self.held[one]
        return going_on

    def stands_still(self, now: float) -> T | None:
        """Return the peer for whose message others wait though nothing comes of it."""
        return self._first() if self.held and now >= self._moved_at + STANDS_STILL_S else None

    def _first(self) -> T | None:
        return next(iter(self._bytes), None)
