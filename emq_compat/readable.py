"""Waiting for one descriptor, whatever its number: ``select.select`` refuses those above 1,023."""

from __future__ import annotations

import math
import select

__all__ = ["readable"]


def readable(fd: int, timeout_s: float = 0.0) -> bool:
    """Return whether a descriptor is readable, at its end or broken; within ``timeout_s`` seconds."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(math.ceil(1000 * max(0.0, timeout_s))))
