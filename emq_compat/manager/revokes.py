"""What a job manager was told is revoked, for jobs that may come: a broker may have no memory of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from time import monotonic
from typing import Final

__all__ = ["KEPT", "KEPT_S", "TOLD_S", "Revokes", "RevokesTold"]

#: As Celery's workers: so many are kept, each for so long (seconds).
KEPT: Final = 50_000
KEPT_S: Final = 10_800.0
#: So long what a revoke came to is told again (seconds).
TOLD_S: Final = 60.0


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


class RevokesTold:
    """What revokes came to just now, by task id.

    One revoke may come by two ways, of the broker and of who asks this worker: the later one finds the job
    gone, and is answered as the first was.

    Args:
        now: returns seconds that only grow.
    """

    def __init__(self, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._told: dict[str, tuple[float, str]] = {}

    def note(self, task_id: str, what: str) -> None:
        """Keep what became of a task in mind for TOLD_S; the oldest go."""
        now = self._now()
        self._told.pop(task_id, None)
        self._told[task_id] = (now, what)
        while len(self._told) > KEPT or next(iter(self._told.values()))[0] <= now - TOLD_S:
            del self._told[next(iter(self._told))]

    def get(self, task_id: str) -> str | None:
        """Return what became of a task that was revoked within TOLD_S."""
        at, what = self._told.get(task_id, (0.0, ""))
        return what if what and at > self._now() - TOLD_S else None
