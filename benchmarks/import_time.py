"""How long importing the shim takes, beside genuine Celery with its canvas and results.

usage: import_time.py --celery PYTHON [--shim PYTHON] [-r ROUNDS]

PYTHON is the interpreter of an environment with celery; the shim's is this one by default. CPU time of a new
interpreter, the least of the rounds, and the same of one that imports nothing.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys

SHIM = "import emq_compat.celery_shim"
CELERY = "import celery, celery.canvas, celery.result; celery.Celery"


def cpu_s(python: str, code: str, rounds: int) -> float:
    """Return the CPU time of the quickest of some runs."""
    times = []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([python, "-c", code], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def main() -> None:
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--celery", required=True)
    parser.add_argument("--shim", default=sys.executable)
    parser.add_argument("-r", "--rounds", type=int, default=9)
    args = parser.parse_args()
    found = {}
    for name, python, code in (("shim", args.shim, SHIM), ("celery", args.celery, CELERY)):
        found[name] = cpu_s(python, code, args.rounds)
        empty = cpu_s(python, "pass", args.rounds)
        print(f"{name:7} {1000 * found[name]:6.0f} ms, an empty program {1000 * empty:4.0f} ms")
    print(f"ratio   {found['shim'] / found['celery']:6.2f}")


if __name__ == "__main__":
    main()
