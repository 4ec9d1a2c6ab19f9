"""How long a piece of work took by itself: without the time in which its thread waited for a processor.

On a machine with more to do than processors a task of 50 µs takes 50 ms by the clock now and then. Who took
that for its running time would give it nothing beside it any more, and a busy machine would get single tasks,
which cost it most. Linux counts for each thread how long it was ready to run and didn't.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["OwnTime", "waiting_counted"]

#: What took less is taken as it is: looking costs 3 µs.
BRIEF_S = 0.001
#: So old may the last look be when work begins.
FRESH_S = 0.002


class OwnTime:
    """Times one piece of work after the other.

    Args:
        waited_s: tells how long this thread has waited for a processor since it began, in seconds.
    """

    __slots__ = ("_began", "_looked_at", "_waited", "_waited_s")

    def __init__(self, waited_s: Callable[[], float]) -> None:
        self._waited_s = waited_s
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


@contextmanager
def waiting_counted() -> Iterator[Callable[[], float]]:
    """Give what tells how long the calling thread has waited for a processor; 0 where nothing counts it."""
    try:
        fd = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield _never
        return

    def waited_s() -> float:
        try:
            return int(os.pread(fd, 64, 0).split()[1]) / 1e9
        except (OSError, IndexError, ValueError):  # a kernel without it, or a task that closed what it found
            return 0.0

    try:
        yield waited_s
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)


def _never() -> float:
    return 0.0
