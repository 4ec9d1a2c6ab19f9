"""What publishing costs: one by one and in bulk.

usage: publish.py [-n N] [URL]      without URL: against the tests' fake broker, in a process of its own; it
                                    stores nothing: what is left is the client's cost and the wire's
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from emq_compat.client import Client
from emq_compat.message import Headers, Job, Publish, new_id

ROOT = Path(__file__).resolve().parent.parent


def message() -> Publish:
    celery = {"id": "x" * 36, "task": "bench.tasks.add"}
    job = Job(path="bench.tasks", callable="add", args=[2, 3], celery=celery)
    headers = Headers(guarantee=True, task_id=new_id(), task="bench.tasks.add")
    return Publish(queue="bench", headers=headers, payload=job.encode())


def measured(what: str, count: int, run: Callable[[], object]) -> None:
    wall, process, thread = time.perf_counter(), time.process_time(), time.thread_time()
    run()
    wall, process = time.perf_counter() - wall, time.process_time() - process
    thread = time.thread_time() - thread
    print(
        f"{what:<12} {count / wall:>9,.0f}/s   {wall / count * 1e6:7.1f} us each   "
        f"client CPU {process / count * 1e6:6.1f} us, of which its thread {thread / count * 1e6:6.1f} us"
    )


def bench(url: str, count: int) -> None:
    with Client(url) as client:
        client.publish(message())
        singles = [message() for _ in range(count // 10)]
        times: list[float] = []

        def one_by_one() -> None:
            for single in singles:
                begun = time.perf_counter()
                client.publish(single)
                times.append(time.perf_counter() - begun)

        measured("one by one", len(singles), one_by_one)
        cuts = statistics.quantiles(times, n=100)
        print(f"{'':<12} p50 {cuts[49] * 1e6:.0f} us, p99 {cuts[98] * 1e6:.0f} us")
        many = [message() for _ in range(count)]
        measured("in bulk", count, lambda: client.publish_all(many))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=50_000, help="messages in bulk; a tenth of it one by one")
    parser.add_argument("url", nargs="?")
    options = parser.parse_args()
    if options.url:
        bench(options.url, options.n)
        return
    with tempfile.TemporaryDirectory() as folder:
        served = [f"ipc://{folder}/client.sock", f"{folder}/taken", "--ack-batch", "256"]
        argv = [sys.executable, "-m", "tests.client.fake_broker", *served]
        with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE) as fake:
            assert fake.stdout is not None
            fake.stdout.readline()
            try:
                bench(f"emq+ipc://{folder}", options.n)
            finally:
                fake.terminate()


if __name__ == "__main__":
    main()
