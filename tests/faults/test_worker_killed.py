"""kill -9 of the worker, of single children and of the zygote: each task ends, and says how."""

from __future__ import annotations

import random
import signal
import time

import psutil
import pytest

from emq_compat.celery_shim import AsyncResult
from emq_compat.shim.exceptions import WorkerLostError
from tests.faults.conftest import Plant
from tests.faults.faulty_tasks import app, early, late
from tests.processes import wait_until

pytestmark = pytest.mark.faults

TASKS = 30
SECONDS = 0.03
TARGETS = ("worker", "child", "zygote", "zygote and twin")


def kill(plant: Plant, target: str, chance: random.Random) -> None:
    """SIGKILL one part of the worker, and start the worker again where that ends it."""
    assert plant.worker is not None
    if target == "worker":
        plant.worker.kill()
        plant.start_worker()
    elif target == "child":
        children = plant.forked()
        if children:
            _kill(chance.choice(children))
    elif target == "zygote":
        _kill(plant.zygote())
    else:
        # Held still meanwhile: it would have the spare take over, and fork another.
        plant.worker.send_signal(signal.SIGSTOP)
        zygote = plant.zygote()
        for process in (zygote, *zygote.children()):
            _kill(process)
        plant.worker.send_signal(signal.SIGCONT)
        assert 1 == plant.worker.wait(20)
        plant.start_worker()


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def kill_parts(plant: Plant, rounds: int, seed: int) -> None:
    """Run early- and late-acked tasks, kill a part of the worker in each round, and look at every end."""
    chance = random.Random(seed)
    plant.broker.start("--max-redeliveries", "0")
    plant.start_worker()
    lost = 0
    for n in range(rounds):
        numbers = range(n * TASKS, (n + 1) * TASKS)
        with app.pipeline():
            by_kind: dict[str, dict[int, AsyncResult]] = {
                "early": {i: early.delay(i, SECONDS) for i in numbers},
                "late": {i: late.delay(i, SECONDS) for i in numbers},
            }
        at = time.monotonic() + chance.uniform(0.05, 1.0)
        wait_until(lambda at=at: time.monotonic() >= at, timeout_s=5)
        target = TARGETS[n % len(TARGETS)]
        kill(plant, target, chance)
        for i, result in by_kind["late"].items():
            assert i == result.get(timeout=60), (target, i)
        for i, result in by_kind["early"].items():
            try:
                assert i == result.get(timeout=60), (target, i)
            except WorkerLostError:
                lost += 1
            result.forget()
    runs = plant.runs()
    assert all(runs[f"early {i}"] <= 1 for i in range(rounds * TASKS))
    assert all(runs[f"late {i}"] >= 1 for i in range(rounds * TASKS))
    # A kill cuts off what ran: at most both children and what they had in reserve.
    assert lost <= rounds * 2 * 33
    assert plant.worker is not None
    assert 0 == plant.worker.stop()
    plant.procs.assert_none_left()


def test_parts_of_the_worker_are_killed(plant: Plant) -> None:
    """One round for each part: late-acked tasks succeed, early-acked ones run at most once and all end."""
    kill_parts(plant, len(TARGETS), seed=3)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_parts_of_the_worker_are_killed_often(plant: Plant) -> None:
    """The same, 50 rounds for each part."""
    kill_parts(plant, 50 * len(TARGETS), seed=4)
