"""How much work to ask for: one job a slot, plus a little behind jobs that are known to be short.

A worker that hoards jobs makes others wait and has more to lose, so what waits behind another job is bounded
by its expected running time (DESIGN, promise 2). Running times are learned by task name. Nothing here knows a
pool, a socket or a clock.
"""

from __future__ import annotations

import math

__all__ = ["HOLD_S", "OVERRUN_S", "PAUSE_S", "WORTHWHILE", "Credit"]

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
#: How long nothing is reserved after a delivery found no slot in time: twice as long each time that the next
#: pause comes soon after, up to this.
PAUSE_MIN_S = 0.05
PAUSE_S = 1.0
#: As much of the reserve as is worth asking for by itself: single jobs cost all who handle them most.
WORTHWHILE = 0.5
#: Task names whose running times are remembered.
NAMES_MAX = 1024
#: Jobs that must have been seen, of a name and in all, before they count as known.
SAMPLES_MIN = 3


class _Average:
    """A moving average that rises fast and falls slowly: two long runs make a name a long one for a while.

    One among short ones doesn't: what waits behind it goes back anyway, and it may be the machine's fault.
    """

    __slots__ = ("_before", "_last", "count", "value")

    def __init__(self) -> None:
        self.count = 0
        self.value = 0.0
        self._before = self._last = 0.0

    def note(self, seconds: float) -> None:
        if self.count == 0:
            self.value = self._before = self._last = seconds
        before, last = self._before, self._last
        self._before, self._last = last, seconds
        usual = max(min(before, last), min(max(before, last), seconds))
        self.value += (usual - self.value) * (0.5 if usual > self.value else 0.1)
        self.count += 1


class Credit:
    """Learns running times and says how many jobs a child may hold beside the one it runs."""

    def __init__(self) -> None:
        self._names: dict[str, _Average] = {}
        self._recent = _Average()
        self._paused_until = -math.inf
        self._pause_s = PAUSE_MIN_S

    def note(self, name: str, runtime_s: float) -> None:
        """Take in that a job of this name ran for so long by itself; an empty name counts too."""
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
        soon = now < self._paused_until + PAUSE_S
        self._pause_s = min(PAUSE_S, self._pause_s * 2) if soon else PAUSE_MIN_S
        self._paused_until = now + self._pause_s
