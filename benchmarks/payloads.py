"""Large messages from end to end: MB/s, CPU time for each MB, and memory before and after (Linux).

    python benchmarks/payloads.py [--mb 1 20] [--total 100] [--durability full|normal] [--celery PYTHON]

For each size, ``--total`` MB of messages are published one by one, each confirmed (so in the journal), run
in a worker of two children, and their results fetched: once of a task that answers with a number, once of
one that sends what it got back as its result. MB/s are those of the arguments, from the first publish to
the last result in hand. Beside them: MB/s of writing as much to the same disk, piece by piece, each
fsync'd; and MB of broker and worker before and a few seconds after. With ``--celery PYTHON``, an
interpreter that has celery[redis] (and redis-server on the PATH), Celery on Redis does the same. The
promise is 80 MB/s.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from _site import Cost, Site, offer_celery, ours, pss_mb, running, theirs

DRIVER = """
import json, sys, time
from bench_tasks import echo, length

assert 1 == length.delay("x").get(timeout=30)
print(flush=True)
for line in sys.stdin:
    which, size, count = json.loads(line)
    task = {"in": length, "in and back": echo}[which]
    value = "x" * size
    cpu, began = time.process_time(), time.perf_counter()
    asked = [task.delay(value) for _ in range(count)]
    confirmed = time.perf_counter() - began
    for one in asked:
        got = one.get(timeout=120)
        assert got == (value if task is echo else size)
        one.forget()
    print(json.dumps([time.perf_counter() - began, confirmed, time.process_time() - cpu]), flush=True)
"""


def disk_mb_per_s(size: int, count: int) -> float:
    """MB/s of writing so many pieces to a file, each fsync'd."""
    piece = os.urandom(size)
    with tempfile.TemporaryFile() as file:
        began = time.perf_counter()
        for _ in range(count):
            os.write(file.fileno(), piece)
            os.fdatasync(file.fileno())
        return size * count / 1e6 / (time.perf_counter() - began)


def memory(site: Site, worker: int) -> tuple[float, float]:
    """MB of broker and worker."""
    return pss_mb(site.broker.pid), pss_mb(worker)


def measure(site: Site, sizes: list[float], total: float, rest_s: float, who: str) -> None:
    """Print a line for each size and way."""
    with running(site.worker, site.folder, site.env) as worker:
        driver = subprocess.Popen(
            [site.python, "-c", DRIVER], env=site.env, cwd=site.folder, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert driver.stdin is not None
        assert driver.stdout is not None
        try:
            driver.stdout.readline()
            before = memory(site, worker.pid)
            pids = {"broker": site.broker.pid, "worker": worker.pid}
            for mb in sizes:
                size, count = int(mb * 1e6), max(2, round(total / mb))
                disk = disk_mb_per_s(size, count)
                for which in ("in", "in and back"):
                    costs = {name: Cost.of(pid) for name, pid in pids.items()}
                    driver.stdin.write(json.dumps([which, size, count]) + "\n")
                    driver.stdin.flush()
                    took, confirmed, cpu = json.loads(driver.stdout.readline())
                    all_mb = size * count / 1e6
                    used = {name: Cost.of(pid).since(costs[name]).cpu_s for name, pid in pids.items()}
                    print(
                        f"{who:<11} {mb:5g} MB {which:<12} {all_mb / took:7.1f} MB/s  "
                        f"(published {all_mb / confirmed:7.1f}; disk {disk:6.1f})  CPU ms/MB: "
                        f"client {1e3 * cpu / all_mb:5.1f}, "
                        + ", ".join(f"{name} {1e3 * s / all_mb:5.1f}" for name, s in used.items()),
                        flush=True,
                    )
            time.sleep(rest_s)
            after = memory(site, worker.pid)
            for name, was, now in zip(pids, before, after, strict=True):
                print(f"{who:<11} memory of the {name}: {was:.1f} MB before, {now:.1f} MB after")
            journal = sum(file.stat().st_size for file in Path(site.folder).rglob("*") if file.is_file())
            print(f"{who:<11} files {journal / 1e6:.1f} MB")
        finally:
            driver.kill()
            driver.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mb", type=float, nargs="+", default=[1.0, 20.0])
    parser.add_argument("--total", type=float, default=100.0)
    parser.add_argument("--rest", type=float, default=6.0, help="seconds until memory is looked at again")
    parser.add_argument("--durability", default="full", choices=["full", "normal"])
    offer_celery(parser)
    options = parser.parse_args()
    with ours(options.durability) as site:
        measure(site, options.mb, options.total, options.rest, "emq-compat")
    if options.celery:
        with theirs(options.celery) as site:
            measure(site, options.mb, options.total, options.rest, "celery")


if __name__ == "__main__":
    main()
