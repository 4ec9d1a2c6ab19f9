"""Memory that a burst, or a large message, has left free is given back to the system.

What one thread allocates and another frees, or what was freed below something that is still used, glibc
keeps: hundreds of MB after a flood, or a few messages of 20 MB.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import sys
from collections.abc import Callable

__all__ = [
    "LARGE_BYTES", "LEAST_READ_BYTES", "Spare", "collect_seldom", "hold_freed", "next_read", "resident_kb",
    "share_one_heap", "trim",
]  # fmt: skip

#: From this size on glibc may take a block from the system for itself, and then keeps such blocks.
LARGE_BYTES = 1 << 17

#: What ``next_read`` begins with, and comes back to.
LEAST_READ_BYTES = 1 << 12

_PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024


def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # musl, macOS
        return None


_trim = _malloc_trim()

#: mallopt's names, of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
#: What glibc's own thresholds come to in a process that has freed blocks of 32 MB.
_HELD_BYTES = 64 << 20
_SYSTEMS_BYTES = 32 << 20
_holds = False


def share_one_heap() -> None:
    """Have the threads that this process will start share the main one's heap.

    What is free at the top of another one ``trim`` doesn't give back: ZeroMQ's kept a message of 20 MB.
    """
    try:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    except (OSError, AttributeError):  # musl, macOS
        return


def hold_freed() -> None:
    """Have what large messages leave free stay with this process for the next ones, until ``trim``.

    glibc gives the end of its heap back with every block that is freed there: the system then has to map and
    to clear each page of each copy of each message anew. Once is enough.
    """
    global _holds
    if not _holds:
        _holds = True
        with contextlib.suppress(OSError, AttributeError):  # musl, macOS
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_MMAP_THRESHOLD, _SYSTEMS_BYTES)
            libc.mallopt(_M_TRIM_THRESHOLD, _HELD_BYTES)


def next_read(size: int, got: int, *, most: int) -> int:
    """Return how many bytes to read next time, of a stream whose last read of ``size`` brought ``got``.

    A block of that size is taken before it is known what comes, and only the end of the heap has one of 64 kB
    at once, each time: there nothing finds the room again that others have left, and the heap grows.
    """
    if got == size:
        return min(2 * size, most)
    return size // 2 if got < size // 4 and size > LEAST_READ_BYTES else size


def collect_seldom() -> None:
    """Have Python look for garbage in cycles after 20,000 new objects, not 700; what exists isn't looked at.

    A broker makes dozens of objects for each message and hardly a cycle: looking through all that waits, and
    all who wait, again and again is for nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def trim() -> None:
    """Give free memory back, where the C library can (some milliseconds)."""
    if _trim is not None:
        _trim(0)


def resident_kb() -> int:
    """Return how much of this process is in memory (KiB; its most where the system doesn't tell)."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read().split()[1]) * _PAGE_KB
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak // 1024 if sys.platform == "darwin" else peak


class Spare:
    """What a process whose loop never rests has too much.

    ``look`` is for the loop: now and then it reads how large the process is, and has memory given back where
    that has grown. No turn of its own is needed: a loop that only sees heartbeats calls it often enough.

    Args:
        shrink: gives up, too, what is only kept to be quick; called after a quiet time.

    Attributes:
        due: the monotonic time of the next look.
    """

    __slots__ = ("_low_kb", "_once_more", "_shrink", "_trimmed_at", "due")

    _EVERY_S = 2.0
    #: Growth that is given back: while there is work, and after a quiet time.
    _GROWN_KB = 64 << 10
    _GROWN_QUIET_KB = 4 << 10
    #: And once a minute: under steady work a heap whose free pieces lie apart grows by a page now and then.
    _CREPT_KB = 128
    _CREPT_S = 60.0

    def __init__(self, shrink: Callable[[], None] | None = None) -> None:
        self._shrink = shrink
        self._low_kb = resident_kb()
        #: What was in use at the last look may have been freed since: the size doesn't tell.
        self._once_more = False
        self._trimmed_at = 0.0
        self.due = 0.0

    def look(self, now: float, *, quiet: bool) -> None:
        """Look; ``quiet``: hardly anything has happened since the last time."""
        if not self.due:
            self._trimmed_at = now
        self.due = now + self._EVERY_S
        resident = resident_kb()
        more_kb = resident - self._low_kb
        grown = more_kb >= (self._GROWN_QUIET_KB if quiet else self._GROWN_KB)
        crept = more_kb >= self._CREPT_KB and now >= self._trimmed_at + self._CREPT_S
        again = quiet and self._once_more
        if not (grown or crept or again):
            self._low_kb = min(self._low_kb, resident)
            return
        if quiet and (grown or again) and self._shrink is not None:
            self._shrink()
        trim()
        self._trimmed_at = now
        self._low_kb = resident_kb()
        self._once_more = grown or resident - self._low_kb >= self._GROWN_QUIET_KB
