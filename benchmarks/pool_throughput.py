"""What a pool costs: assignments a second whose work returns at once, in each pool.

usage: pool_throughput.py [-n ASSIGNMENTS] [-c CONCURRENCY] [-r ROUNDS] [--size BYTES] [--long] [POOL…]

One process drives the pool as the job manager's loop does: it submits what is taken, polls, and steps. With
``reserve`` the pool may be given more than runs at once (promise 2 of the design: up to 32 a child, for tasks
known to be short); without, each result is awaited before its slot is given the next assignment. The parent's
CPU time an assignment bounds what any number of children can get. Last come the milliseconds from a child's
death to its replacement's first result. ``--long``: more of everything.
"""

from __future__ import annotations

import argparse
import os
import platform
import select
import signal
import statistics
import time
from collections.abc import Sequence

from emq_compat.message import Delivery, Headers, Reply
from emq_compat.pool.base import Assignment, Finished, Lost, Pool, PoolEvent, PoolOptions, Report, Updated
from emq_compat.pool.factory import make_pool

REPLY = Reply(state="SUCCESS", body=b'{"value": 5}')
POOLS = ("prefork", "threads", "solo", "asyncio")


def work(delivery: Delivery, report: Report) -> Reply:
    """Nothing; but b"wait" waits to be killed."""
    if delivery.payload == b"wait":
        report("STARTED", b"")
        time.sleep(60)
    return REPLY


def assignment(number: int, payload: bytes) -> Assignment:
    """One of a task's usual headers."""
    headers = Headers(attempt=1, task_id=f"{number:036d}", task="bench.tasks.add")
    return Assignment(delivery=Delivery(msgid=f"{number:036d}", queue="q", headers=headers, payload=payload))


class Loop:
    """Drives a pool."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._poller = select.poll()
        for fd in pool.fds():
            self._poller.register(fd, select.POLLIN)

    def step(self) -> list[PoolEvent]:
        """One round."""
        deadline, timeout_s = self.pool.next_deadline(), 1.0
        if deadline is not None:
            timeout_s = min(timeout_s, max(0.0, deadline - time.monotonic()))
        readable = [fd for fd, _ in self._poller.poll(1000 * timeout_s)]
        return self.pool.step(readable, time.monotonic())

    def until_idle(self) -> None:
        """Wait for every slot."""
        while self.pool.idle() < self.pool.concurrency:
            self.step()

    def run(self, assignments: Sequence[Assignment], *, reserve: bool) -> tuple[float, float]:
        """Run them all; return (seconds, seconds of this process's CPU)."""
        submit, step = self.pool.submit, self.step
        given = done = 0
        began, cpu = time.perf_counter(), time.process_time()
        while done < len(assignments):
            while given < len(assignments) and submit(assignments[given], reserve=reserve):
                given += 1
            done += sum(type(event) is Finished for event in step())
        return time.perf_counter() - began, time.process_time() - cpu

    def replace(self) -> float:
        """Kill a busy child; return the seconds until its replacement has finished something."""
        self.until_idle()
        self.pool.submit(assignment(0, b"wait"))
        while not any(type(event) is Updated for event in self.step()):
            pass
        began = time.perf_counter()
        os.kill(next(iter(self.pool.running().values()))[0], signal.SIGKILL)
        while not any(type(event) is Lost for event in self.step()):
            pass
        while not self.pool.submit(assignment(1, b"")):
            self.step()
        while not any(type(event) is Finished for event in self.step()):
            pass
        return time.perf_counter() - began


def bench(name: str, options: argparse.Namespace) -> None:
    """Print one pool's figures."""
    pool = make_pool(name, PoolOptions(concurrency=options.c), work)
    assignments = [assignment(i, b"p" * options.size) for i in range(options.n)]
    pool.start()

    def loop() -> int:
        driver = Loop(pool)
        driver.until_idle()
        for reserve in (True, False):
            if reserve and name in ("solo", "asyncio"):
                continue  # it holds nothing back from other workers
            rounds = [driver.run(assignments, reserve=reserve) for _ in range(options.r)]
            rates = sorted(options.n / seconds for seconds, _ in rounds)
            cpu = statistics.median(cpu for _, cpu in rounds) / options.n * 1e6
            print(
                f"{name:<8} {'reserve' if reserve else 'no reserve':<11}"
                f"{statistics.median(rates):>9,.0f}/s ({rates[0]:,.0f} to {rates[-1]:,.0f})   "
                f"{cpu:5.1f} us of the parent's CPU each"
            )
        if name == "prefork":
            took = sorted(1000 * driver.replace() for _ in range(5 * options.r))
            print(f"{name:<8} replaced   {statistics.median(took):9.1f} ms ({took[0]:.1f} to {took[-1]:.1f})")
        pool.stop(5)
        return 0

    pool.run_loop(loop)


def main() -> None:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, help="assignments a round (20,000; long: 200,000)")
    parser.add_argument("-c", type=int, default=2, help="concurrency (2)")
    parser.add_argument("-r", type=int, help="rounds (3; long: 5)")
    parser.add_argument("--size", type=int, default=150, help="bytes of a payload (150)")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("pools", nargs="*", metavar="POOL", help=", ".join(POOLS))
    options = parser.parse_args()
    options.n = options.n or (200_000 if options.long else 20_000)
    options.r = options.r or (5 if options.long else 3)
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, -c {options.c}, "
        f"payloads of {options.size} bytes"
    )
    for name in options.pools or POOLS:
        bench(name, options)


if __name__ == "__main__":
    main()
