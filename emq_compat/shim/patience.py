"""How long a result store that can't be reached is tried: the settings ``result_backend_always_retry`` …"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emq_compat.shim.settings import Settings

__all__ = ["Patience", "patience_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Tries with growing pauses.

    Attributes:
        tries: how often it is tried again (result_backend_max_retries; its default is without end).
        first_s, longest_s: the first pause and the longest, which double in between
            (result_backend_base_sleep_between_retries_ms, result_backend_max_sleep_between_retries_ms).
    """

    tries: float = math.inf
    first_s: float = 0.01
    longest_s: float = 10.0

    def pauses(self, share: Callable[[], float] = random.random) -> Iterator[float]:
        """Yield the pause before each further try: a random share, so that workers don't try at once."""
        pause_s, tried = self.first_s, 0
        while tried < self.tries:
            yield min(pause_s, self.longest_s) * share()
            pause_s = min(pause_s * 2, self.longest_s)
            tried += 1


def patience_of(conf: Settings) -> Patience | None:
    """Return what an app's settings say; None: what the store tries by itself is enough."""
    if not conf.result_backend_always_retry:
        return None
    most = conf.result_backend_max_retries
    return Patience(
        tries=math.inf if most is None else float(most),
        first_s=conf.result_backend_base_sleep_between_retries_ms / 1000,
        longest_s=conf.result_backend_max_sleep_between_retries_ms / 1000,
    )
