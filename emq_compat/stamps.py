"""Stamps of tasks, as far as the core knows them: by their tags messages are revoked together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["several", "stamps_in", "tags_of"]


def tags_of(stamps: Mapping[str, Any]) -> list[str]:
    """Return the tags (Headers.tags) of stamps: one for each name and value; several values are a list.

    Two messages have a tag in common where they have a stamp in common.
    """
    return sorted({_tag(name, value) for name, values in stamps.items() for value in several(values)})


def _tag(name: str, value: Any) -> str:
    import hashlib  # noqa: PLC0415 - only stamped messages need it
    import json  # noqa: PLC0415 - likewise

    text = json.dumps([name, value], sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def several(value: Any) -> list[Any]:
    """Return the values of a stamp that has one, or several."""
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]


def stamps_in(given: Any) -> dict[str, Any]:
    """Return stamps that are a mapping, name → value or several, or texts ``name=value``.

    Raises:
        ValueError: they are none.
    """
    if isinstance(given, Mapping):
        return dict(given)
    if not isinstance(given, (list, tuple)):
        raise ValueError(f"{given!r} are no stamps")
    return dict(_stamp(one) for one in given)


def _stamp(written: Any) -> tuple[str, str]:
    name, equals, value = str(written).partition("=")
    if not equals:
        raise ValueError(f"{written!r} is no stamp=value")
    return name, value
