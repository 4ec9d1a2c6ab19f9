"""kill -9 of the broker among large messages, whose values stand in the redo log at first: all are there."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from emq_compat.celery_shim import AsyncResult
from emq_compat.errors import OperationalError
from tests.faults.conftest import Plant
from tests.faults.faulty_tasks import returned
from tests.processes import wait_until

pytestmark = pytest.mark.faults

SHORT, LONG = 2, 40
EACH = 40


def pad(n: int) -> str:
    """What a task is given, and returns: 50 kB to 1 MB."""
    return f"{n} " * random.Random(n).randrange(10_000, 200_000)


def kill_among_large_ones(plant: Plant, rounds: int, seed: int) -> None:
    """Publish large messages, kill the broker among them once a round, and read all results."""
    chance = random.Random(seed)
    plant.broker.start("--result-expires", "600")
    plant.start_worker()
    asked: dict[int, AsyncResult[Any]] = {}
    unknown = set()
    for round_ in range(rounds):
        first, victim = round_ * EACH, chance.randrange(EACH)
        reached = threading.Event()

        def publish(first: int = first, victim: int = victim, reached: threading.Event = reached) -> None:
            for n in range(first, first + EACH):
                if n == first + victim:
                    reached.set()
                try:
                    asked[n] = returned.delay(n, pad(n))
                except OperationalError:
                    unknown.add(n)

        publisher = threading.Thread(target=publish)
        publisher.start()
        assert reached.wait(60)
        assert plant.broker.proc is not None
        plant.broker.proc.kill()
        plant.broker.start("--result-expires", "600")
        publisher.join(60)
        assert not publisher.is_alive(), "the publisher hangs"
        for n in random.Random(round_).sample(sorted(asked), len(asked) // 2):
            result = asked.pop(n)
            assert pad(n) == result.get(timeout=60)
            result.forget()
    for n, result in asked.items():
        assert pad(n) == result.get(timeout=60)
    wait_until(lambda: plant.broker.waiting("faulty") == 0, 60)
    assert {} == {line: times for line, times in plant.runs().items() if times > 1}
    assert len(unknown) <= rounds
    assert [] == plant.broker.client.ask("dead_list")


def test_the_broker_is_killed_among_large_messages(plant: Plant) -> None:
    """2 rounds of 40 messages of up to 1 MB: every confirmed one runs once, and its result is whole."""
    kill_among_large_ones(plant, SHORT, seed=1)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_broker_is_killed_among_large_messages_often(plant: Plant) -> None:
    """The same, 40 rounds."""
    kill_among_large_ones(plant, LONG, seed=2)
