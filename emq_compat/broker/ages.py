"""How long a message has waited, told from its sequence number: messages need no time of their own for it.

Once a second it is noted how far the sequence has come. Older notes are thinned out, so that an age is known
to about a two hundredth of itself.
"""

from __future__ import annotations

from bisect import bisect_right

from emq_compat.broker.records import Moment
from emq_compat.ids import made_at

__all__ = ["Ages"]

_EVERY_S = 1.0
_MOST = 4096
#: Notes are so many parts of their age apart: of a month that leaves 2,000.
_PARTS = 200


class Ages:
    """When messages came; those from before the start have only the time in their ids.

    Attributes:
        due: monotonic time of the next note.
    """

    def __init__(self, sequence: int, now: Moment) -> None:
        self._first = sequence
        self._started = now
        self._sequences = [sequence]
        self._times = [now.mono]
        self.due = now.mono + _EVERY_S

    def note(self, sequence: int, now: Moment) -> None:
        """Note that all that has come until now has at most this sequence number."""
        self.due = now.mono + _EVERY_S
        if sequence == self._sequences[-1]:
            return
        self._sequences.append(sequence)
        self._times.append(now.mono)
        if len(self._times) > _MOST:
            self._thin_out(now)

    def _thin_out(self, now: Moment) -> None:
        """Leave out notes that are close to the next one for their age."""
        kept: list[int] = []
        last = now.mono
        for place in range(len(self._times) - 1, -1, -1):
            at = self._times[place]
            if not kept or last - at >= (now.mono - at) / _PARTS:
                kept.append(place)
                last = at
        kept.reverse()
        self._sequences = [self._sequences[place] for place in kept]
        self._times = [self._times[place] for place in kept]

    def age_s(self, sequence: int, msgid: str, now: Moment) -> float:
        """Return for how many seconds the message with this sequence number has been in its queue."""
        if sequence <= self._first:
            made = made_at(msgid)
            before = self._started.wall if made is None else min(made, self._started.wall)
            return max(0.0, now.wall - before)
        place = bisect_right(self._sequences, sequence - 1)
        # What came since the last look came after it; a look at which nothing had come left no note.
        at = self._times[place] if place < len(self._times) else self.due - _EVERY_S
        return max(0.0, now.mono - at)
