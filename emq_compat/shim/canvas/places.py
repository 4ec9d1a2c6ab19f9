"""A part's place in its chord: what the option ``chord`` of a header's task holds.

Where our broker counts the parts it is a reference, ``{"id": …, "index": "3.0"}``. Where the result backend
does, as Celery has it, it is the body's signature; the chord's id is then the part's group, and its place the
part's index in that. Which of both it is says who counts, wherever the message came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["counted_by_backend", "group_of_parts", "part_header", "place"]


def counted_by_backend(chord: Any) -> bool:
    """Return whether such a chord is counted in the result backend."""
    return isinstance(chord, Mapping) and "task" in chord


def place(chord: Any, index: int) -> Any:
    """Return the option of a chord's part number ``index`` below ``chord``; None: no chord."""
    if not chord or counted_by_backend(chord):
        return chord or None
    above = chord.get("index") or ""
    grown = "+" if above.endswith("+") else ""
    return {**chord, "index": f"{above[:-1] if grown else above}.{index}{grown}" if above else str(index)}


def group_of_parts(chord: Any, own_id: str, outer_id: str | None) -> str:
    """Return the group's id that the members of a group have: a part's is that of its chord."""
    return outer_id if outer_id and counted_by_backend(chord) else own_id


def part_header(chord: Any) -> str:
    """Return the header that has our broker count a part; empty: it doesn't."""
    return f"{chord['id']}:{chord['index']}" if chord and not counted_by_backend(chord) else ""
