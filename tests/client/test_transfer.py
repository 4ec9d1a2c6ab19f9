"""Messages that wait, moved from one broker to another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from emq_compat import transfer
from emq_compat.broker.inprocess import running
from emq_compat.client import Client
from emq_compat.errors import ConfigurationError, OperationalError
from emq_compat.message import Headers, Job, Publish
from emq_compat.testing.broker import memory_broker

pytestmark = pytest.mark.integration


@pytest.fixture
def source() -> Iterator[Client]:
    """A client of a broker."""
    with memory_broker("memory://source"), Client("memory://source") as client:
        yield client


@pytest.fixture
def dest() -> Iterator[Client]:
    """A client of another one."""
    with memory_broker("memory://dest"), Client("memory://dest") as client:
        yield client


def publish(client: Client, n: int = 1, queue: str = "q", **headers: Any) -> list[str]:
    """Publish n messages of the task ``t``; returns their task ids."""
    ids = [f"{queue}-{i}" for i in range(n)]
    payload = Job(path="proj", callable="t").encode()
    client.publish_all(
        Publish(queue=queue, headers=Headers(**{"task_id": one, "task": "t", **headers}), payload=payload)
        for one in ids
    )
    return ids


def waiting(client: Client, queue: str = "q") -> list[str]:
    """The task ids of what waits in a queue."""
    return [found.headers.task_id for found in transfer.browse(client, queue)]


def test_everything_moves(source: Client, dest: Client) -> None:
    """All that waits is in the other broker, in its order, with its headers; nothing is left behind."""
    ids = publish(source, 1200, priority=3)
    later = publish(source, 1, eta=4_000_000_000.0)
    done = transfer.transfer(source, dest, "q")
    assert (1201, {}) == (done.moved, done.stayed)
    assert ([], [], [*ids, *later]) == (
        waiting(source), waiting(source, transfer.on_its_way("q")), waiting(dest),
    )  # fmt: skip
    found = [*transfer.browse(dest, "q")]
    assert (3, True, 4_000_000_000.0) == (
        found[0].headers.priority, found[-1].apart, found[-1].headers.eta,
    )  # fmt: skip


def test_to_and_fro(source: Client, dest: Client) -> None:
    """What comes back within a minute is no message that the broker takes for one it has had."""
    ids = publish(source, 3)
    for a, b in ((source, dest), (dest, source), (source, dest)):
        assert 3 == transfer.transfer(a, b, "q").moved
    assert ids == waiting(dest)


def test_some_move(source: Client, dest: Client) -> None:
    """Only what is chosen moves, as many as are asked for, to the queue that is named; each is told."""
    publish(source, 10)
    told: list[str] = []
    done = transfer.transfer(
        source, dest, "q", "there",
        choose=lambda found: int(found.headers.task_id[2:]) % 2 == 0,
        on_moved=lambda found: told.append(found.headers.task_id),
        limit=3,
    )  # fmt: skip
    assert (3, told) == (done.moved, waiting(dest, "there"))
    assert ["q-0", "q-2", "q-4"] == told
    assert 7 == len(waiting(source))


def test_what_stays(source: Client, dest: Client) -> None:
    """Parts of a chord, and revoked tasks, stay where they are, with the reason."""
    publish(source, 1)
    publish(source, 1, chord="c:0", task_id="part")
    publish(source, 1, task_id="revoked")
    source.ask("revoke", ids=["revoked"])
    done = transfer.transfer(source, dest, "q")
    assert (1, ["it is part of a chord, or others wait for its end",
                "its task is revoked"]) == (done.moved, [*done.stayed.values()])  # fmt: skip
    assert ["part", "revoked"] == waiting(source)


@pytest.mark.parametrize("cut", ["publish", "drop"])
def test_cut_off(source: Client, dest: Client, monkeypatch: pytest.MonkeyPatch, cut: str) -> None:
    """Cut off before or after the other broker has confirmed, each is there once after the next transfer."""
    ids = publish(source, 5)

    def fail(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if cut == "publish":
            patch.setattr(dest, "publish_all", fail)
        else:
            patch.setattr(transfer, "drop", fail)
        with pytest.raises(KeyboardInterrupt):
            transfer.transfer(source, dest, "q")
    assert (0, 5) == (len(waiting(source)), len(waiting(source, transfer.on_its_way("q"))))
    publish(source, 2, task_id="later")
    assert 7 == transfer.transfer(source, dest, "q").moved
    assert [*ids, "later", "later"] == waiting(dest)
    assert [] == waiting(source, transfer.on_its_way("q"))


def test_what_is_refused_goes_back(source: Client, dest: Client) -> None:
    """What the other broker refuses is in its queue again, with what it said."""
    ids = publish(source, 5)
    dest.ask("stats")
    broker = running(dest.addresses[0].host)
    assert broker is not None
    broker.server.engine.desk.options = type(broker.server.engine.desk.options)(queue_limit=3)
    done = transfer.transfer(source, dest, "q")
    assert (3, ids[:3], ids[3:]) == (done.moved, waiting(dest), waiting(source))
    assert "holds 3 messages" in next(iter(done.stayed.values()))


def test_a_publisher_of_ones_own(source: Client, dest: Client) -> None:
    """What the given function can't publish goes back, and its error is raised."""
    publish(source, 3)
    seen: list[str] = []

    def take(found: transfer.Found) -> None:
        if len(seen) == 2:
            raise OperationalError("enough")
        seen.append(found.headers.task_id)

    with pytest.raises(OperationalError, match="enough"):
        transfer.transfer(source, dest, "q", publish=take)
    assert (["q-0", "q-1"], ["q-2"], []) == (seen, waiting(source), waiting(dest))


def test_brokers_that_can_not_be(source: Client) -> None:
    """A stock router, or the same broker under another address, is refused before anything moves."""
    publish(source)
    with pytest.raises(ConfigurationError, match="stock router"):
        transfer.transfer(source, Client("tcp://127.0.0.1:9"), "q")
    with Client(f"emq+ipc://{source.addresses[0].host}") as same:  # noqa: SIM117
        with pytest.raises(ConfigurationError, match="are the same broker"):
            transfer.transfer(source, same, "q")
    assert ["q-0"] == waiting(source)
