"""What a loop counts for its metrics, and what is taken down of it: plain values, no library."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

__all__ = ["OTHER", "Family", "Figures", "Histogram", "Kind", "Names"]

#: The label of what stands above the limit of names.
OTHER: Final = "other"

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]


class Family(NamedTuple):
    """A metric: its full name, its kind, what it tells, and the names of its labels."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


class Histogram:
    """How many values there were up to each bound, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def note(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    def copy(self) -> Histogram:
        """Return what another thread may look at."""
        copied = Histogram(self.bounds)
        copied.counts, copied.sum = self.counts[:], self.sum
        return copied


#: Name of a family → values of its labels → its value.
Figures: TypeAlias = Mapping[str, Mapping[tuple[str, ...], "float | Histogram"]]


class Names:
    """The names that have a series of their own: the first ones that come, no more than ``limit``."""

    __slots__ = ("_known", "_limit")

    def __init__(self, limit: int) -> None:
        self._known: set[str] = set()
        self._limit = limit

    def label(self, name: str) -> str:
        """Return the name, or ``other``."""
        if name in self._known:
            return name
        if len(self._known) >= self._limit:
            return OTHER
        self._known.add(name)
        return name
