"""``celery.utils.saferepr``: a repr of a bounded length and cost, whatever the object holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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

#: What Python's own repr shows at a small cost: such values, so many of them, and texts of such a length.
_PLAIN = frozenset({float, bool, type(None)})
_FEW, _SHORT = 8, 100


def saferepr(o: Any, maxlen: int | None = None, maxlevels: int = 3, seen: set[int] | None = None) -> str:
    """Return ``repr(o)``, cut to ``maxlen`` characters and ``maxlevels`` levels of nesting.

    A part whose own ``__repr__`` fails is named by its class. What is cut off costs nothing. ``seen`` holds
    the ids of what is around ``o``, which isn't shown inside it again.
    """
    if not seen and maxlevels > 0 and _is_small(o):
        text = repr(o)
        if maxlen is None or len(text) <= maxlen:
            return text
    pieces: list[str] = []
    length = 0
    for piece in _pieces(o, maxlevels, seen or set(), maxlen):
        pieces.append(piece)
        length += len(piece)
        if maxlen is not None and length > maxlen:
            return "".join(pieces)[: max(maxlen - 3, 0)] + "..."
    return "".join(pieces)


def _is_small(o: Any) -> bool:
    """Tell whether Python's own repr will do, which is much quicker: few plain values, and all are short."""
    kind = type(o)
    values: Iterable[Any] = (o,)
    if kind is tuple or kind is list or kind is dict:
        if len(o) > _FEW:
            return False
        values = o if kind is not dict else (*o, *o.values())
    for value in values:
        kind = type(value)
        if kind is str or kind is bytes:
            if len(value) > _SHORT:
                return False
        elif kind is int:
            if value.bit_length() > 64:  # there are ints that Python refuses to show
                return False
        elif kind not in _PLAIN:
            return False
    return True


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
