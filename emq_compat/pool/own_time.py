"""How long a piece of work took by itself: without the time in which its thread waited for a processor.

On a machine with more to do than processors a task of 50 µs takes 50 ms by the clock now and then. Who took
that for its running time would give it nothing beside it any more, and a busy machine would get single tasks,
which cost it most. Linux counts for each thread how long it was ready to run and didn't.
"""

from __future__ import annotations

import os
from collections.abc import Callable

__all__ = ["OwnTime", "waited_s"]

#: What took less is taken as it is: looking costs 3 µs.
BRIEF_S = 0.001
#: So old may the last look be when work begins.
FRESH_S = 0.002


def waited_s() -> float:
    """Return how long the calling thread has waited for a processor, in seconds; 0 where nothing counts it.

    The file is opened each time: a descriptor for each of a thousand slots would be most that a process has.
    """
    try:
        fd = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0.0
    try:
        return int(os.read(fd, 64).split()[1]) / 1e9
    except (OSError, IndexError, ValueError):  # a kernel that doesn't count
        return 0.0
    finally:
        os.close(fd)


class OwnTime:
    """Times one piece of work after the other; ``waited``: what tells how long this thread has waited."""

    __slots__ = ("_began", "_looked_at", "_waited", "_waited_s")

    def __init__(self, waited: Callable[[], float] = waited_s) -> None:
        self._waited_s = waited
        self._began = 0.0
        self._looked_at = float("-inf")
        self._waited = 0.0

    def begin(self, now: float) -> None:
        """Note that work begins; ``now`` is monotonic."""
        self._began = now
        if now - self._looked_at > FRESH_S:
            self._looked_at, self._waited = now, self._waited_s()

    def took(self, now: float) -> float:
        """Return the seconds that it took; too few by what was waited just before it, 2 ms at most."""
        took = now - self._began
        if took < BRIEF_S:
            return took
        before = self._waited
        self._looked_at, self._waited = now, self._waited_s()
        return max(0.0, took - max(0.0, self._waited - before))
