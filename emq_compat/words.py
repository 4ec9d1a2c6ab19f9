"""Amounts and lengths of time in words."""

from __future__ import annotations

__all__ = ["amount", "duration", "roughly"]

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def amount(number: int, noun: str, plural: str = "") -> str:
    """Return ``1 worker``, ``12 workers``, ``1,200 workers``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units: ``0.4 s``, ``3 min 20 s``, ``2 d 1 h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    parts = []
    for unit, size in _UNITS:
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def roughly(seconds: float) -> str:
    """Return a length of time in the largest unit that it has two of: ``40 s``, ``3 min``, ``2 d``."""
    unit, size = next((found for found in _UNITS if seconds >= 2 * found[1]), _UNITS[-1])
    return f"{int(seconds // size)} {unit}"
