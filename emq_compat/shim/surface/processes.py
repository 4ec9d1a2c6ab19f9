"""Whether a process that is known by its pid only still runs."""

from __future__ import annotations

import psutil

__all__ = ["is_alive"]


def is_alive(pid: int) -> bool:
    """Return whether a process of this pid runs; one that has ended and wasn't reaped yet doesn't.

    In a container the first process often reaps nobody.
    """
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError):
        return False
    except psutil.AccessDenied:
        return True
