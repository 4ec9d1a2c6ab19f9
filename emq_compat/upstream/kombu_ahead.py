"""How many messages a worker holds beyond what it can begin.

RabbitMQ drops what expires in a queue, and nobody hears of it. What expires in a worker's hands ends REVOKED:
so a busy worker takes a few in advance, and lets them go as soon as somebody else may want them.
"""

from __future__ import annotations

from typing import Final

__all__ = ["REST_S", "Ahead", "per_slot"]

#: For each slot, and in all.
_PER_SLOT: Final = 3
_MOST: Final = 100
#: So often it is asked whether others want them.
_LOOK_S: Final = 1.0
#: For how long nothing is taken in advance after it was let go, and it is held without a free slot: well
#: below RabbitMQ's consumer_timeout (30 min), which ends the channel of who holds a message longer.
_PAUSE_S: Final = 10.0
_HOLD_S: Final = 600.0
#: After a slot was freed nothing more is taken in advance for so long: short tasks need nothing of the kind.
REST_S: Final = 0.1


def per_slot(prefetch_multiplier: int) -> int:
    """Return how many messages may be held in advance for each slot (worker_prefetch_multiplier; 0: many)."""
    return min(prefetch_multiplier - 1, _PER_SLOT) if prefetch_multiplier > 0 else _PER_SLOT


class Ahead:
    """How many now, and when to let them go. ``now`` is monotonic, in seconds.

    Args:
        for_each_slot: at most so many; 0: none.
    """

    def __init__(self, for_each_slot: int) -> None:
        self._for_each_slot = for_each_slot
        self._slots = 0
        self._paused_until = 0.0
        self._rests_until = 0.0
        self._look_at = 0.0

    def resize(self, slots: int) -> None:
        """Note how many jobs run at once from now on."""
        self._slots = slots

    def room(self, now: float) -> int:
        """Return how many may be held."""
        if now < self._paused_until or now < self._rests_until:
            return 0
        return min(_MOST, self._slots * self._for_each_slot)

    def rest(self, now: float) -> None:
        """Note that there is a slot."""
        self._rests_until = now + REST_S

    def rests(self, now: float) -> bool:
        """Return whether there is no room only as there was a slot a moment ago."""
        return self._paused_until <= now < self._rests_until

    def has_to_look(self, now: float) -> bool:
        """Return whether it is time to ask if others want what is held; the next time is later."""
        if now < self._look_at:
            return False
        self._look_at = now + _LOOK_S
        return True

    def is_too_long(self, now: float, since: float) -> bool:
        """Return whether what is held has been waiting for a slot for too long."""
        return now - since > _HOLD_S

    def pause(self, now: float) -> None:
        """Note that all was let go: nothing is taken in advance for a while."""
        self._paused_until = now + _PAUSE_S
