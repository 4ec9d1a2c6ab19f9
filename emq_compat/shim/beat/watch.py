"""BeatWatch: what a beat's loop does, noted by the loop and looked at by another thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from emq_compat.leading.leader import Leader

__all__ = ["STUCK_S", "BeatWatch"]

#: A loop that is as late as this is stuck, unless beat_remote_control_max_tick_age says otherwise, in
#: seconds: a broker that is silent holds it up for less, of Celery's beat with four attempts of 30 s each.
STUCK_S: Final = 180.0


class BeatWatch:
    """What is known of a beat, of any kind of scheduler; only its loop writes.

    Args:
        clock: monotonic seconds.

    Attributes:
        limit_s: how late the loop may be before it counts as stuck, in seconds; 0: it never does.
        started: whether the schedule is set up, and the loop runs.
        leader: who knows whether this beat leads; None: there is none to be.
        turned_at: when the loop was last seen to turn.
        ticks: how often it has looked at the schedule.
        ticked_at: when it did so last; None: not yet.
        entries: how many there are; None: this beat doesn't know.
        due_at: when it looks at the first of them again; None: it doesn't know.
        sent, failed: entry → its runs that were published, and that could not be; 0 for those that are known.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.limit_s = STUCK_S
        self.started = False
        self.leader: Leader | None = None
        self.turned_at = clock()
        self._sleeps_s = 0.0
        self.ticks = 0
        self.ticked_at: float | None = None
        self.entries: int | None = None
        self.due_at: float | None = None
        self.sent: dict[str, int] = {}
        self.failed: dict[str, int] = {}

    def begin(self, leader: Leader | None, max_age_s: float | None) -> None:
        """Note that all is set up, and the loop is about to run.

        Args:
            leader: who knows whether this beat leads.
            max_age_s: the setting beat_remote_control_max_tick_age.
        """
        self.leader = leader
        if max_age_s is not None:
            self.limit_s = float(max_age_s)
        elif leader is not None:  # while the store is silent it holds the loop up for the lock's life
            self.limit_s = max(STUCK_S, 2 * leader.ledger.life_s)
        self.turned()
        self.started = True

    def turned(self, sleeps_s: float = 0.0) -> None:
        """Note that the loop turns, and that it sleeps so long before it will be seen again."""
        self.turned_at, self._sleeps_s = self._clock(), sleeps_s

    def ticked(self, scheduler: Any, sleeps_s: float = 0.0) -> None:
        """Note that the schedule was looked at.

        Args:
            scheduler: one of Celery's kind: the first of its ``_heap`` is looked at next. None: standing by.
            sleeps_s: as of ``turned``.
        """
        self.turned(sleeps_s)
        self.ticks += 1
        self.ticked_at = self.turned_at
        heap = getattr(scheduler, "_heap", None)
        if heap is not None and len(heap) != self.entries:
            for event in heap:
                self._counted_from_now(event.entry)
        self.entries = None if heap is None else len(heap)
        self.due_at = self._due(scheduler, heap) if heap else None

    def _counted_from_now(self, entry: Any) -> None:
        """Have an entry's counts begin at 0, so that its first run is seen as an increase."""
        name = str(getattr(entry, "name", entry))
        self.sent.setdefault(name, 0)
        self.failed.setdefault(name, 0)

    def _due(self, scheduler: Any, heap: Any) -> float | None:
        """Return when the first entry is looked at again, by the clock that it counts by."""
        first = heap[0]
        try:
            return self.turned_at + float(first.time - scheduler._when(first.entry, 0))
        except Exception:  # noqa: BLE001 - entries and clocks of the project's own
            return None

    def note(self, entry: object, *, sent: bool) -> None:
        """Count a run of the entry of this name, that was published or couldn't be."""
        counts = self.sent if sent else self.failed
        name = str(entry)
        counts[name] = counts.get(name, 0) + 1

    @property
    def leads(self) -> bool | None:
        """Whether this beat leads; None: there is no leader."""
        return None if self.leader is None else self.leader.term > 0

    def stuck(self) -> str:
        """Return why the loop counts as stuck; empty: it turns, or is about to begin."""
        now = self._clock()
        late_s = now - self.turned_at - self._sleeps_s
        if not self.started or not 0 < self.limit_s < late_s:
            return ""
        return f"the loop has not turned for {now - self.turned_at:.0f} s"

    def checks(self) -> dict[str, str]:
        """Return name of check → why it fails, empty: it holds; those that concern a beat itself."""
        if not self.started:
            return {"started": "the schedule is being read"}
        checks = {"started": "", "loop": self.stuck()}
        if self.leader is not None:
            checks["leader"] = self.leader.trouble
        return checks
