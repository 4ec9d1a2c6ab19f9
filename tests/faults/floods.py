"""A broker with a worker and a normal client, and beside them clients that misbehave (unruly.py)."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil

from emq_compat.errors import EmqError
from tests.faults import faulty_tasks
from tests.faults.conftest import REPOSITORY, Plant
from tests.processes import Proc, wait_until


@dataclass(kw_only=True)
class Served:
    """What a normal client was given meanwhile.

    Attributes:
        confirmed: the numbers of the tasks whose publish returned.
        took_s: seconds from each publish to its result.
        errors: publishes that raised, and results that were not there in time.
    """

    confirmed: list[int] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Tasks a second, one after the other, each with its result."""
        return len(self.took_s) / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        if not self.took_s:
            return f"none; {self.errors[:3]}"
        took = sorted(self.took_s)
        return (
            f"{self.rate:.0f}/s, median {1000 * statistics.median(took):.1f} ms, "
            f"p99 {1000 * took[int(len(took) * 0.99)]:.0f} ms, most {1000 * took[-1]:.0f} ms, "
            f"errors {len(self.errors)} {self.errors[:2]}"
        )


class Customer:
    """A normal client in a thread: publishes a task, waits for its result, and so on."""

    def __init__(self, first: int = 0, timeout_s: float = 30.0) -> None:
        self.next = first
        self._timeout_s = timeout_s

    def serve(self, seconds: float) -> Served:
        """Go on for so long."""
        served = Served()
        began = time.monotonic()
        while time.monotonic() < began + seconds:
            n, asked = self.next, time.monotonic()
            self.next += 1
            try:
                result = faulty_tasks.early.delay(n, 0)
                served.confirmed.append(n)
                assert n == result.get(timeout=self._timeout_s)
            except (EmqError, TimeoutError, AssertionError) as exc:
                served.errors.append(repr(exc))
            else:
                served.took_s.append(time.monotonic() - asked)
        served.seconds = time.monotonic() - began
        return served


class FloodPlant:
    """Measures what a normal client gets, and the broker's memory, with and without the others."""

    def __init__(self, plant: Plant, *options: str) -> None:
        self.plant = plant
        plant.broker.start(*options)
        plant.start_worker()
        self.customer = Customer()
        self.served: list[Served] = []
        self.unruly: list[Proc] = []
        self.most_mb = 0.0

    @property
    def broker(self) -> psutil.Process:
        """The broker."""
        assert self.plant.broker.proc is not None
        return psutil.Process(self.plant.broker.proc.pid)

    def memory_mb(self) -> float:
        """What the broker has resident."""
        return float(self.broker.memory_info().rss / 2**20)

    def start(self, kind: str, *arguments: str, socket: str = "frontend", ready: str | None = None) -> Proc:
        """Let somebody loose."""
        proc = self.plant.procs.python(
            "-m", "tests.faults.unruly", kind, str(self.plant.broker.ports[socket]), *arguments,
            name=kind, cwd=REPOSITORY, ready=ready, timeout_s=120,
        )  # fmt: skip
        self.unruly.append(proc)
        return proc

    def end(self) -> None:
        """End those that were let loose."""
        for proc in self.unruly:
            proc.kill()
        self.unruly.clear()

    def serve(self, seconds: float) -> Served:
        """Have the normal client go on for so long; notes the broker's memory meanwhile."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.1):
                self.most_mb = max(self.most_mb, self.memory_mb())

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            served = self.customer.serve(seconds)
        finally:
            done.set()
            watcher.join()
        self.served.append(served)
        return served

    def lost(self) -> list[int]:
        """Confirmed tasks that haven't run, in the end."""
        runs = self.plant.runs
        confirmed = [n for served in self.served for n in served.confirmed]
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: all(f"early {n}" in runs() for n in confirmed[-50:]), 30)
        ran = runs()
        return [n for n in confirmed if not ran[f"early {n}"]]

    def doubled(self) -> list[str]:
        """Tasks that have run more than once: they are acknowledged early."""
        return [line for line, count in self.plant.runs().items() if line.startswith("early") and count > 1]

    def alive(self) -> bool:
        """Whether broker and worker live."""
        procs: Sequence[Proc | None] = (self.plant.broker.proc, self.plant.worker)
        return all(proc is not None and proc.alive() for proc in procs)
