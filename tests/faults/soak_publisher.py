"""The soak's client: publishes at a steady rate and reads a share of the results, in one process to the end.

    python -m tests.faults.soak_publisher URL COUNT RATE

Nine of ten messages go in pipelines, the others one by one. Of every fiftieth the result is read, two
seconds later. It prints how many were published after each second, and in the end ``published N, read M,
wrong W, refused R, late L``: what can't be read within half a minute may have expired, and isn't asked for.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any

from emq_compat.celery_shim import AsyncResult
from emq_compat.client import Client
from emq_compat.errors import OperationalError
from tests.faults.soak_tasks import TASKS, app, fails, plain

STEP_S = 0.1
#: With more than so many messages waiting it publishes nothing, so that what is measured stays bounded.
MOST_WAITING = 30_000
LATE_S = 30.0


class Publisher:
    """Publishes the numbers from 0 on."""

    def __init__(self) -> None:
        self.n = 0
        self.read = 0
        self.wrong = 0
        self.refused = 0
        self.late = 0
        self._results: deque[tuple[float, int, AsyncResult[Any]]] = deque()

    def publish(self, count: int) -> None:
        """Publish so many."""
        with app.pipeline():
            for _ in range(count - count // 10):
                self._publish_one()
        for _ in range(count // 10):
            self._publish_one()

    def _publish_one(self) -> None:
        result = TASKS[self.n % 100].delay(self.n)
        if self.n % 50 in (0, 7):
            self._results.append((time.monotonic() + 2.0, self.n, result))
        self.n += 1

    def read_due(self) -> None:
        """Read the results that were published two seconds ago."""
        now = time.monotonic()
        while self._results and self._results[0][0] <= now:
            due, n, result = self._results.popleft()
            if time.monotonic() - due > LATE_S:
                self.late += 1
                continue
            task = TASKS[n % 100]
            value = result.get(timeout=120, propagate=False)
            self.read += 1
            if task is plain:
                right = value == {"n": n, "square": n * n}
            elif task is fails:
                right = isinstance(value, ValueError) and value.args == (f"number {n}",)
            else:
                right = value == n
            self.wrong += not right


def main(url: str, total: int, rate: float) -> None:
    """Publish so many at this rate a second."""
    app.conf.broker_url = url
    client = Client(url)
    publisher = Publisher()
    told = due = time.monotonic()
    while publisher.n < total:
        if time.monotonic() - told >= 1.0:
            told = time.monotonic()
            print(publisher.n, flush=True)
            waiting = sum(row["waiting"] for row in client.ask("queues"))
            if waiting > MOST_WAITING:
                time.sleep(1.0)
                due = time.monotonic()
                continue
        count = min(total - publisher.n, max(1, int(rate * STEP_S)))
        try:
            publisher.publish(count)
        except OperationalError as exc:
            publisher.refused += 1
            print(f"not published: {exc!r}", flush=True)
        publisher.read_due()
        due = max(due + count / rate, time.monotonic() - 1.0)
        time.sleep(max(0.0, due - time.monotonic()))
    time.sleep(2.0)
    publisher.read_due()
    client.close()
    counts = {name: getattr(publisher, name) for name in ("read", "wrong", "refused", "late")}
    print(f"published {publisher.n}, {', '.join(f'{name} {n}' for name, n in counts.items())}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
