"""A day in the shop: `python -m shop.day BATCHES` has them roasted, and says by whom."""

import sys
from collections import Counter

from celery import chain

from shop.tasks import grind, roast

LIMIT_S = 60


def main() -> None:
    """Have some batches roasted at once, and one ground after that."""
    sent = [roast.delay(batch) for batch in range(int(sys.argv[1]))]
    done = [result.get(timeout=LIMIT_S) for result in sent]
    by = Counter(worker.partition("@")[0] for _, worker in done)
    print(f"roasted: {len({batch for batch, _ in done})} of {len(sent)}, by {', '.join(sorted(by))}")
    print(chain(roast.s(7), grind.s()).delay().get(timeout=LIMIT_S), flush=True)


if __name__ == "__main__":
    main()
