"""What a task costs in the broker's engine and journal, without sockets.

    python benchmarks/engine.py [-n TASKS] [--durability full|normal] [--batch 256] [--profile]

Prints microseconds a task for publishing, handing out and ending, each with its journal writes.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from pathlib import Path

from _engine import Run, requests

from emq_compat.terms import Shares


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=20_000)
    parser.add_argument("--durability", default="full")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    sent = requests(options.n)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "data", batch=options.batch, durability=options.durability)
        profile = cProfile.Profile()
        if options.profile:
            profile.enable()
        t0 = time.perf_counter()
        run.publish(sent)
        t1 = time.perf_counter()
        run.work(run.start_worker(Shares()), options.n)
        t2 = time.perf_counter()
        profile.disable()
        print(
            f"publish {(t1 - t0) / options.n * 1e6:.1f} us, "
            f"hand out and end {(t2 - t1) / options.n * 1e6:.1f} us a task"
        )
        if options.profile:
            pstats.Stats(profile).sort_stats("tottime").print_stats(22)
        run.store.close()


if __name__ == "__main__":
    main()
