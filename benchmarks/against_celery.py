"""A big chord, and what delay() costs, beside genuine Celery on Redis in the same run.

usage: against_celery.py [-n N] [-r ROUNDS] --celery PYTHON

PYTHON is the interpreter of an environment with celery[redis]; redis-server must be on the PATH. Both run the
same tasks in a prefork worker of two children. The table gives medians: the time from ``chord(header)(body)``
to the body's result in hand with N headers, and the CPU time of the publishing process for one ``delay()``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _site import free_ports, offer_celery, running

TASKS = """
import os
if os.environ["WHICH"] == "emq":
    from emq_compat.celery_shim import Celery, chord
else:
    from celery import Celery, chord

app = Celery("bench_tasks", broker=os.environ["BROKER"], backend=os.environ.get("BACKEND"))


@app.task
def one(n):
    return 1


@app.task
def total(values):
    return sum(values)
"""

WORKER = ("-A", "bench_tasks", "-c", "2", "-l", "warning")
REDIS = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "yes")

DRIVER = """
import json, sys, time
from bench_tasks import chord, one, total

n, publishes = int(sys.argv[1]), int(sys.argv[2])
assert 3 == total.delay([1, 2]).get(timeout=60)
began = time.perf_counter()
assert n == chord([one.s(i) for i in range(n)])(total.s()).get(timeout=600)
took = time.perf_counter() - began
one.delay(0)
cpu, wall = time.process_time(), time.perf_counter()
for i in range(publishes):
    one.delay(i)
cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
us = 1e6 / publishes
print(json.dumps({"chord_s": took, "delay_cpu_us": cpu * us, "delay_us": wall * us}))
"""


def measured(python: str, env: dict[str, str], cwd: Path, count: int) -> dict[str, float]:
    """What the driver printed."""
    run = subprocess.run(
        [python, "driver.py", str(count), "2000"],
        env=env,
        cwd=cwd,
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return found


def ours(folder: Path, count: int) -> dict[str, float]:
    bin_folder = Path(sys.executable).parent
    front, back, admin = free_ports(3)
    ports = {"frontend": front, "backend": back, "admin": admin}
    env = {**os.environ, "WHICH": "emq", "BROKER": f"emq://127.0.0.1:{front}?worker_port={back}"}
    emq = str(bin_folder / "emq-compat")
    sockets = [part for name, port in ports.items() for part in (f"--{name}", f"tcp://127.0.0.1:{port}")]
    with (
        tempfile.TemporaryDirectory(dir=folder) as data,
        running([emq, "broker", "--data", data, *sockets], folder),
        running([emq, "worker", *WORKER], folder, env),
    ):
        return measured(sys.executable, env, folder, count)


def theirs(python: str, folder: Path, count: int) -> dict[str, float]:
    [port] = free_ports(1)
    url = f"redis://127.0.0.1:{port}/0"
    env = {**os.environ, "WHICH": "celery", "BROKER": url, "BACKEND": url}
    with (
        running(["redis-server", "--port", str(port), *REDIS, "--dir", str(folder)], folder),
        running([python, "-m", "celery", *WORKER[:2], "worker", *WORKER[2:]], folder, env),
    ):
        return measured(python, env, folder, count)


def main() -> None:
    """Run both, in turns, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=10_000, help="headers of the chord")
    parser.add_argument("-r", "--rounds", type=int, default=3)
    offer_celery(parser)
    options = parser.parse_args()
    compare = options.celery is not None and shutil.which("redis-server") is not None
    if options.celery is None:
        print("without --celery PYTHON: emq-compat alone")
    rows: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bench_tasks.py").write_text(TASKS)
        (folder / "driver.py").write_text(DRIVER)
        for _ in range(options.rounds):
            began = time.monotonic()
            rows.setdefault("emq-compat", []).append(ours(folder, options.n))
            if compare:
                rows.setdefault("celery", []).append(theirs(options.celery, folder, options.n))
            print(f"a round took {time.monotonic() - began:.0f} s", file=sys.stderr)
    medians = {
        who: {key: statistics.median(row[key] for row in found) for key in found[0]}
        for who, found in rows.items()
    }
    print(f"{'':<12}{f'chord of {options.n}, s':>20}{'delay(), CPU us':>18}{'delay(), us':>14}")
    for who, row in medians.items():
        print(f"{who:<12}{row['chord_s']:>20.2f}{row['delay_cpu_us']:>18.0f}{row['delay_us']:>14.0f}")
    if compare:
        ratio = {key: medians["celery"][key] / medians["emq-compat"][key] for key in medians["celery"]}
        chord, cpu, wall = ratio.values()
        print(f"{'celery / us':<12}{chord:>20.2f}{cpu:>18.2f}{wall:>14.2f}")


if __name__ == "__main__":
    main()
