"""kill -9 of the broker at random moments: every confirmed task runs, and none with early ack runs twice."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence

import pytest

from emq_compat.errors import NotPublished, OperationalError
from tests.faults.conftest import Plant
from tests.faults.faulty_tasks import app, count
from tests.processes import wait_until

pytestmark = pytest.mark.faults

TASKS = 2000
SHORT, LONG = 3, 50


class Publisher(threading.Thread):
    """Publishes tasks, one by one and in pipelines in turn; knows which were confirmed, and which may be."""

    def __init__(self, numbers: Sequence[int], seed: int) -> None:
        super().__init__(name="publisher")
        self.numbers = list(numbers)
        self.confirmed: set[int] = set()
        self.unknown: set[int] = set()
        self.error: BaseException | None = None
        self._random = random.Random(seed)

    def run(self) -> None:
        try:
            left = self.numbers
            while left:
                size = self._random.choice((1, 1, 1, 20, 100))
                batch, left = left[:size], left[size:]
                if size == 1:
                    self._one(batch[0])
                else:
                    self._many(batch)
        except BaseException as exc:  # noqa: BLE001 - told to the test
            self.error = exc

    def _one(self, n: int) -> None:
        try:
            count.delay(n)
        except OperationalError:
            self.unknown.add(n)
        else:
            self.confirmed.add(n)

    def _many(self, batch: Sequence[int]) -> None:
        ids: dict[str, int] = {}
        try:
            with app.pipeline():
                for n in batch:
                    ids[count.delay(n).id] = n
        except NotPublished:
            self.unknown.update(batch)
        else:
            self.confirmed.update(batch)


def kill_the_broker(plant: Plant, rounds: int, seed: int) -> None:
    """Let a publisher and a worker work, kill the broker once a round, and check what the tasks wrote."""
    chance = random.Random(seed)
    plant.broker.start()
    plant.start_worker()
    confirmed: set[int] = set()
    for n in range(rounds):
        publisher = Publisher(range(n * TASKS, (n + 1) * TASKS), seed + n)
        begun = time.monotonic()
        publisher.start()
        delay = chance.uniform(0.02, 1.5)
        wait_until(lambda at=begun + delay: time.monotonic() >= at, timeout_s=5)
        assert plant.broker.proc is not None
        plant.broker.proc.kill()
        plant.broker.start()
        publisher.join(60)
        assert not publisher.is_alive(), "the publisher hangs"
        assert publisher.error is None, repr(publisher.error)
        confirmed |= publisher.confirmed
        assert len(publisher.confirmed) + len(publisher.unknown) == TASKS
    missing: set[int] = set()

    def all_ran() -> bool:
        nonlocal missing
        missing = confirmed - {int(line) for line in plant.runs()}
        return not missing

    try:
        wait_until(all_ran, timeout_s=60)
    except TimeoutError:
        raise AssertionError(f"confirmed and never run: {len(missing)} of {len(confirmed)}") from None
    twice = {line: times for line, times in plant.runs().items() if times > 1}
    assert {} == twice
    assert [] == plant.broker.client.ask("dead_list")


def test_the_broker_is_killed(plant: Plant) -> None:
    """3 rounds: 2,000 tasks each, published with confirm and executed while the broker is killed."""
    kill_the_broker(plant, SHORT, seed=1)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_broker_is_killed_fifty_times(plant: Plant) -> None:
    """The same, 50 rounds: no confirmed task is lost, none runs twice, none is put aside."""
    kill_the_broker(plant, LONG, seed=2)
