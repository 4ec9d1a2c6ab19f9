"""kill -9 of the broker while chords run: a body runs once, with the right values, or is a ChordError."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from emq_compat.errors import OperationalError
from emq_compat.message import Headers, Job, Publish
from tests.faults.conftest import Plant
from tests.processes import wait_until

pytestmark = pytest.mark.faults

CHORDS, PARTS = 20, 12
SHORT, LONG = 2, 30


def message(task: str, task_id: str, *args: Any, **headers: Any) -> Publish:
    """A message of one of the tasks, made by hand."""
    name = f"tests.faults.faulty_tasks.{task}"
    job = Job(
        path="tests.faults.faulty_tasks", callable=task, args=args, celery={"task": name, "id": task_id}
    )
    head = Headers(guarantee=True, task=name, task_id=task_id, **headers)
    return Publish(queue="faulty", headers=head, payload=job.encode())


def chord(name: str, size: int, *, fails: bool, **headers: Any) -> list[Publish]:
    """A chord's messages; one of its parts fails, or none."""
    made = [message("gather", f"body-{name}", name, awaits=f"{name}:{size}", **headers)]
    for n in range(size):
        value = -1 - n if fails and n == size // 2 else n
        made.append(message("give", f"{name}-{n}", name, value, chord=f"{name}:{n}"))
    return made


def nested(name: str, *, fails: bool) -> list[Publish]:
    """A chord of one chord and a task; the inner one may fail."""
    outer = [
        message("gather", f"body-{name}", name, awaits=f"{name}:2"),
        message("give", f"{name}-0", name, 5, chord=f"{name}:0"),
    ]
    return [*outer, *chord(f"{name}i", PARTS, fails=fails, chord=f"{name}:1")]


class Publisher(threading.Thread):
    """Publishes messages one by one, each again under the same msgid until it is confirmed."""

    def __init__(self, plant: Plant, messages: Sequence[Publish]) -> None:
        super().__init__(name="publisher")
        self.plant = plant
        self.messages = messages
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for made in self.messages:
                self._publish(made)
        except BaseException as exc:  # noqa: BLE001 - told to the test
            self.error = exc

    def _publish(self, made: Publish) -> None:
        for last in (False, False, True):
            try:
                self.plant.broker.client.publish(made)
            except OperationalError:
                if last:
                    raise
            else:
                return


def expected(rounds: int) -> tuple[dict[str, str], set[str]]:
    """Chord → the values that its body is given; and the chords that fail."""
    bodies: dict[str, str] = {}
    failing: set[str] = set()
    inner = ",".join(map(str, range(PARTS)))
    for name in (f"{r}x{c}" for r in range(rounds) for c in range(CHORDS)):
        kind = int(name.partition("x")[2]) % 4
        if kind == 0:
            bodies[name] = inner
        elif kind == 1:
            failing.add(name)
        elif kind == 2:
            bodies[f"{name}i"] = inner
            bodies[name] = f"5,{sum(range(PARTS))}"
        else:
            failing |= {name, f"{name}i"}
    return bodies, failing


def kill_the_broker(plant: Plant, rounds: int, seed: int) -> None:
    """Publish and run chords, kill the broker once a round, and check every body."""
    chance = random.Random(seed)
    plant.broker.start()
    plant.start_worker()
    for r in range(rounds):
        messages: list[Publish] = []
        for c in range(CHORDS):
            make = nested if c % 4 > 1 else lambda name, fails: chord(name, PARTS, fails=fails)
            messages += make(f"{r}x{c}", fails=c % 2 == 1)
        publisher = Publisher(plant, messages)
        begun = time.monotonic()
        publisher.start()
        delay = chance.uniform(0.02, 0.8)
        wait_until(lambda at=begun + delay: time.monotonic() >= at, timeout_s=5)
        assert plant.broker.proc is not None
        plant.broker.proc.kill()
        plant.broker.start()
        publisher.join(120)
        assert not publisher.is_alive(), "the publisher hangs"
        assert publisher.error is None, repr(publisher.error)
    bodies, failing = expected(rounds)
    found = plant.broker.client.wait([f"body-{name}" for name in (*bodies, *failing)], timeout_s=60)
    results = dict(found)
    for name in bodies:
        assert "SUCCESS" == results[f"body-{name}"].state, name
    for name in failing:
        inner = name if f"{name}i" not in failing else f"{name}i"
        text = f"Dependency {inner}-{PARTS // 2} raised ValueError('{-1 - PARTS // 2}')"
        assert text == results[f"body-{name}"].reply["error"]["message"]

    def idle() -> bool:
        stats = plant.broker.client.ask("stats")
        return (0, 0) == (stats["chords"], stats["in_flight"])

    wait_until(idle, timeout_s=60)
    runs = plant.runs()
    assert {} == {line: times for line, times in runs.items() if times > 1}
    ran = dict(line.split(" ")[1:] for line in runs if line.startswith("body"))
    assert bodies == ran
    assert rounds * CHORDS // 2 * (2 * PARTS + 1) == sum(line.startswith("part") for line in runs)
    queues = plant.broker.client.ask("queues")
    assert [(0, 0, 0)] == [(q["waiting"], q["delayed"], q["held"]) for q in queues if q["name"] == "faulty"]


def test_the_broker_is_killed_while_chords_run(plant: Plant) -> None:
    """2 rounds of 20 chords, flat and nested, half of which fail."""
    kill_the_broker(plant, SHORT, seed=1)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_broker_is_killed_thirty_times_while_chords_run(plant: Plant) -> None:
    """The same, 30 rounds: no body is lost, none runs twice or with other values, no chord stays."""
    kill_the_broker(plant, LONG, seed=2)
