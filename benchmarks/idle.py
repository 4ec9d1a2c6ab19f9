"""What a broker and a worker cost that have nothing to do: % of a core, and wake-ups a second (Linux).

    python benchmarks/idle.py [-s 30] [--clients 0] [--celery PYTHON]

A worker of two children has run one task, and then nothing happens for ``-s`` seconds, but heartbeats every
few seconds. ``--clients``: so many connected clients idle beside it. With ``--celery PYTHON``, an interpreter
that has celery[redis] (and redis-server on the PATH), Celery's worker and Redis are measured after it.
The promise is: broker and worker together below 0.5 % of a core, and no polling.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from _site import Cost, Site, offer_celery, ours, running, theirs

from emq_compat.client import Client

WARM = "from bench_tasks import echo; assert 5 == echo.delay(5).get(timeout=30)"


@contextmanager
def busy_once(site: Site) -> Iterator[int]:
    """The worker, by its pid, once it has run a task."""
    with running(site.worker, site.folder, site.env) as worker:
        subprocess.run([site.python, "-c", WARM], env=site.env, cwd=site.folder, check=True)
        yield worker.pid


def measure(site: Site, seconds: float, who: str) -> None:
    """Print a line for the broker, one for the worker, and their sum."""
    with busy_once(site) as worker:
        time.sleep(min(3.0, seconds))  # what a start still has to do
        pids = {"broker": site.broker.pid, "worker": worker}
        before = {name: Cost.of(pid) for name, pid in pids.items()}
        began = time.perf_counter()
        time.sleep(seconds)
        took = time.perf_counter() - began
        used = {name: Cost.of(pid).since(before[name]) for name, pid in pids.items()}
        used["together"] = Cost(sum(u.cpu_s for u in used.values()), sum(u.wakes for u in used.values()))
        for name, cost in used.items():
            print(
                f"{who:<11} {name:<9} {100 * cost.cpu_s / took:7.3f} % of a core "
                f"{cost.wakes / took:7.1f} wake-ups/s"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-s", "--seconds", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=0)
    offer_celery(parser)
    options = parser.parse_args()
    with ExitStack() as stack:
        site = stack.enter_context(ours())
        for _ in range(options.clients):
            client = stack.enter_context(Client(site.env["BENCH_BROKER"], timeout_s=30))
            client.ask("stats")
        measure(site, options.seconds, "emq-compat")
    if options.celery:
        with theirs(options.celery) as site:
            measure(site, options.seconds, "celery")


if __name__ == "__main__":
    main()
