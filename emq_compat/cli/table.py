"""Tables and amounts as people read them in a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

__all__ = ["amount", "duration", "printable", "table"]


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return the rows below their heads, in columns; numbers stand to the right."""
    cells = [list(heads), *([printable(str(cell)) for cell in row] for row in rows)]
    numeric = [
        len(cells) > 1 and all(row[i].replace(".", "").replace("-", "").isdigit() for row in cells[1:])
        for i in range(len(heads))
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in cells
    )


def printable(text: str) -> str:
    """Return ``text`` without what could move a terminal's cursor: control characters become escapes."""
    if text.isprintable():
        return text
    return "".join(
        c if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else ascii(c)[1:-1] for c in text
    )


def amount(number: int, noun: str, plural: str = "") -> str:
    """Return ``1 worker``, ``12 workers``, ``1,200 workers``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units: ``0.4 s``, ``3 min 20 s``, ``2 d 1 h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
