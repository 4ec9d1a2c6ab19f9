"""``celery.utils.saferepr``: a repr of a bounded length, whatever the object holds."""

from __future__ import annotations

import reprlib
import sys
from typing import Any

__all__ = ["saferepr"]


def saferepr(o: Any, maxlen: int | None = None, maxlevels: int = 3, seen: set[int] | None = None) -> str:
    """Return ``repr(o)``, cut to about ``maxlen`` characters and ``maxlevels`` levels of nesting.

    A part whose own ``__repr__`` fails is named by its class.
    """
    bounded = reprlib.Repr()
    bounded.maxlevel = maxlevels
    limit = sys.maxsize if maxlen is None else max(maxlen, 8)
    for kind in ("tuple", "list", "array", "dict", "set", "frozenset", "deque", "string", "long", "other"):
        setattr(bounded, f"max{kind}", limit)
    text = bounded.repr(o)
    if maxlen is not None and len(text) > maxlen:
        return text[: max(maxlen - 3, 0)] + "..."
    return text
