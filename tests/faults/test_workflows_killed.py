"""kill -9 of the broker, the worker and its children while nested workflows run: each of them ends."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import psutil
import pytest

from emq_compat.celery_shim import AsyncResult, chain, chord, group
from emq_compat.shim.exceptions import ChordError, WorkerLostError
from tests.faults import faulty_tasks
from tests.faults.conftest import Plant
from tests.processes import wait_until

pytestmark = pytest.mark.faults

CANVASES = 50
TARGETS = ("broker", "worker", "child")


class Kind(NamedTuple):
    """The tasks that a canvas is made of."""

    step: Any
    total: Any


EARLY = Kind(faulty_tasks.step, faulty_tasks.total)
LATE = Kind(faulty_tasks.step_late, faulty_tasks.total_late)

#: What a canvas makes of a number.
Value = Callable[[int], int]


def grown(chance: random.Random, kind: Kind, depth: int, keys: Callable[[], str]) -> tuple[Any, Value]:
    """A random canvas that takes a number, and what it makes of it."""
    shape = chance.choice(("step", "chain", "chord", "chord")) if depth else "step"
    if shape == "step":
        return kind.step.s(keys()), lambda x: x + 1
    parts = [grown(chance, kind, depth - 1, keys) for _ in range(chance.randint(2, 3))]
    values = [value for _, value in parts]
    if shape == "chain":
        return chain(*(signature for signature, _ in parts)), lambda x: _one_after_the_other(values, x)
    header = group(signature for signature, _ in parts)
    return chord(header, kind.total.s(keys())), lambda x: sum(value(x) for value in values)


def _one_after_the_other(values: list[Value], x: int) -> int:
    for value in values:
        x = value(x)
    return x


def canvases(chance: random.Random, kind: Kind, first: int) -> dict[str, tuple[AsyncResult[int], int]]:
    """Publish some random canvases; returns the name of each, its result and the right value."""
    published = {}
    for name in (f"c{n}" for n in range(first, first + CANVASES)):
        numbers = itertools.count()

        def keys(name: str = name, numbers: itertools.count[int] = numbers) -> str:
            return f"{name}-{next(numbers)}"

        signature, value = grown(chance, kind, 2, keys)
        whole = chain(kind.step.s(0, keys()), signature, kind.step.s(keys()))
        whole.link_error(faulty_tasks.on_error.s(name))
        published[name] = whole.apply_async(), value(1) + 1
    return published


def kill(plant: Plant, target: str, chance: random.Random) -> None:
    """SIGKILL the broker, the worker or one child, and start again what doesn't come back by itself."""
    assert plant.worker is not None
    if target == "broker":
        assert plant.broker.proc is not None
        plant.broker.proc.kill()
        plant.broker.start("--max-redeliveries", "0")
    elif target == "worker":
        plant.worker.kill()
        plant.start_worker()
    elif children := plant.forked():
        try:
            chance.choice(children).kill()
        except psutil.NoSuchProcess:
            return


def run(plant: Plant, kind: Kind, rounds: int, seed: int) -> dict[str, BaseException | None]:
    """Kill something in each round; returns how each canvas ended: its error, or None: the right value."""
    chance = random.Random(seed)
    plant.broker.start("--max-redeliveries", "0")
    plant.start_worker()
    ended: dict[str, BaseException | None] = {}
    for n in range(rounds):
        published = canvases(chance, kind, n * CANVASES)
        at = time.monotonic() + chance.uniform(0.02, 1.0)
        wait_until(lambda at=at: time.monotonic() >= at, timeout_s=5)
        kill(plant, TARGETS[n % len(TARGETS)], chance)
        for name, (result, right) in published.items():
            try:
                value = result.get(timeout=120)
            except (WorkerLostError, ChordError) as exc:
                ended[name] = exc
            else:
                assert right == value, name
                ended[name] = None
    return ended


def all_succeed(plant: Plant, rounds: int, seed: int) -> None:
    """Late-acked: each canvas ends with the right value."""
    ended = run(plant, LATE, rounds, seed)
    assert {} == {name: exc for name, exc in ended.items() if exc is not None}
    assert 0 == sum(count for line, count in plant.runs().items() if line.startswith("errback "))


def all_end(plant: Plant, rounds: int, seed: int) -> None:
    """Early-acked: no step runs twice, and whose step was lost says so, to its error callbacks, too."""
    ended = run(plant, EARLY, rounds, seed)
    failed = {name for name, exc in ended.items() if exc is not None}
    assert len(failed) < len(ended)
    wait_until(
        lambda: failed <= {line.split()[1] for line in plant.runs() if line.startswith("errback ")},
        timeout_s=30,
        what="the error callback of each failed canvas",
    )
    runs = plant.runs()
    assert failed == {line.split()[1] for line in runs if line.startswith("errback ")}
    assert {} == {line: n for line, n in runs.items() if line.startswith("step ") and n > 1}


def test_late_acked_workflows_survive_kills(plant: Plant) -> None:
    """One round for the broker, the worker and a child."""
    all_succeed(plant, len(TARGETS), seed=5)


def test_early_acked_workflows_end_after_kills(plant: Plant) -> None:
    """One round for the broker, the worker and a child."""
    all_end(plant, len(TARGETS), seed=6)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_late_acked_workflows_survive_many_kills(plant: Plant) -> None:
    """30 rounds."""
    all_succeed(plant, 30, seed=7)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_early_acked_workflows_end_after_many_kills(plant: Plant) -> None:
    """30 rounds."""
    all_end(plant, 30, seed=8)
