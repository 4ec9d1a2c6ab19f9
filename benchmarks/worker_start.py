"""How soon a new worker has run its first task, and what its processes weigh after some work (Linux: PSS).

    python benchmarks/worker_start.py [-n 1000] [-r 3] [--celery PYTHON]

A task waits. A worker of two children is started: seconds until its result is in hand. Then it runs ``-n``
more tasks: MB of the worker's processes, what they share counted once. Medians of ``-r`` rounds. With
``--celery PYTHON``, an interpreter that has celery[redis] (and redis-server on the PATH), each round measures
Celery on Redis, too. The promise is: half of Celery's time, and less than its memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time

from _site import Site, offer_celery, ours, pss_mb, running, theirs, until

#: Publishes a task, says so, and tells when its result was there; the other tasks when it is told to.
DRIVER = """
import json, sys, time
from bench_tasks import count, echo

asked = echo.delay(5)
print("published", flush=True)
assert 5 == asked.get(timeout=60)
print(json.dumps(time.time()), flush=True)
for _ in range(int(sys.stdin.readline())):
    count.delay()
"""


def measure(site: Site, count: int) -> tuple[float, float]:
    """Return (seconds to the first result, MB)."""
    driver = subprocess.Popen(
        [site.python, "-c", DRIVER], env=site.env, cwd=site.folder, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert driver.stdout is not None
    assert driver.stdin is not None
    try:
        assert "published\n" == driver.stdout.readline()
        time.sleep(0.3)
        began = time.time()
        with running(site.worker, site.folder, site.env) as worker:
            took = json.loads(driver.stdout.readline()) - began
            driver.stdin.write(f"{count}\n")
            driver.stdin.flush()
            counted = site.folder / "count"
            until(lambda: counted.stat().st_size >= count, 60, "the tasks have run")
            time.sleep(0.2)
            weight = pss_mb(worker.pid)
        assert 0 == driver.wait(30)
        return took, weight
    finally:
        driver.kill()
        driver.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("-r", "--rounds", type=int, default=3)
    offer_celery(parser)
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(options.rounds):
        with ours() as site:
            found.setdefault("emq-compat", []).append(measure(site, options.n))
        if options.celery:
            with theirs(options.celery) as site:
                found.setdefault("celery", []).append(measure(site, options.n))
    medians = {
        who: [statistics.median(kind) for kind in zip(*rows, strict=True)] for who, rows in found.items()
    }
    for who, (start_s, mb) in medians.items():
        print(
            f"{who:<11} start to first result {start_s:6.2f} s   memory after {options.n} tasks {mb:6.1f} MB"
        )
    if options.celery:
        (start_s, mb), (their_start_s, their_mb) = medians["emq-compat"], medians["celery"]
        print(f"ours / celery's        start {start_s / their_start_s:.2f}   memory {mb / their_mb:.2f}")


if __name__ == "__main__":
    main()
