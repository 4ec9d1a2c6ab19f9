"""``celery.utils.collections``."""

from __future__ import annotations

import heapq
import time
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any

__all__ = [
    "AttributeDict",
    "AttributeDictMixin",
    "ChainMap",
    "DictAttribute",
    "LimitedSet",
    "force_mapping",
    "lpmerge",
]


class AttributeDictMixin:
    """Gives a mapping its keys as attributes: ``d.key``."""

    def __getattr__(self, k: str) -> Any:
        try:
            return self[k]  # type: ignore[index]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {k!r}") from None

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value


class AttributeDict(dict[str, Any], AttributeDictMixin):
    """A dict whose keys are attributes, too."""


class DictAttribute(MutableMapping[str, Any]):
    """An object's attributes as a mapping."""

    obj: Any

    def __init__(self, obj: Any) -> None:
        object.__setattr__(self, "obj", obj)

    def __getattr__(self, key: str) -> Any:
        return getattr(self.obj, key)

    def __setattr__(self, key: str, value: Any) -> None:
        setattr(self.obj, key, value)

    def __getitem__(self, key: str) -> Any:
        try:
            return getattr(self.obj, key)
        except AttributeError:
            raise KeyError(key) from None

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self.obj, key, value)

    def __delitem__(self, key: str) -> None:
        try:
            delattr(self.obj, key)
        except AttributeError:
            raise KeyError(key) from None

    def __iter__(self) -> Iterator[str]:
        return iter(dir(self.obj))

    def __len__(self) -> int:
        return len(dir(self.obj))


def force_mapping(m: Any) -> Mapping[str, Any]:
    """Return a mapping as it is, and any other object as the mapping of its attributes."""
    return m if isinstance(m, Mapping) else DictAttribute(m)


def lpmerge(L: dict[Any, Any], R: Mapping[Any, Any]) -> dict[Any, Any]:  # noqa: N803 - Celery's names
    """Put into the first dict what the second has, but for values that are None; returns the first."""
    L.update((key, value) for key, value in R.items() if value is not None)
    return L


class LimitedSet:
    """A set of at most ``maxlen`` items, each kept for ``expires`` seconds at most; 0: without such a limit.

    ``minlen`` items are kept even if they have expired.
    """

    def __init__(
        self, maxlen: int = 0, expires: float = 0, data: Iterable[Any] | None = None, minlen: int = 0
    ) -> None:
        if maxlen < 0 or minlen < 0 or (maxlen and minlen > maxlen) or expires < 0:
            raise ValueError("maxlen, minlen and expires are not negative, and minlen not above maxlen")
        self.maxlen, self.minlen, self.expires = maxlen, minlen, expires
        self._added: dict[Any, float] = {}
        self._heap: list[tuple[float, int, Any]] = []
        self._count = 0
        if data:
            self.update(data)

    def add(self, item: Any, now: float | None = None) -> None:
        """Add an item, or make it the newest; ``now`` is the monotonic time."""
        self._count += 1
        at = time.monotonic() if now is None else now
        self._added[item] = at
        heapq.heappush(self._heap, (at, self._count, item))
        self.purge(at)

    def update(self, other: Any) -> None:
        """Add the items of another set, or of a mapping from item to time."""
        if isinstance(other, LimitedSet):
            other = other._added
        for item in other:
            self.add(item, other[item] if isinstance(other, Mapping) else None)

    def discard(self, item: Any) -> None:
        """Remove an item if it is there."""
        self._added.pop(item, None)

    pop_value = discard

    def clear(self) -> None:
        """Remove all."""
        self._added.clear()
        self._heap.clear()

    def purge(self, now: float | None = None) -> None:
        """Remove what is too old, and the oldest of too many."""
        at = time.monotonic() if now is None else now
        while self._heap and (
            (self.maxlen and len(self._added) > self.maxlen)
            or (self.expires and len(self._added) > self.minlen and self._heap[0][0] + self.expires < at)
            or self._added.get(self._heap[0][2]) != self._heap[0][0]
        ):
            added, _, item = heapq.heappop(self._heap)
            if self._added.get(item) == added:
                del self._added[item]

    def as_dict(self) -> dict[Any, float]:
        """Return the items with the times at which they were added."""
        return dict(self._added)

    def __contains__(self, item: object) -> bool:
        return item in self._added

    def __iter__(self) -> Iterator[Any]:
        return iter(sorted(self._added, key=self._added.__getitem__))

    def __len__(self) -> int:
        return len(self._added)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LimitedSet) and self._added == other._added

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<LimitedSet({len(self)}): maxlen={self.maxlen}, expires={self.expires}>"
