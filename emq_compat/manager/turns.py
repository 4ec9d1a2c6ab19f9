"""Several brokers, one pool: which of them is asked for how much, so that none is starved.

A free slot is asked of one broker only, of the one that delivered the longest ago: two answers for one slot
mean that one goes back. A broker that brings nothing for a moment is *dry*: it is asked for beside the others
while there are free slots, and that is taken back when there are none. Nothing here knows a clock: ``now`` is
monotonic seconds.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

__all__ = ["DRY_S", "Turns"]

#: A broker that was asked and brings nothing for so long is dry.
DRY_S = 0.03

Broker = TypeVar("Broker", bound=Hashable)


class Turns(Generic[Broker]):
    """Who is asked next.

    Attributes:
        due: when ``split`` may come to something else; infinity: when something else happens.
    """

    def __init__(self) -> None:
        self.due = math.inf
        self._asked: dict[Broker, float] = {}
        self._delivered: dict[Broker, float] = {}
        self._dry: set[Broker] = set()

    def came(self, broker: Broker, now: float) -> None:
        """Note that a broker delivered."""
        self._delivered[broker] = self._asked[broker] = now
        self._dry.discard(broker)

    def forget(self, broker: Broker) -> None:
        """Note that a broker is gone."""
        self._asked.pop(broker, None)
        self._dry.discard(broker)

    def split(
        self, out: Mapping[Broker, int], idle: int, reserve: int, now: float
    ) -> dict[Broker, int]:
        """Return how many more each broker is to be asked for; below 0: that much is taken back.

        Args:
            out: what each was asked for and hasn't brought.
            idle: jobs that could begin at once.
            reserve: further ones that may wait behind short ones.
        """
        wanted = idle + reserve
        for broker, count in out.items():
            if count > 0 and now - self._asked.get(broker, now) >= DRY_S:
                self._dry.add(broker)
        wet = sorted((b for b in out if b not in self._dry), key=lambda b: self._delivered.get(b, 0.0))
        asks = {}
        if wanted <= 0:
            asks = {broker: -count for broker, count in out.items() if count > 0}
        else:
            left = wanted - sum(out[broker] for broker in wet)
            each = math.ceil(left / len(wet)) if wet and left > 0 else 0
            for broker in wet:
                if (more := min(each, left)) > 0:
                    asks[broker] = more
                    left -= more
            probe = max(1, idle)
            for broker in out:
                if broker in self._dry and out[broker] < probe:
                    asks[broker] = probe - out[broker]
        for broker, more in asks.items():
            if more > 0 and out[broker] <= 0:
                self._asked[broker] = now
        waited_for = [
            self._asked[broker]
            for broker in wet
            if broker in self._asked and out[broker] + asks.get(broker, 0) > 0
        ]
        self.due = min(waited_for) + DRY_S if waited_for and len(out) > 1 else math.inf
        return asks
