"""A broker, workers and a publisher of their own for each fault test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.broker_process import Broker
from tests.faults import faulty_tasks
from tests.processes import Proc, Procs

REPOSITORY = Path(__file__).parents[2]


class Plant:
    """What a fault test kills parts of; ``runs`` is what the tasks themselves wrote to disk."""

    def __init__(self, procs: Procs, broker: Broker, folder: Path) -> None:
        self.procs = procs
        self.broker = broker
        self.file = folder / "runs"
        self.file.touch()
        self.worker: Proc | None = None
        self._workers = 0

    def start_worker(self, *options: str) -> Proc:
        """Start a worker of the tasks, and wait until it takes work."""
        self._workers += 1
        self.worker = self.procs.emq(
            "worker", "-A", "tests.faults.faulty_tasks", "-b", self.broker.url, "-c", "2",
            "-n", f"w{self._workers}@%h", *options,
            cwd=REPOSITORY, env={"RUNS": str(self.file)}, ready="ready",
        )  # fmt: skip
        return self.worker

    def runs(self) -> Counter[str]:
        """How often each task ran."""
        return Counter(self.file.read_text().split("\n")[:-1])

    def zygote(self) -> psutil.Process:
        """The process that forks the worker's children: the only direct child of the worker."""
        assert self.worker is not None
        [zygote] = psutil.Process(self.worker.pid).children()
        return zygote

    def forked(self) -> list[psutil.Process]:
        """What the zygote has forked: the children that run tasks, and its twin."""
        return self.zygote().children()


@pytest.fixture
def plant(procs: Procs, broker: Broker, tmp_path: Path) -> Iterator[Plant]:
    faulty_tasks.app.conf.broker_url = broker.url
    yield Plant(procs, broker, tmp_path)
    faulty_tasks.app.close()
