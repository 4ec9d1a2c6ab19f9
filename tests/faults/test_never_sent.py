"""A hand-out that the journal has, and that was never sent: its broker was killed between the two."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from emq_compat.celery_shim import AsyncResult
from tests.faults import faulty_tasks
from tests.faults.conftest import REPOSITORY, Plant
from tests.processes import Proc, wait_until

pytestmark = pytest.mark.faults

#: More than the worker has children: it is handed some, and gets the rest when it has come back.
TASKS = 4
KINDS = {"early": faulty_tasks.early, "late": faulty_tasks.late}


class Stricken:
    """A plant whose broker, once told to, kills itself after it has stored a hand-out (stricken_broker)."""

    def __init__(self, plant: Plant, strikes: Path) -> None:
        self.plant = plant
        self.strikes = strikes
        self.results: dict[str, list[AsyncResult[int]]] = {}

    def start(self) -> Proc:
        """Start the broker."""
        endpoints = [f"tcp://127.0.0.1:{port}" for port in self.plant.broker.ports.values()]
        return self.plant.procs.python(
            "-m", "tests.faults.stricken_broker", str(self.strikes), *endpoints, str(self.plant.broker.data),
            cwd=REPOSITORY, name="broker", ready="serving",
        )  # fmt: skip

    def strike(self) -> Proc:
        """Publish, and let the broker die with the first hand-outs; returns the worker that they were for."""
        broker = self.start()
        for kind, task in KINDS.items():
            self.results[kind] = [task.delay(n, 0.0) for n in range(TASKS)]
        self.strikes.touch()
        worker = self.plant.start_worker()
        assert -signal.SIGKILL == broker.wait()
        assert {} == self.plant.runs()
        return worker

    def ended(self) -> bool:
        """Whether all have an end."""
        stats, queues = self.plant.broker.client.ask("stats"), self.plant.broker.client.ask("queues")
        return stats["in_flight"] + sum(row["waiting"] for row in queues) == 0


@pytest.fixture
def stricken(plant: Plant, tmp_path: Path) -> Stricken:
    return Stricken(plant, tmp_path / "strikes")


def test_a_worker_that_lives_is_handed_it_again(stricken: Stricken) -> None:
    """It lists what it holds; what isn't among that was never sent, goes out again, and is no loss."""
    stricken.strike()
    stricken.start()
    for kind, results in stricken.results.items():
        assert [*range(TASKS)] == [result.get(timeout=20) for result in results], kind
    assert {f"{kind} {n}": 1 for kind in KINDS for n in range(TASKS)} == stricken.plant.runs()
    stats = stricken.plant.broker.client.ask("stats")
    assert (0, 0, 0) == (stats["lost"], stats["redelivered"], stats["dead"])


def _killed(worker: Proc) -> None:
    worker.kill()


def _told_to_end(worker: Proc) -> None:
    assert 0 == worker.stop()


@pytest.mark.long
@pytest.mark.parametrize("end", [_killed, _told_to_end])
def test_of_a_worker_that_ended_meanwhile_nobody_can_tell(
    stricken: Stricken, end: Callable[[Proc], None]
) -> None:
    """An early-acked one never runs and ends as WorkerLostError, told and put aside; a late one runs."""
    end(stricken.strike())
    stricken.start()
    client = stricken.plant.broker.client
    in_flight = client.ask("stats")["in_flight"]
    assert in_flight > 0
    wait_until(lambda: not client.ask("stats")["in_flight"], what="the end of who isn't there any more")
    stricken.plant.start_worker()
    wait_until(stricken.ended, 20, what="the end of all tasks")

    assert [*range(TASKS)] == [result.get(timeout=5) for result in stricken.results["late"]]
    states = {result.id: result.state for result in stricken.results["early"]}
    lost = {task_id for task_id, state in states.items() if state == "FAILURE"}
    assert {"FAILURE", "SUCCESS"} >= set(states.values())
    errors = [result.result for result in stricken.results["early"] if result.id in lost]
    assert ["WorkerLostError"] * len(lost) == [type(error).__name__ for error in errors]
    rows = client.ask("dead_list")
    assert lost == {row["task_id"] for row in rows}
    assert all("WorkerLostError: the worker w1@" in row["reason"] for row in rows)
    ran = {f"early {n}" for n, result in enumerate(stricken.results["early"]) if result.id not in lost}
    assert dict.fromkeys(ran | {f"late {n}" for n in range(TASKS)}, 1) == stricken.plant.runs()
    assert client.ask("stats")["lost"] == in_flight
    assert lost
