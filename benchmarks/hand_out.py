"""What many workers and queues cost the broker's engine and journal, without sockets.

    python benchmarks/hand_out.py [-n TASKS] [--cases 1x1,50x100] [--profile]

Each case is WORKERSxQUEUES: workers of one slot that listen on all of the queues. Printed are microseconds of
CPU for each message, best of five rounds: published, handed out and ended by itself, in two turns, with the
queues in turn; and what a turn takes in which nothing comes but time.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from dataclasses import replace

from _engine import TASK, Run, requests

from emq_compat.protocol.commands import Capabilities, Inform, Ready, Request

ROUNDS = 5
EMPTY_TURNS = 500


class Fleet:
    """A broker whose journal is in memory, and workers that have asked for work."""

    def __init__(self, workers: int, queues: int) -> None:
        self._run = Run(None, batch=1, durability="normal")
        self._queues = [f"q{i}" for i in range(queues)]
        about = Capabilities(slots=1, tasks={TASK: ""}, shares={})
        inform = Inform(msgid="i", queues=tuple((0, queue) for queue in self._queues), capabilities=about)
        for i in range(workers):
            self._run.turn([], [inform, Ready(msgid="r", count=33)], b"w.%d" % i)

    def one_by_one(self, sent: list[Request]) -> None:
        """Publish each by itself, and end it."""
        run, queues = self._run, self._queues
        for i, request in enumerate(sent):
            [handed] = run.turn([replace(request, queue=queues[i % len(queues)])], [])
            run.end([handed])

    def empty(self) -> None:
        """Do turns in which nothing comes, and look when the next is due."""
        for _ in range(EMPTY_TURNS):
            self._run.turn([], [])
            self._run.engine.next_deadline(self._run.now())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=1000, help="messages in a round")
    parser.add_argument("--cases", default="1x1,50x1,1x100,50x100,200x1000")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    for case in options.cases.split(","):
        workers, queues = map(int, case.split("x"))
        fleet = Fleet(workers, queues)
        fleet.one_by_one(requests(queues))
        profile = cProfile.Profile()
        best, empty = float("inf"), float("inf")
        for _ in range(ROUNDS):
            sent = requests(options.n)
            if options.profile:
                profile.enable()
            began = time.process_time()
            fleet.one_by_one(sent)
            best = min(best, time.process_time() - began)
            profile.disable()
            began = time.process_time()
            fleet.empty()
            empty = min(empty, time.process_time() - began)
        print(
            f"{workers} workers, {queues} queues: {best / options.n * 1e6:.1f} us a message, "
            f"{empty / EMPTY_TURNS * 1e6:.1f} us an empty turn",
            flush=True,
        )
        if options.profile:
            pstats.Stats(profile).sort_stats("tottime").print_stats(22)


if __name__ == "__main__":
    main()
