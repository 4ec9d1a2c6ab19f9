"""Workflows: a wide chord, a long chain, nested chords; beside genuine Celery on Redis in the same run.

usage: canvases.py [-n N] [-l N] [-w N] [-r ROUNDS] [--only NAME]... [--celery PYTHON]

The shim over emq:// (durability full), and genuine Celery over Redis (which stores nothing on disk), run the
same tasks in a prefork worker of two children:

    chord   a chord with N headers (-n)
    chain   a chain of N links (-l)
    nested  a chord of W chords of W chords of W tasks (-w): three levels, W³ leaves

PYTHON is the interpreter of an environment that has celery[redis]; without it that of `make test`
(.celery-venv) is taken. For each workflow the table has the medians of the rounds, in which the two take
turns, in seconds: ``build``, making the signatures; ``run``, from ``apply_async()`` to the last result in
hand, which is checked; and ``cpu``, what broker, worker and client used of the processors in both.
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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from _site import free_ports, offer_celery, running

TASKS = """
import os
if os.environ["WHICH"] == "emq":
    from emq_compat.celery_shim import Celery, chain, chord
else:
    from celery import Celery, chain, chord

app = Celery("bench_tasks", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
SIZE = int(os.environ.get("SIZE", "0"))


@app.task
def one(n):
    return 1


@app.task
def add(x, y):
    return x + y


@app.task
def total(values):
    return sum(values)


def wide():
    return SIZE, chord([one.s(i) for i in range(SIZE)], total.s())


def long():
    return SIZE, chain(add.s(0, 1), *[add.s(1) for _ in range(SIZE - 1)])


def nested(levels=3):
    made = [one.s(i) if levels == 1 else nested(levels - 1)[1] for i in range(SIZE)]
    return SIZE**levels, chord(made, total.s())
"""

DRIVER = """
import json, sys, time
import bench_tasks

assert 3 == bench_tasks.total.delay([1, 2]).get(timeout=60)
began, used = time.perf_counter(), time.process_time()
expected, canvas = getattr(bench_tasks, sys.argv[1])()
built = time.perf_counter()
assert expected == canvas.apply_async().get(timeout=170)
ended = time.perf_counter()
print(json.dumps({"build": built - began, "run": ended - built, "cpu": time.process_time() - used}))
"""

#: Workflow → the function that makes it.
KINDS = {"chord": "wide", "chain": "long", "nested": "nested"}
FIGURES = ("build", "run", "cpu")


def cpu_s(pids: list[int]) -> float:
    """Return what the processes, and the children they have now, have used of the processors."""
    total, ticks = 0, os.sysconf("SC_CLK_TCK")
    parents: dict[int, list[int]] = {}
    used: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        pid = int(stat.parent.name)
        parents.setdefault(int(fields[1]), []).append(pid)
        used[pid] = int(fields[11]) + int(fields[12])
    while pids:
        pid, *pids = pids
        total += used.get(pid, 0)
        pids += parents.get(pid, [])
    return total / ticks


def measured(python: str, env: dict[str, str], cwd: Path, kind: str, pids: list[int]) -> dict[str, float]:
    """Return what the driver printed, with the CPU time of the servers added."""
    before = cpu_s(pids)
    run = subprocess.run(
        [python, "driver.py", KINDS[kind]], env=env, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    found["cpu"] += cpu_s(pids) - before
    return found


@contextmanager
def ours(folder: Path) -> Iterator[tuple[str, dict[str, str], list[int]]]:
    """Have our broker and worker run; gives the client's python and environment, and the servers' pids."""
    front, back, admin = free_ports(3)
    env = {**os.environ, "WHICH": "emq", "BROKER": f"emq://127.0.0.1:{front}?worker_port={back}"}
    emq = str(Path(sys.executable).with_name("emq-compat"))
    ports = {"--frontend": front, "--backend": back, "--admin": admin}
    sockets = [part for name, port in ports.items() for part in (name, f"tcp://127.0.0.1:{port}")]
    worker = [emq, "worker", "-A", "bench_tasks", "-c", "2", "-l", "warning"]
    with ExitStack() as stack:
        data = stack.enter_context(tempfile.TemporaryDirectory(dir=folder))
        broker = stack.enter_context(running([emq, "broker", "--data", data, *sockets], folder, env))
        process = stack.enter_context(running(worker, folder, env))
        yield sys.executable, env, [broker.pid, process.pid]


@contextmanager
def theirs(python: str, folder: Path) -> Iterator[tuple[str, dict[str, str], list[int]]]:
    """Have Redis and Celery's worker run; gives what ``ours`` gives."""
    [port] = free_ports(1)
    env = {**os.environ, "WHICH": "celery", "BROKER": f"redis://127.0.0.1:{port}/0"}
    server = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    worker = [python, "-m", "celery", "-A", "bench_tasks", "worker", "-c", "2", "-l", "warning"]
    with ExitStack() as stack:
        redis = stack.enter_context(running(server, folder, env))
        process = stack.enter_context(running(worker, folder, env))
        yield python, env, [redis.pid, process.pid]


def main() -> None:
    """Run both, in turns, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=2_000, help="headers of the chord")
    parser.add_argument("-l", type=int, default=300, help="links of the chain")
    parser.add_argument("-w", type=int, default=6, help="members on each level of the nested chords")
    parser.add_argument("-r", "--rounds", type=int, default=1)
    parser.add_argument("--only", action="append", choices=KINDS, help="this workflow; may be repeated")
    offer_celery(parser)
    options = parser.parse_args()
    python = Path(options.celery or Path(__file__).parents[1] / ".celery-venv" / "bin" / "python").absolute()
    compare = python.exists() and shutil.which("redis-server") is not None
    if not compare:
        print("emq-compat alone: redis-server, or --celery PYTHON, is missing")
    sizes = {"chord": options.n, "chain": options.l, "nested": options.w}
    print(f"{'':<16}{'':<12}" + "".join(f"{name + ', s':>12}" for name in FIGURES))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bench_tasks.py").write_text(TASKS)
        (folder / "driver.py").write_text(DRIVER)
        for kind in options.only or KINDS:
            rows: dict[str, list[dict[str, float]]] = {}
            for _ in range(options.rounds):
                for who in ("emq-compat", "celery")[: 1 + compare]:
                    serving = ours(folder) if who == "emq-compat" else theirs(str(python), folder)
                    with serving as (interpreter, env, pids):
                        env["SIZE"] = str(sizes[kind])
                        rows.setdefault(who, []).append(measured(interpreter, env, folder, kind, pids))
            show(f"{kind}, {sizes[kind]}", rows)


def show(title: str, rows: dict[str, list[dict[str, float]]]) -> None:
    """Print the lines of one workflow."""
    medians = {
        who: {figure: statistics.median(row[figure] for row in found) for figure in FIGURES}
        for who, found in rows.items()
    }
    for who, row in medians.items():
        print(f"{title:<16}{who:<12}" + "".join(f"{row[figure]:>12.3f}" for figure in FIGURES), flush=True)
    if "celery" in medians:
        ratios = [medians["celery"][figure] / medians["emq-compat"][figure] for figure in FIGURES]
        print(f"{'':<16}{'celery / us':<12}" + "".join(f"{ratio:>12.1f}" for ratio in ratios), flush=True)


if __name__ == "__main__":
    main()
