"""A part's place in its chord: what the option ``chord`` of a header's task holds.

Where our broker counts the parts it is a reference, ``{"id": …, "index": "3.0"}``. Where the result backend
does, as Celery has it, it is the body's signature; the chord's id is then the part's group, and its place the
part's index in that. Which of both it is says who counts, wherever the message came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from zlib import crc32

__all__ = [
    "MARK",
    "as_reference",
    "counted_by_backend",
    "group_of_parts",
    "marked_part",
    "part_header",
    "place",
]

#: The member of a body's signature by which a genuine app's chord over our broker says so:
#: ``{"chord": id, "places": {task id: place}}``.
MARK: Final = "emq"


def marked_part(chord: Any, task_id: str | None, group_index: Any) -> str | None:
    """Return the header ``chord`` of a part of a genuine app's chord; None: our broker doesn't count it.

    Args:
        chord: the chord's body, as the part has it.
        task_id, group_index: the part's.
    """
    told = chord.get(MARK) if isinstance(chord, Mapping) else None
    if not isinstance(told, Mapping) or not task_id:
        return None
    place = told["places"].get(task_id)
    if place is None:
        from emq_compat.headers import GROWN  # noqa: PLC0415 - publishing needs it, declaring doesn't

        # A part that says no place of its own stands behind all others.
        place = str(group_index if isinstance(group_index, int) else GROWN - 1)
        if told.get("lazy") or not isinstance(group_index, int):
            # Parts of groups within a generator have the numbers of others.
            place += f".{GROWN + 1 + crc32(task_id.encode()) % (999_999_999 - GROWN)}"
    return f"{told['chord']}:{place}"


def as_reference(chord: Any, task_id: str | None, group_index: Any) -> Any:
    """Return what a part has as its ``chord`` here: of a genuine app's that our broker counts a reference."""
    part = marked_part(chord, task_id, group_index)
    if part is None:
        return chord
    chord_id, _, index = part.rpartition(":")
    return {"id": chord_id, "index": index}


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
