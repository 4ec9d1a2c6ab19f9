"""Clients in great number, and such as don't read, break off or never stop: the others are still served."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.broker_process import Broker
from tests.faults import faulty_tasks
from tests.faults.conftest import Plant
from tests.faults.floods import FloodPlant, Served
from tests.processes import Procs, unused_port, wait_until

pytestmark = pytest.mark.faults

#: What the broker may have resident at any time, and more than before when all is over.
MOST_MB, LEFT_MB = 600, 30
#: Tasks a second, one after the other, that a normal client gets beside any of them.
LEAST_RATE = 0.5

#: Kind, how many of them, their argument, and how many are there in the end (crowd).
FLOODS = {
    "a client asks for a result of 1 MB and reads nothing": ("deaf", 1, "RESULT"),
    "a client waits for it again and again and reads nothing": ("deaf-waits", 1, "RESULT"),
    "a client subscribes to everything and reads nothing": ("deaf-topics", 1, ""),
    "half greetings, half messages, garbage": ("halves", 2, "7"),
    "a message without an end": ("endless", 1, ""),
    "unconfirmed publishes": ("publishes", 1, "flooded"),
    "questions": ("asks", 1, "1"),
    "questions for 10,000 results each": ("asks", 1, "10000"),
    "10,000 connections": ("crowd", 4, "2500"),
}


@pytest.fixture(scope="module")
def floods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FloodPlant]:
    """One broker and one worker for all of them."""
    folder = tmp_path_factory.mktemp("floods")
    (folder / "procs").mkdir()
    procs = Procs(folder / "procs")
    broker = Broker(procs, unused_port, folder / "data")
    faulty_tasks.app.conf.broker_url = broker.url
    try:
        yield FloodPlant(Plant(procs, broker, folder))
    finally:
        faulty_tasks.app.close()
        broker.client.close()
        procs.close()


def check(floods: FloodPlant, served: Served) -> None:
    """What is promised beside any of them."""
    assert [] == served.errors
    assert LEAST_RATE <= served.rate, served
    assert floods.most_mb < MOST_MB
    assert floods.alive()


def test_all_of_them_at_once(floods: FloodPlant) -> None:
    """A normal client is served beside one of each kind, memory is bounded, and nothing confirmed is lost."""
    floods.customer.serve(0.3)
    result = faulty_tasks.big.delay(1 << 20)
    assert 1 << 20 == len(result.get(timeout=20))
    floods.start("crowd", "200", ready="connected")
    for kind, argument in (("deaf", result.id), ("halves", "1"), ("publishes", "other"), ("asks", "100")):
        floods.start(kind, argument)
    served = floods.serve(3.0)
    floods.end()
    check(floods, served)
    assert [] == floods.lost()
    assert [] == floods.doubled()


@pytest.mark.long
@pytest.mark.parametrize("name", FLOODS)
def test_each_of_them(floods: FloodPlant, name: str) -> None:
    """The same beside each of them for longer; memory comes back."""
    kind, count, argument = FLOODS[name]
    if argument == "RESULT":
        result = faulty_tasks.big.delay(1 << 20)
        result.get(timeout=60)
        argument = result.id
    before, before_mb = floods.serve(5.0), floods.memory_mb()
    fds = floods.broker.num_fds()
    floods.most_mb = 0.0
    procs = [
        floods.start(kind, argument, ready="connected" if kind == "crowd" else None) for _ in range(count)
    ]
    if kind == "crowd":
        # A tenth says nothing and a tenth half a greeting: those are sent away after 5 s.
        wait_until(lambda: all("standing 2000, closed 500" in proc.output() for proc in procs), 120)
    served = floods.serve(20.0)
    connections = floods.broker.num_fds() - fds
    most_mb = floods.most_mb
    floods.end()
    wait_until(lambda: floods.customer.serve(0.5).rate > before.rate / 4, 120, what="the former rate")
    wait_until(lambda: floods.broker.num_fds() <= fds + 10, 60, what="the descriptors of before")
    wait_until(
        lambda: floods.memory_mb() < before_mb + LEFT_MB, 60, what="the memory of before", interval_s=1
    )
    print(
        f"{name}: {before.rate:.0f} tasks/s before, {served.rate:.1f} beside it ({served}); "
        f"broker {before_mb:.0f} MB, most {most_mb:.0f} MB, then {floods.memory_mb():.0f} MB; "
        f"{connections} connections; lost {len(floods.lost())}, doubled {len(floods.doubled())}"
    )
    check(floods, served)
    assert [] == floods.lost()
    assert [] == floods.doubled()
