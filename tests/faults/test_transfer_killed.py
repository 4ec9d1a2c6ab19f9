"""kill -9 of who moves messages to another broker, and of the brokers: each message is there, once."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from emq_compat import transfer
from emq_compat.client import Client
from emq_compat.message import Headers, Job, Publish
from tests.broker_process import Broker
from tests.processes import Procs, wait_until

pytestmark = pytest.mark.faults

MESSAGES = 3000
SHORT, LONG = 6, 60

_MOVE = """
import sys
from emq_compat.client import Client
from emq_compat.transfer import transfer

source, dest = Client(sys.argv[1]), Client(sys.argv[2])
print("begins", flush=True)
transfer(source, dest, "q")
"""


def kill_the_mover(
    tmp_path: Path, procs: Procs, free_port: Callable[[], int], rounds: int, seed: int
) -> None:
    """Kill the process that moves messages, and now and then a broker, at random moments; then look."""
    chance = random.Random(seed)
    brokers = [Broker(procs, free_port, tmp_path / name) for name in ("source", "dest")]
    for broker in brokers:
        broker.start("--durability", "normal")
    source, dest = (broker.client for broker in brokers)
    ids = [f"t-{n}" for n in range(MESSAGES)]
    payload = Job(path="proj", callable="t").encode()
    source.publish_all(
        Publish(queue="q", headers=Headers(task_id=one, task="t"), payload=payload) for one in ids
    )
    for n in range(rounds):
        mover = procs.python("-c", _MOVE, brokers[0].url, brokers[1].url, name=f"mover-{n}", ready="begins")
        at = time.monotonic() + chance.uniform(0.0, 0.3)
        wait_until(lambda at=at: time.monotonic() >= at, timeout_s=5)
        if n % 3 == 2:
            broker = chance.choice(brokers)
            assert broker.proc is not None
            broker.proc.kill()
            broker.start("--durability", "normal")
        mover.kill()
        if not found(source):
            source, dest = dest, source
            brokers.reverse()
    transfer.transfer(source, dest, "q")
    assert {} == found(source)
    assert Counter(ids) == found(dest)
    for broker in brokers:
        broker.client.close()


def found(client: Client) -> Counter[str]:
    """How often each task is in a broker: in the queue, or on its way."""
    return Counter(
        message.headers.task_id
        for queue in ("q", transfer.on_its_way("q"))
        for message in transfer.browse(client, queue)
    )


def test_killed(tmp_path: Path, procs: Procs, free_port: Callable[[], int]) -> None:
    """Six kills: nothing is lost, and nothing is there twice."""
    kill_the_mover(tmp_path, procs, free_port, SHORT, seed=7)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_killed_often(tmp_path: Path, procs: Procs, free_port: Callable[[], int]) -> None:
    """The same, sixty kills."""
    kill_the_mover(tmp_path, procs, free_port, LONG, seed=int(time.time()))
