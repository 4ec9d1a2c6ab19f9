"""Tables that fit a terminal, for all commands: what is too wide is shortened, and no line is wrapped.

Cells of a terminal are counted by ``unicodedata`` of the standard library: wide characters of East Asia and
emoji take two, marks none. The library wcwidth has tables of its own, which each command would have to read;
what it counts is more than this only for signs that a later Unicode made wide, such as hexagrams.
"""

from __future__ import annotations

import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

__all__ = [
    "UNCUT",
    "Column",
    "cut",
    "fitted",
    "ids",
    "names",
    "padded",
    "printable",
    "room",
    "table",
    "whole",
]

#: The width of lines where there is no terminal: they are as long as they are.
UNCUT: Final = 1 << 20
#: How narrow columns become so that all fit, one step after the other, and those of which ranks.
_STEPS: Final = ((16, 0), (16, 1), (8, 0), (8, 1), (8, 2))


class Column(NamedTuple):
    """A column.

    Attributes:
        head: stands above it.
        loses: what its cells lose where there is too little room: their end, or their middle, since of a
            name's parts the last one says most.
        rank: columns of a higher one give room later.
    """

    head: str
    loses: Literal["end", "middle"] = "end"
    rank: int = 0


def names(head: str) -> Column:
    """Return a column of names, whose middles can be missed."""
    return Column(head, "middle")


def ids(head: str) -> Column:
    """Return a column of ids or keys: whole, they can be copied; names are to be readable first."""
    return Column(head, rank=1)


def whole(head: str) -> Column:
    """Return a column of what says nothing if it isn't whole, such as times."""
    return Column(head, rank=2)


def room() -> int:
    """Return how many cells a line on standard output may have: those of the terminal, or UNCUT."""
    if not sys.stdout.isatty():
        return UNCUT
    return shutil.get_terminal_size((UNCUT, 0)).columns


def table(
    columns: Sequence[str | Column],
    rows: Iterable[Sequence[object]],
    *,
    right: Iterable[int] | None = None,
    width: int | None = None,
) -> str:
    """Return the rows below their heads, in columns.

    Args:
        columns: the columns, or heads of those that lose their cells' ends.
        rows: a cell for each column.
        right: columns of numbers, which stand to the right; None: those that have nothing else.
        width: cells of a line at most; None: those of the terminal, if there is one.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    if right is None:
        right = [i for i in range(len(columns)) if cells and all(_is_number(row[i]) for row in cells)]
    return "\n".join(fitted(columns, cells, room() if width is None else width, right=right))


def fitted(
    columns: Sequence[str | Column],
    rows: Sequence[Sequence[str]],
    width: int,
    *,
    right: Iterable[int] = (),
) -> list[str]:
    """Return heads and rows as lines of at most ``width`` cells of a terminal.

    Of columns of one rank the widest give room first; those of ``right`` (numbers, which stand to the right)
    never do. What doesn't fit even so is cut off at the end.
    """
    kinds = [Column(one) if isinstance(one, str) else one for one in columns]
    at_right = frozenset(right)
    cells = [[kind.head for kind in kinds], *([printable(cell) for cell in row] for row in rows)]
    widths = [max(_cells(row[i]) for row in cells) for i in range(len(kinds))]
    for least, rank in _STEPS:
        givers = [i for i, kind in enumerate(kinds) if i not in at_right and kind.rank <= rank]
        _narrow(widths, givers, least, width)
    return [
        cut(
            "  ".join(
                padded(_shortened(cell, size, kind), size, right=i in at_right)
                for i, (cell, size, kind) in enumerate(zip(row, widths, kinds, strict=True))
            ).rstrip(),
            width,
        )
        for row in cells
    ]


def _narrow(widths: list[int], givers: Iterable[int], least: int, width: int) -> None:
    """Make these columns narrower, until all fit or none of them has more than the least."""
    while (over := sum(widths) + 2 * (len(widths) - 1) - width) > 0:
        text = [i for i in givers if widths[i] > least]
        if not text:
            return
        widest = max(text, key=lambda i: widths[i])
        # Down to the next widest, so that two long columns share what there is.
        next_width = max((widths[i] for i in text if i != widest), default=least)
        widths[widest] = max(least, min(next_width, widths[widest] - 1), widths[widest] - over)


def _shortened(cell: str, width: int, kind: Column) -> str:
    if kind.loses != "middle" or _cells(cell) <= width:
        return cut(cell, width)
    head = cut(cell, max(2, width // 3))  # with its …
    tail_cells = width - _cells(head)
    at = len(cell)
    while at > 0 and (taken := _cells(cell[at - 1])) <= tail_cells:
        tail_cells -= taken
        at -= 1
    return head + cell[at:]


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


def padded(text: str, width: int, *, right: bool = False) -> str:
    """Return a text with blanks behind it, or before it, so that it takes so many cells."""
    blanks = " " * (width - _cells(text))
    return blanks + text if right else text + blanks


def _cells(text: str) -> int:
    """Return how many cells of a terminal a text takes: wide characters two, marks on others none."""
    return len(text) if text.isascii() else sum(map(_cells_of, text))


def _cells_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf") or "\u1160" <= character <= "\u11ff":
        return 0  # accents and vowel signs; the latter parts of a Korean syllable
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _is_number(cell: str) -> bool:
    return cell.replace(".", "").replace("-", "").replace(",", "").isdigit()


def printable(text: str) -> str:
    """Return ``text`` without what could move a terminal's cursor: control characters become escapes."""
    if text.isprintable():
        return text
    return "".join(
        c if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else ascii(c)[1:-1] for c in text
    )
