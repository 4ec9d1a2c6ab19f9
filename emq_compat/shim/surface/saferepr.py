"""``celery.utils.saferepr``: a repr of a bounded length and cost, whatever the object holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["saferepr"]

#: What is walked through item by item: a type → what stands around its items.
_BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    dict: ("{", "}"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}


def saferepr(o: Any, maxlen: int | None = None, maxlevels: int = 3, seen: set[int] | None = None) -> str:
    """Return ``repr(o)``, cut to ``maxlen`` characters and ``maxlevels`` levels of nesting.

    A part whose own ``__repr__`` fails is named by its class. What is cut off costs nothing. ``seen`` holds
    the ids of what is around ``o``, which isn't shown inside it again.
    """
    pieces: list[str] = []
    length = 0
    for piece in _pieces(o, maxlevels, seen or set(), maxlen):
        pieces.append(piece)
        length += len(piece)
        if maxlen is not None and length > maxlen:
            return "".join(pieces)[: max(maxlen - 3, 0)] + "..."
    return "".join(pieces)


def _pieces(o: Any, levels: int, around: set[int], maxlen: int | None) -> Iterator[str]:
    brackets = _BRACKETS.get(type(o))
    if brackets is None or not o:
        yield _atom(o, maxlen)
    elif levels <= 0 or id(o) in around:
        yield f"{brackets[0]}...{brackets[1]}"
    else:
        inside = around | {id(o)}
        yield brackets[0]
        comma = ""
        for item in o:
            yield comma
            yield from _pieces(item, levels - 1, inside, maxlen)
            if isinstance(o, dict):
                yield ": "
                yield from _pieces(o[item], levels - 1, inside, maxlen)
            comma = ", "
        yield ",)" if isinstance(o, tuple) and len(o) == 1 else brackets[1]


def _atom(o: Any, maxlen: int | None) -> str:
    try:
        if maxlen is not None and type(o) in (str, bytes) and len(o) > maxlen:
            o = o[: maxlen + 1]
        return repr(o)
    except Exception:  # noqa: BLE001 - around user code
        return f"<{type(o).__name__} instance at {id(o):#x}>"
