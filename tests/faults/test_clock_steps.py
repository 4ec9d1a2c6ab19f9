"""The broker's clock put on and back by an hour: what waits for a time, what expires, who counts as alive."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from emq_compat.client import Client
from tests.faults.clock_file import ClockFile
from tests.hand_worker import HandWorker, message
from tests.processes import Proc, Procs, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.faults]

REPOSITORY = Path(__file__).parents[2]
HOUR = 3600.0


class Clocked:
    """A broker whose clock a test puts."""

    def __init__(self, procs: Procs, ports: list[int], folder: Path) -> None:
        self._procs, self._ports, self._folder = procs, ports, folder
        self.clock = ClockFile(folder / "clock")
        self.clock.put(0)
        self.url = f"emq://127.0.0.1:{ports[0]}?worker_port={ports[1]}"
        self.worker_endpoint = f"tcp://127.0.0.1:{ports[1]}"
        self.proc = self.start()
        self.client = Client(self.url)

    def start(self) -> Proc:
        sockets = [f"tcp://127.0.0.1:{port}" for port in self._ports]
        return self._procs.start(
            *(sys.executable, "-m", "tests.faults.clocked_broker"),
            *(str(self.clock.path), *sockets, str(self._folder / "data")),
            name="broker",
            cwd=REPOSITORY,
            ready="serving",
        )

    def put(self, ahead_s: float) -> None:
        """Put its clock, and wake it."""
        self.clock.put(ahead_s)
        self.client.ask("stats")

    def publish(self, **headers: object) -> str:
        """Publish a task; returns its id."""
        task = message(**headers)
        self.client.publish(task)
        return task.headers.task_id

    def waiting(self) -> tuple[int, int]:
        """How many wait, and how many wait for their time."""
        [row] = self.client.ask("queues")
        return row["waiting"], row["delayed"]


@pytest.fixture
def clocked(procs: Procs, free_port: Callable[[], int], tmp_path: Path) -> Iterator[Clocked]:
    broker = Clocked(procs, [free_port() for _ in range(3)], tmp_path)
    yield broker
    broker.client.close()


@pytest.fixture
def worker(clocked: Clocked) -> Iterator[HandWorker]:
    with zmq.Context() as context:
        made = HandWorker(context, clocked.worker_endpoint, "q")
        yield made
        made.wire.close()


def test_an_eta_waits_for_the_clock(clocked: Clocked) -> None:
    """Put on, a clock brings what is due by it; put back, the rest waits longer; nothing comes twice."""
    now = clocked.clock.unix()
    for after in (HOUR / 2, 3 * HOUR):
        clocked.publish(eta=now + after)
    assert (0, 2) == clocked.waiting()
    clocked.put(HOUR)
    wait_until(lambda: clocked.waiting() == (1, 1), 10, what="the first of two")
    clocked.put(-HOUR)
    soon = clocked.publish(eta=clocked.clock.unix() + 1)
    assert soon
    assert (1, 2) == clocked.waiting()
    wait_until(
        lambda: clocked.waiting() == (2, 1), 10, what="the one that is due a second later by that clock"
    )
    clocked.proc.kill()
    clocked.clock.put(4 * HOUR)
    clocked.start()
    wait_until(lambda: clocked.waiting() == (3, 0), 10, what="all, after a start")


def test_what_expires_does_so_by_the_clock(clocked: Clocked, worker: HandWorker) -> None:
    """A task whose time has passed by the clock isn't handed out; one that isn't over by it is."""
    now = clocked.clock.unix()
    over, later = clocked.publish(expires=now + HOUR / 2), clocked.publish(expires=now + 3 * HOUR)
    clocked.put(HOUR)
    worker.ready(2)
    [taken] = worker.take(1)
    assert later == taken.headers.task_id
    wait_until(lambda: clocked.client.results([over])[over] is not None, 10, what="the end of what is over")
    result = clocked.client.results([over])[over]
    assert result is not None
    assert "REVOKED" == result.state


def test_workers_live_by_real_time(clocked: Clocked, worker: HandWorker) -> None:
    """A clock that jumps loses no worker, and what it runs is its own; a silent one is lost all the same."""
    task = clocked.publish()
    worker.ready(1)
    [taken] = worker.take(1)
    for ahead in (HOUR, -HOUR, 24 * HOUR, 0):
        clocked.put(ahead)
        began = time.monotonic()
        worker.until(lambda began=began: time.monotonic() - began > 0.5)
        assert 1 == len(clocked.client.ask("workers"))
    worker.succeed(taken)
    wait_until(lambda: clocked.client.results([task])[task] is not None, 10, what="its result")


def test_results_are_kept_by_the_clock(clocked: Clocked, worker: HandWorker) -> None:
    """A result expires when the clock says so; where that was put back results are kept longer."""
    kept, gone = clocked.publish(keep_s=3 * HOUR), clocked.publish(keep_s=HOUR / 2)
    worker.ready(2)
    for taken in worker.take(2):
        worker.succeed(taken)
    results = clocked.client.results
    wait_until(lambda: None not in results([kept, gone]).values(), 10, what="both results")
    clocked.put(-HOUR)
    worker.until(lambda: True)
    assert None not in results([kept, gone]).values()
    clocked.put(HOUR)
    wait_until(lambda: results([gone])[gone] is None, 15, what="the end of one")
    assert results([kept])[kept] is not None
