"""When the database commits what stands in the redo log: once a second, and later for large values."""

from __future__ import annotations

import math
from typing import Final

from emq_compat.broker.aside import Aside

__all__ = ["FOLD_AFTER_S", "Folding"]

#: For so long commits stand in the redo log only; and after a fold that failed, the next is tried.
FOLD_AFTER_S: Final = 1.0
#: And for so long while large values are kept aside, as most of them are gone by then …
_ASIDE_S = 10.0
#: … or until they have so many bytes. A log of _SPENT_BYTES of which most is gone is begun anew earlier.
_ASIDE_BYTES = 128 << 20
_SPENT_BYTES = 32 << 20
_SPENT_SHARE = 8


class Folding:
    """The time of the next fold; ``now`` is monotonic.

    Attributes:
        at: when a commit is to be made though nothing was written; inf: there is nothing to fold.
    """

    __slots__ = ("_aside_until", "at")

    def __init__(self) -> None:
        self.at = math.inf
        self._aside_until = 0.0

    def due(self, now: float) -> bool:
        """Tell whether its time has come."""
        return now >= self.at

    def wanted(self, now: float, aside: Aside, *, large: bool, log_bytes: int, stands: bool) -> bool:
        """Tell, at the end of a commit, whether a fold is to be made now; if not, when is noted.

        Args:
            large: there were large values in this commit.
            log_bytes: what counts of the redo log.
            stands: there is something to fold.
        """
        live = aside.live_bytes
        if large and (live >= _ASIDE_BYTES or log_bytes >= max(_SPENT_BYTES, _SPENT_SHARE * live)):
            return True
        if self.due(now):
            if not live or now >= self._aside_until:
                return True
            self.at = now + FOLD_AFTER_S
        elif self.at == math.inf and stands:
            self.at, self._aside_until = now + FOLD_AFTER_S, now + _ASIDE_S
        return False

    def failed(self, now: float) -> None:
        """Note that a fold was tried in vain."""
        self.at = now + FOLD_AFTER_S

    def made(self) -> None:
        """Note that all is folded."""
        self.at = math.inf
