"""How much work to ask for: one job a slot, plus a little behind jobs that are known to be short.

A worker that hoards jobs makes others wait and has more to lose, so what waits behind another job is bounded
by its expected running time (DESIGN, promise 2). Running times are learned by task name. Nothing here knows a
pool, a socket or a clock.
"""

from __future__ import annotations

__all__ = ["HOLD_S", "OVERRUN_S", "Credit"]

#: Work, in seconds, that a child may hold beside what it runs.
RESERVE_S = 0.020
#: Jobs that a child may hold beside the one it runs.
RESERVE_MAX = 32
#: A job that is expected to run longer is never put behind another one.
SHORT_S = 0.010
#: How long a delivery may wait in the parent for an idle slot before it goes back to the broker.
HOLD_S = 0.020
#: What waits behind a job that has been running for so long is taken back.
OVERRUN_S = 0.050
#: How long nothing is reserved after a delivery found no slot in time.
PAUSE_S = 1.0
#: Task names whose running times are remembered.
NAMES_MAX = 1024
#: Jobs that must have been seen, of a name and in all, before they count as known.
SAMPLES_MIN = 3


class _Average:
    """A moving average that rises fast and falls slowly: one long run makes a name a long one for a while."""

    __slots__ = ("count", "value")

    def __init__(self) -> None:
        self.count = 0
        self.value = 0.0

    def note(self, seconds: float) -> None:
        if self.count == 0:
            self.value = seconds
        else:
            self.value += (seconds - self.value) * (0.5 if seconds > self.value else 0.1)
        self.count += 1


class Credit:
    """Learns running times and says how many jobs a child may hold beside the one it runs."""

    def __init__(self) -> None:
        self._names: dict[str, _Average] = {}
        self._recent = _Average()
        self._paused_until = 0.0

    def note(self, name: str, runtime_s: float) -> None:
        """Take in that a job of this name ran (or has been running) for so long; an empty name counts too."""
        self._recent.note(runtime_s)
        if not name:
            return
        average = self._names.get(name)
        if average is None:
            if len(self._names) >= NAMES_MAX:
                del self._names[next(iter(self._names))]
            average = self._names[name] = _Average()
        average.note(runtime_s)

    def is_short(self, name: str) -> bool:
        """True when jobs of this name are known to run for less than ``SHORT_S``."""
        average = self._names.get(name)
        return average is not None and average.value < SHORT_S and average.count >= SAMPLES_MIN

    def per_child(self, now: float) -> int:
        """Return how many jobs a child may hold beside the one it runs; ``now`` is monotonic."""
        recent = self._recent
        if recent.count < SAMPLES_MIN or recent.value >= SHORT_S or now < self._paused_until:
            return 0
        if recent.value * RESERVE_MAX <= RESERVE_S:
            return RESERVE_MAX
        return int(RESERVE_S / recent.value)

    def pause(self, now: float) -> None:
        """Reserve nothing for a while: a job found no slot and went back; it must find one next time."""
        self._paused_until = now + PAUSE_S
