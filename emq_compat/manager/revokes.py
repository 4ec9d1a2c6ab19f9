"""What a job manager was told is revoked, for jobs that may come: a broker may have no memory of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from time import monotonic
from typing import Final

__all__ = ["KEPT", "KEPT_S", "Revokes"]

#: As Celery's workers: so many are kept, each for so long (seconds).
KEPT: Final = 50_000
KEPT_S: Final = 10_800.0


class Revokes(Set[str]):
    """Ids (or tags) of revoked tasks, the oldest first.

    Args:
        now: returns seconds that only grow.
    """

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._since: dict[str, float] = {}

    def add(self, told: Iterable[str]) -> None:
        """Keep these in mind from now on; the oldest go where there are too many."""
        now = self._now()
        for one in told:
            self._since.pop(one, None)
            self._since[one] = now
        while len(self._since) > KEPT:
            del self._since[next(iter(self._since))]

    def _expire(self) -> None:
        until = self._now() - KEPT_S
        while self._since and next(iter(self._since.values())) <= until:
            del self._since[next(iter(self._since))]

    def __contains__(self, one: object) -> bool:
        since = self._since.get(one) if isinstance(one, str) else None
        return since is not None and since > self._now() - KEPT_S

    def __iter__(self) -> Iterator[str]:
        self._expire()
        return iter(list(self._since))

    def __len__(self) -> int:
        self._expire()
        return len(self._since)

    def __bool__(self) -> bool:
        return bool(self._since)
