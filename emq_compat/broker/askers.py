"""Who has asked for work, in the order in which they get it; the cost does not grow with those that wait.

Those with the heaviest queues come first, of these the most idle ones. Of equally idle ones it is the turn of
that which has waited longest, and a turn lasts ``TURN_S``: one that was begun and is idle again gets the next
message, too. Its process is still in the processor's caches, and it is told what was stored of it with
what it is given, where another one had to be woken up for each message, and for each receipt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, TypeAlias

from emq_compat.broker.workers import Worker

__all__ = ["TURN_S", "Askers"]

#: How long a worker's turn lasts, from its first message on.
TURN_S: Final = 0.2

#: Less is served first: minus the weight of the heaviest queues, minus the number of idle slots.
_Rank: TypeAlias = tuple[int, int]


class Askers:
    """Workers with credit whose connection stands.

    Attributes:
        changed: who is to be looked at again, because what it has asked for, or holds, may have changed.
    """

    def __init__(self) -> None:
        self.changed: dict[Worker, None] = {}
        #: Workers by rank; in each, who has waited longest comes first.
        self._waiting: dict[_Rank, dict[Worker, None]] = {}
        self._ranks: list[_Rank] = []
        #: Worker → its rank, and the last hand-out that it had when it was given its place.
        self._places: dict[Worker, tuple[_Rank, int]] = {}

    def look(self) -> None:
        """Give those that have changed their places."""
        places = self._places
        for worker in self.changed:
            asks = worker.credit > 0 and worker.present and worker.gone is None
            place = ((-worker.weight, -worker.idle_slots), worker.served) if asks else None
            if place == (before := places.get(worker)):
                continue
            if before is not None:
                self._leave(worker, before[0])
            if place is not None:
                self._join(worker, place)
        self.changed.clear()

    def remove(self, worker: Worker) -> None:
        """Forget a worker that is lost."""
        self.changed.pop(worker, None)
        if (place := self._places.get(worker)) is not None:
            self._leave(worker, place[0])

    def idle(self, now_mono: float) -> Iterator[Worker]:
        """Tell who would begin a message at once; looked up one by one, and to be ended before ``look``."""
        for rank in self._ranks:
            if rank[1] < 0:
                yield from _in_turn(self._waiting[rank], now_mono)

    def all(self) -> Iterable[Worker]:
        """Tell all."""
        return (worker for rank in self._ranks for worker in self._waiting[rank])

    def _join(self, worker: Worker, place: tuple[_Rank, int]) -> None:
        rank = place[0]
        waiting = self._waiting.get(rank)
        if waiting is None:
            waiting = self._waiting[rank] = {}
            self._ranks.append(rank)
            self._ranks.sort()
        waiting[worker] = None
        self._places[worker] = place

    def _leave(self, worker: Worker, rank: _Rank) -> None:
        del self._places[worker]
        waiting = self._waiting[rank]
        del waiting[worker]
        if not waiting:
            del self._waiting[rank]
            self._ranks.remove(rank)


def _in_turn(waiting: dict[Worker, None], now_mono: float) -> Iterator[Worker]:
    """Tell who is in the midst of its turn, the last one first; then the others, as long as they waited."""
    earlier = len(waiting)
    for worker in reversed(waiting):
        if now_mono - worker.turn_began >= TURN_S:
            break
        earlier -= 1
        yield worker
    yield from islice(waiting, earlier)
