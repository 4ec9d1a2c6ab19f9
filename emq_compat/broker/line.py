"""Clients' messages that were received and not yet handled: each client's turn comes after the others'.

What one client says is handled in its order. One that says much, or asks what takes long, waits for itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from emq_compat.errors import RemoteProtocolError
from emq_compat.permits import Permit
from emq_compat.protocol.commands import Command

__all__ = ["Line", "Said"]

#: A client, what it said, and its permit. None instead of a command: its connection is gone, after all of it.
Said: TypeAlias = "tuple[bytes, Command | RemoteProtocolError | None, Permit | None]"


class Line:
    """The clients that stand in line."""

    def __init__(self) -> None:
        self._by_client: dict[bytes, deque[Said]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, client: bytes) -> bool:
        return client in self._by_client

    def __iter__(self) -> Iterator[Said]:
        """Return all that waits, client by client."""
        for waiting in self._by_client.values():
            yield from waiting

    def add(self, said: Iterable[Said]) -> None:
        """Have these wait behind what their clients have said before."""
        for one in said:
            self._by_client.setdefault(one[0], deque()).append(one)
            self._count += 1

    def take(self) -> Iterator[Said]:
        """Take one of each client, and so on, until nobody is left or the caller stops."""
        while self._by_client:
            client = next(iter(self._by_client))
            waiting = self._by_client.pop(client)
            one = waiting.popleft()
            self._count -= 1
            if waiting:
                self._by_client[client] = waiting
            yield one
