"""What a call costs, for the benchmarks of single parts."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["best_us"]

_ROUNDS = 7


def best_us(run: Callable[[], object], count: int) -> float:
    """Return µs of CPU for each of ``count``, of the best round."""
    best = float("inf")
    for _ in range(_ROUNDS):
        began = time.process_time()
        for _ in range(count):
            run()
        best = min(best, (time.process_time() - began) / count * 1e6)
    return best
