"""A worker's queues of one weight, which take turns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from emq_compat.broker.queue import MessageQueue

__all__ = ["Tier"]

#: Where fewer than one of so many have something, those are sought out instead of going past the others.
_FEW = 8


class Tier:
    """Queues of one weight.

    Attributes:
        queues: in the order in which they take turns.
    """

    __slots__ = ("_next", "_places", "queues")

    def __init__(self, queues: Iterable[MessageQueue]) -> None:
        self.queues = list(dict.fromkeys(queues))
        self._places = {queue: place for place, queue in enumerate(self.queues)}
        self._next = 0

    def in_turn(self, busy: Collection[MessageQueue]) -> Iterable[MessageQueue]:
        """Return those of these queues that are among the busy ones, first whose turn it is."""
        if len(self.queues) == 1:
            return self.queues if self.queues[0] in busy else ()
        if len(busy) * _FEW > len(self.queues):
            return self._going_past(busy)
        places, start, count = self._places, self._next, len(self.queues)
        found = [queue for queue in busy if queue in places]
        if len(found) > 1:
            found.sort(key=lambda queue: (places[queue] - start) % count)
        return found

    def _going_past(self, busy: Collection[MessageQueue]) -> Iterator[MessageQueue]:
        start, queues = self._next, self.queues
        for place in (*range(start, len(queues)), *range(start)):
            if queues[place] in busy:
                yield queues[place]

    def served(self, queue: MessageQueue) -> None:
        """Note that this queue had its turn: the next one's begins."""
        self._next = (self._places[queue] + 1) % len(self.queues)
