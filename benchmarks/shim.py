"""What the shim adds to a task, in µs of CPU: a publish without its client, a run without its worker.

usage: shim.py [-n N] [--profile]

Each figure is the best and the middle one of seven rounds: other load makes a round longer, never shorter.
The goals are 11 µs for delay() and 13 µs for work().
"""

from __future__ import annotations

import argparse
import cProfile
import logging
import pstats
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from emq_compat.celery_shim import Celery
from emq_compat.client import StoredResult
from emq_compat.message import Delivery, Headers, Publish
from emq_compat.shim.program import ShimProgram

ROUNDS = 7


class Null:
    """A client that takes a message and does nothing with it."""

    stock = False
    last: Publish

    def publish(self, message: Publish) -> None:
        self.last = message

    def publish_all(self, messages: Iterable[Publish]) -> None:
        """Nothing."""

    def ask(self, verb: str, /, timeout_s: float | None = None, **arguments: Any) -> Any:
        """Nothing."""

    def results(self, ids: Sequence[str]) -> Mapping[str, StoredResult | None]:
        return {}

    def wait(self, ids: Iterable[str], timeout_s: float | None) -> Iterator[tuple[str, StoredResult]]:
        return iter(())


app = Celery("bench")
client = Null()
app.client = client


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task(bind=True, track_started=False)
def bound(self: Any, x: int, y: int) -> int:
    return x + y


def measured(what: str, count: int, call: Callable[[], object]) -> None:
    call()
    rounds = []
    for _ in range(ROUNDS):
        begun = time.thread_time()
        for _ in range(count):
            call()
        rounds.append((time.thread_time() - begun) / count * 1e6)
    print(f"{what:<40} best {min(rounds):6.1f} µs   median {statistics.median(rounds):6.1f} µs")


def repeated(call: Callable[[], object], count: int) -> None:
    for _ in range(count):
        call()


def nothing(state: str, body: bytes) -> None:
    """A report that nobody reads."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    arguments.add_argument("-n", type=int, default=5_000, help="calls in a round")
    arguments.add_argument("--profile", action="store_true", help="show where the time goes")
    options = arguments.parse_args()
    logging.disable(logging.INFO)
    program = ShimProgram(app)
    program.worker_init()

    def delivered(publish: Callable[[], object]) -> Delivery:
        publish()
        message = client.last
        headers = Headers.decode(message.headers.encode() + ",attempt:1")
        return Delivery(msgid=message.msgid, queue=message.queue, headers=headers, payload=message.payload)

    plain = delivered(lambda: add.delay(2, 3))
    with_self = delivered(lambda: bound.delay(2, 3))
    calls: dict[str, Callable[[], object]] = {
        "delay(2, 3)": lambda: add.delay(2, 3),
        "apply_async(queue, countdown, headers)": lambda: add.apply_async(
            (2, 3), queue="q", countdown=5, headers={"a": 1}
        ),
        "send_task(name)": lambda: app.send_task("bench.add", (2, 3)),
        "work()": lambda: program.work(plain, nothing),
        "work(), bound": lambda: program.work(with_self, nothing),
    }
    for what, call in calls.items():
        measured(what, options.n, call)
        if options.profile:
            profile = cProfile.Profile()
            profile.runcall(repeated, call, options.n)
            pstats.Stats(profile).sort_stats("tottime").print_stats(18)


if __name__ == "__main__":
    main()
