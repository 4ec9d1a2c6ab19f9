"""``app.clock``: the number by which events are ordered.

Celery's workers agree on a Lamport clock by telling each other; ours don't talk to each other. So this one
goes with the time, in microseconds, and is a Lamport clock beside that: it never stands still or goes back,
and what is adjusted to another's value is later than that. Events of one process are in their order, and
those of several in the order of their machines' time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Clock"]


class Clock:
    """A hybrid logical clock, with the methods of kombu's LamportClock that count; ``value`` is its last one.

    ``now`` returns unix time in seconds.
    """

    def __init__(self, initial_value: int = 0, now: Callable[[], float] = time.time) -> None:
        self.value = initial_value
        self._now = now
        self._lock = threading.Lock()

    def forward(self) -> int:
        """Go on; returns the new value."""
        with self._lock:
            self.value = max(self.value + 1, int(self._now() * 1_000_000))
            return self.value

    def adjust(self, other: int) -> int:
        """Take over a value that was received; returns the new value, which is later than it."""
        with self._lock:
            self.value = max(self.value, other) + 1
            return self.value

    def __str__(self) -> str:
        return str(self.value)

    def __repr__(self) -> str:
        return f"<Clock: {self.value}>"
