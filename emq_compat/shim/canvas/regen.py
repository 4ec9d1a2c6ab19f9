"""Sequences of a canvas that may be made of a generator, which is run when somebody looks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, SupportsIndex

__all__ = ["Regen", "as_list", "regen"]


class Regen(list[Any]):
    """A list that is filled from an iterable at its first use: a group of a generator is lazy, as in Celery.

    It is a list so that JSON and pickle take it for one; they look at it through ``__iter__``.
    """

    def __init__(self, source: Iterable[Any]) -> None:
        super().__init__()
        self._source: Iterable[Any] | None = source

    def _filled(self) -> Regen:
        if self._source is not None:
            source, self._source = self._source, None
            list.extend(self, source)
        return self

    @property
    def lazy(self) -> bool:
        """Whether nobody has looked yet."""
        return self._source is not None

    def map(self, change: Callable[[Any], Any]) -> None:
        """Have each element replaced by ``change`` of it; lazily where nobody has looked yet."""
        if self._source is not None:
            self._source = map(change, self._source)
        else:
            self[:] = [change(item) for item in list.__iter__(self)]

    def stream(self) -> Iterator[Any]:
        """Iterate while it is being made: each element as soon as it is there."""
        source, self._source = self._source, None
        if source is None:
            yield from list.__iter__(self)
            return
        for item in source:
            list.append(self, item)
            yield item

    def __iter__(self) -> Iterator[Any]:
        self._filled()
        return list.__iter__(self)

    def __reversed__(self) -> Iterator[Any]:
        self._filled()
        return list.__reversed__(self)

    def __len__(self) -> int:
        self._filled()
        return list.__len__(self)

    def __length_hint__(self) -> int:
        return len(self)

    def __bool__(self) -> bool:
        return len(self) > 0

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        self._filled()
        return list.__getitem__(self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._filled()
        list.__setitem__(self, index, value)

    def __contains__(self, item: object) -> bool:
        self._filled()
        return list.__contains__(self, item)

    def __eq__(self, other: object) -> bool:
        self._filled()
        return list.__eq__(self, other._filled() if isinstance(other, Regen) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None

    def append(self, item: Any) -> None:
        self._filled()
        list.append(self, item)

    def extend(self, items: Iterable[Any]) -> None:
        self._filled()
        list.extend(self, items)

    def pop(self, index: SupportsIndex = -1) -> Any:
        self._filled()
        return list.pop(self, index)

    def __add__(self, other: list[Any]) -> list[Any]:
        return [*self, *other]

    def __repr__(self) -> str:
        return "[...]" if self._source is not None else list.__repr__(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


def regen(items: Iterable[Any]) -> list[Any] | tuple[Any, ...]:
    """Return a list or tuple as it is, any other iterable as a sequence that is made when it is used."""
    return items if isinstance(items, (list, tuple)) else Regen(items)


def as_list(value: Any) -> list[Any]:
    """Return what may be nothing, one thing or several as a list (Celery's maybe_list)."""
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return list(value)
    return [value]
