"""Windows: the oldest messages of a queue's priorities, in memory, and what all of them may take."""

from __future__ import annotations

from collections import deque

from emq_compat.broker.records import SEQUENCE_MASK, Waiting

__all__ = ["ENTRY_BYTES", "WINDOW_MESSAGES", "Rank", "WindowBudget"]

#: Messages read from disk at once, and the most that a window takes in of new ones.
WINDOW_MESSAGES = 1000

#: What a message in a window takes beside its payload.
ENTRY_BYTES = 800


class WindowBudget:
    """Bytes that the messages in all windows together may take in memory, however many queues there are."""

    __slots__ = ("limit", "used")

    def __init__(self, limit_bytes: int = 64 << 20) -> None:
        self.limit = limit_bytes
        self.used = 0


class Rank:
    """The messages of one priority of one queue."""

    __slots__ = ("first", "home", "last", "more", "window")

    def __init__(self, home: int) -> None:
        self.home = home
        self.last = home | SEQUENCE_MASK
        #: everything up to this key is in the window, handed out, or gone.
        self.first = home
        #: there may be messages after ``first`` on disk.
        self.more = False
        self.window: deque[Waiting] = deque()
