"""Sales figures, made up here: a month of them takes a moment to come by."""

import random
import time
from collections.abc import Iterator

__all__ = ["month"]

_GOODS = ("chairs", "tables", "lamps")
_PAUSE_S = 0.15


def month(year, number) -> Iterator[tuple[str, str, int]]:
    """Yield (day, goods, pieces) of a month: the same at each call."""
    time.sleep(_PAUSE_S)
    chance = random.Random(year * 100 + number)
    for day in range(1, 29):
        for goods in _GOODS:
            yield f"{year}-{number:02}-{day:02}", goods, chance.randrange(20)
