"""How long importing the shim takes, beside genuine Celery with its canvas and results.

usage: import_time.py [--celery PYTHON] [--shim PYTHON] [-r ROUNDS]

PYTHON is the interpreter of an environment with celery (none: the shim alone is measured); the shim's is
this one by default. CPU time of a new interpreter, the middle of rounds in turn: of the import alone, and of
a module that imports workflows and results, too, and declares tasks; beside it that of a program that imports
nothing. The goal is a ratio of at most 0.6.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys

_DECLARE = """
app = Celery("app")

@app.task
def add(x, y):
    return x + y

@shared_task
def mul(x, y):
    return x * y
"""
#: What is measured → the shim's program, Celery's.
PROGRAMS = {
    "import": ("import emq_compat.celery_shim", "import celery, celery.canvas, celery.result; celery.Celery"),
    "declare": (
        "from emq_compat.celery_shim import AsyncResult, Celery, chain, group, shared_task" + _DECLARE,
        "from celery import Celery, chain, group, shared_task\n"
        "from celery.result import AsyncResult" + _DECLARE,
    ),
}


def cpu_s(python: str, code: str) -> float:
    """Return the CPU time of a program."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([python, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--celery")
    parser.add_argument("--shim", default=sys.executable)
    parser.add_argument("-r", "--rounds", type=int, default=11)
    args = parser.parse_args()
    for name, (shim, celery) in PROGRAMS.items():
        programs = [(args.shim, "pass"), (args.shim, shim)]
        if args.celery:
            programs.append((args.celery, celery))
        rounds = [[cpu_s(*program) for program in programs] for _ in range(args.rounds)]
        empty, ours, *theirs = (1000 * statistics.median(times) for times in zip(*rounds, strict=True))
        print(f"{name:8} shim {ours:4.0f} ms (an empty program {empty:.0f} ms)", end="")
        print(*(f"; celery {other:.0f} ms, ratio {ours / other:.2f}" for other in theirs))


if __name__ == "__main__":
    main()
