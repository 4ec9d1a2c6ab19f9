"""kill -9 of the broker and of workers, with keys: none has more than it may, and nothing is stuck."""

from __future__ import annotations

import contextlib
import random
import time

import pytest

from emq_compat.shim.exceptions import WorkerLostError
from tests.faults.conftest import Plant
from tests.faults.faulty_tasks import app, keyed, single
from tests.processes import Proc, wait_until

pytestmark = pytest.mark.faults

KEYS = ("a", "b", "c")
PLACES = 2
A_KEY = 8
#: After how long the broker takes a silent worker for lost.
DEAD_AFTER_S = 2.0


def most_at_once(lines: list[str], key: str) -> int:
    """How many runs of a key overlapped, as the tasks noted it, those that were killed left out."""
    ended = {line.split()[3] for line in lines if line.startswith(f"keyed out {key} ")}
    now = most = 0
    for line in lines:
        word, way, its, run = (line.split() + [""] * 4)[:4]
        if word != "keyed" or its != key or run not in ended:
            continue
        now += 1 if way == "in" else -1
        most = max(most, now)
    return most


def kill_parts(plant: Plant, rounds: int, seed: int) -> None:
    """Publish tasks with keys, kill the broker or a worker in each round, look at what the tasks noted."""
    chance = random.Random(seed)
    options = ("--max-redeliveries", "0", "--dead-after", str(DEAD_AFTER_S))
    plant.broker.start(*options)
    workers: list[Proc] = [plant.start_worker() for _ in range(2)]
    results = []
    for n in range(rounds):
        with app.pipeline():
            for i in range(A_KEY):
                results += [keyed.delay(key, f"{n}.{i}", 0.02) for key in KEYS]
        firsts = {single.delay(n, 0.3).id for _ in range(3)}
        assert 1 == len(firsts)
        at = time.monotonic() + chance.uniform(0.05, 0.4)
        wait_until(lambda at=at: time.monotonic() >= at, timeout_s=5)
        if n % 2:
            which = chance.randrange(2)
            workers[which].kill()
            workers[which] = plant.start_worker()
        else:
            assert plant.broker.proc is not None
            plant.broker.proc.kill()
            plant.broker.start(*options)
        with contextlib.suppress(WorkerLostError):
            app.AsyncResult(firsts.pop()).get(timeout=60)
        assert n == single.delay(n, 0.3).get(timeout=60)
    for result in results:
        result.get(timeout=120)
    lines = plant.file.read_text().splitlines()
    for key in KEYS:
        assert PLACES >= most_at_once(lines, key)
    for n in range(rounds):
        assert 2 >= sum(line == f"single {n}" for line in lines)

    def left() -> bool:
        keys = plant.broker.client.ask("keys")
        return bool(keys["unique"] or keys["parked"] or any(gate["running"] for gate in keys["gates"]))

    wait_until(lambda: not left(), timeout_s=20, what="no key held in the end")


def test_keys_with_the_broker_and_workers_killed(plant: Plant) -> None:
    """Four kills: all tasks with keys end, none over its limit; a unique one runs once and leaves no lock."""
    kill_parts(plant, 4, seed=1)


@pytest.mark.long
def test_keys_with_many_kills(plant: Plant) -> None:
    """Forty kills."""
    kill_parts(plant, 40, seed=2)
