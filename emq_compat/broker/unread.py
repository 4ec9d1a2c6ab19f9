"""How much each client has been sent and may not have read: one that doesn't read must not fill the broker.

Bytes are counted when they are put into the outbox, and forgotten when the client's connection is found to
hold nothing back any more. While too much is under way to a client, results wait on disk for it, and what it
asks is refused.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Unread"]

#: So much may be under way to one client …
CLIENT_BYTES = 16 << 20
#: … as long as this isn't reached by all together: then so much to each.
ALL_BYTES = 256 << 20
SMALL_BYTES = 1 << 20


class Unread:
    """Bytes under way to clients.

    Attributes:
        total: of all clients.
        many: clients to whom so much is under way that somebody should look whether they read.
        held: tells how many bytes a client's connection holds back at this moment; None: nobody knows.
    """

    __slots__ = ("_bytes", "_fresh", "held", "many", "total")

    def __init__(self) -> None:
        self._bytes: dict[bytes, int] = {}
        #: Clients whose connection doesn't know yet of all that is counted.
        self._fresh: set[bytes] = set()
        self.held: Callable[[bytes], int] | None = None
        self.many: set[bytes] = set()
        self.total = 0

    def add(self, client: bytes, size: int) -> None:
        """Count what is sent to a client."""
        self.total += size
        size += self._bytes.get(client, 0)
        self._bytes[client] = size
        if size >= SMALL_BYTES:
            self.many.add(client)
            self._fresh.add(client)

    def left(self) -> None:
        """Note that all that was counted has been given to the connections."""
        if self._fresh:
            self._fresh.clear()

    def of(self, client: bytes) -> int:
        """Return how much is under way to a client."""
        return self._bytes.get(client, 0)

    def full(self, client: bytes) -> bool:
        """Tell whether a client must read before it is sent more; one that has by now is forgotten here."""
        limit = CLIENT_BYTES if self.total < ALL_BYTES else SMALL_BYTES
        if self._bytes.get(client, 0) < limit:
            return False
        if self.held is None or client in self._fresh or self.held(client):
            return True
        self.read(client)
        return False

    def read(self, client: bytes) -> None:
        """Forget what was under way: the client has it, or is gone."""
        self.total -= self._bytes.pop(client, 0)
        self.many.discard(client)
