"""Memory that a burst has left free is given back to the system.

ZeroMQ's thread allocates what the broker's thread frees; glibc then keeps it, hundreds of MB after a flood.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

__all__ = ["trim"]


def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # musl, macOS
        return None


_trim = _malloc_trim()


def trim() -> None:
    """Give free memory back, where the C library can (some milliseconds)."""
    if _trim is not None:
        _trim(0)
