"""Run a mayhem and print its verdict; the exit status is 1 where a promise didn't hold."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.broker_process import Broker
from tests.faults.mayhem.checker import Verdict, judge_folder
from tests.faults.mayhem.fleet import LARGE, Fleet, Size, up
from tests.faults.mayhem.villain import TARGETS, Villain
from tests.processes import Procs, unused_port

__all__ = ["run"]


def run(
    procs: Procs,
    folder: Path,
    *,
    rounds: int,
    seed: int,
    size: Size = LARGE,
    pace: float = 1.0,
    targets: Sequence[str] = TARGETS,
    drain_s: float = 120.0,
) -> Verdict:
    """Let a fleet work while ``rounds`` deeds are done to it, wait for all that it was given, and judge.

    Args:
        pace, targets: the villain's.
        drain_s: within so many seconds all must come to its end.
    """
    broker = Broker(procs, unused_port, folder / "data")
    fleet = Fleet(procs, broker, folder / "ledgers", seed, size)
    try:
        up(fleet)
        villain = Villain(fleet, rounds, seed, pace=pace, targets=targets)
        while villain.turn(time.monotonic()):
            fleet.tend()
            time.sleep(0.01)
        fleet.drain(drain_s)
    finally:
        fleet.kill_all()
        broker.client.close()
    return judge_folder(fleet.folder)


def main() -> int:
    """Run by hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="so many deeds [200]")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of everything [random]")
    parser.add_argument("--pace", type=float, default=1.0, help="of the pauses [1: 2 s on average]")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS, help="who suffers [all]")
    parser.add_argument("--keep", type=Path, help="a folder for ledgers and logs")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        (folder / "procs").mkdir(parents=True)
        procs = Procs(folder / "procs")
        try:
            verdict = run(
                procs, folder, rounds=given.rounds, seed=given.seed, pace=given.pace, targets=given.targets
            )
        finally:
            procs.close()
    print(verdict)
    return 1 if verdict.faults() else 0


if __name__ == "__main__":
    sys.exit(main())
