"""Waiting for one descriptor, whatever its number: ``select.select`` refuses those above 1,023."""

from __future__ import annotations

import math
import select

__all__ = ["readable"]


def readable(fd: int, timeout_s: float = 0.0) -> bool:
    """Return whether a descriptor is readable, at its end or broken; within ``timeout_s`` seconds."""
    if not hasattr(select, "poll"):  # a process of eventlet's, which takes it away, and makes the other green
        return bool(select.select([fd], [], [], max(0.0, timeout_s))[0])
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(math.ceil(1000 * max(0.0, timeout_s))))
