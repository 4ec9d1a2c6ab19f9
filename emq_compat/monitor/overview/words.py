"""Amounts and lengths of time in words."""

from __future__ import annotations

__all__ = ["amount", "duration"]


def amount(number: int, noun: str) -> str:
    """Return ``1 task``, ``12 tasks``, ``1,200 tasks``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a length of time in its largest unit: ``40 s``, ``3 min``, ``5 h``, ``2 d``."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"
