"""Tables as people read them in a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

__all__ = ["cut", "fitted", "printable", "table"]

#: A column of text isn't made narrower than so, to make the others fit.
_LEAST = 8


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


def fitted(
    heads: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, right: Iterable[int] = ()
) -> list[str]:
    """Return heads and rows as lines of at most ``width`` cells of a terminal.

    The widest columns give room first, those of ``right`` (numbers, which stand to the right) never; what
    doesn't fit even so is cut off at the end.
    """
    at_right = frozenset(right)
    cells = [list(heads), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(_cells(row[i]) for row in cells) for i in range(len(heads))]
    while (over := sum(widths) + 2 * (len(widths) - 1) - width) > 0:
        text = [i for i in range(len(widths)) if i not in at_right and widths[i] > _LEAST]
        if not text:
            break
        widest = max(text, key=lambda i: widths[i])
        # Down to the next widest, so that two long columns share what there is.
        next_width = max((widths[i] for i in text if i != widest), default=_LEAST)
        least = max(_LEAST, min(next_width, widths[widest] - 1))
        widths[widest] = max(least, widths[widest] - over)
    return [
        cut(
            "  ".join(
                _padded(cut(cell, size), size, right=i in at_right)
                for i, (cell, size) in enumerate(zip(row, widths, strict=True))
            ).rstrip(),
            width,
        )
        for row in cells
    ]


def cut(text: str, width: int) -> str:
    """Return a text of at most ``width`` cells of a terminal; where some is missing it ends in ``…``."""
    if _cells(text) <= width:
        return text
    if width < 1:
        return ""
    kept = 0
    for at, character in enumerate(text):
        kept += _cells(character)
        if kept > width - 1:
            return text[:at] + "…"
    return text


def _padded(text: str, width: int, *, right: bool) -> str:
    blanks = " " * (width - _cells(text))
    return blanks + text if right else text + blanks


def _cells(text: str) -> int:
    """Return how many cells of a terminal a text takes: wide characters two, accents none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def printable(text: str) -> str:
    """Return ``text`` without what could move a terminal's cursor: control characters become escapes."""
    if text.isprintable():
        return text
    return "".join(
        c if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else ascii(c)[1:-1] for c in text
    )
