"""What unique keys, concurrency keys and shared paces cost in the broker's engine and journal; no sockets.

    python benchmarks/terms.py [-n TASKS] [--durability full|normal] [--batch 256]

Prints microseconds a task for publishing, and for handing out and ending, and the longest turn: of plain
messages, of unique ones, of one key with all messages waiting, of as many keys as messages, and of a task
with a pace that is far behind.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from _engine import TASK, Run, requests

from emq_compat.terms import Once, Share, Shares

KINDS: dict[str, tuple[Callable[[int], dict[str, str]], Shares, float]] = {
    "plain": (lambda i: {}, Shares(), 1.0),
    "unique, each its own": (lambda i: {"once": Once(key=f"proj.task({i})").encode()}, Shares(), 1.0),
    "unique, all but one joined": (lambda i: {"once": Once(key="proj.task()").encode()}, Shares(), 0.0),
    "one concurrency key, 1 place": (lambda i: {"slots": Share(key="k").encode()}, Shares(1, True), 0.02),
    "one concurrency key, 50 places": (lambda i: {"slots": Share(key="k").encode()}, Shares(50, True), 0.2),
    "a concurrency key each": (lambda i: {"slots": Share(key=f"k{i}").encode()}, Shares(1, True), 1.0),
    "1,000 concurrency keys": (lambda i: {"slots": Share(key=f"k{i % 1000}").encode()}, Shares(1, True), 0.2),
    "a pace of 1/s": (lambda i: {}, Shares(pace_s=1.0), 0.002),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=20_000)
    parser.add_argument("--durability", default="full")
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    print(f"{options.n} messages; microseconds a message; longest turn in ms")
    for name, (terms, shares, share) in KINDS.items():
        sent = requests(options.n, terms)
        with tempfile.TemporaryDirectory() as folder:
            run = Run(Path(folder) / "data", batch=options.batch, durability=options.durability)
            if any(shares):  # a worker that was there before has told it
                run.engine.gates.tell([TASK], {TASK: shares}, ())
            t0 = time.perf_counter()
            run.publish(sent)
            t1 = time.perf_counter()
            count = max(1, int(options.n * share))
            published_ms, run.longest_s = run.longest_s * 1e3, 0.0
            t2 = time.perf_counter()
            handed = run.start_worker(shares)
            run.work(handed, count, seconds_on=shares.pace_s or 0.0)
            t3 = time.perf_counter()
            print(
                f"{name:32} publish {(t1 - t0) / options.n * 1e6:6.1f}, longest {published_ms:5.1f}; "
                f"hand out and end {(t3 - t2) / count * 1e6:7.1f}, longest {run.longest_s * 1e3:5.1f}"
            )
            run.store.close()


if __name__ == "__main__":
    main()
