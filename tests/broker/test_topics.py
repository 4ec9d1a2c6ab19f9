"""Who is told what is published under a topic."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from emq_compat.broker.asks import Asks
from emq_compat.broker.topics import ALLOWED_BYTES, ALLOWED_MESSAGES, SUBSCRIBED_S
from emq_compat.client import Client
from emq_compat.errors import OperationalError
from emq_compat.message import new_id
from emq_compat.protocol.commands import Answer, Ask, Command, Heartbeat, PublishTopic
from emq_compat.subscription import Subscription
from tests.broker.bench import Bench
from tests.broker_process import Broker
from tests.hand_worker import HandWorker
from tests.processes import wait_until


def subscribe(*topics: str) -> Ask:
    return Ask(msgid=new_id(), verb="subscribe", arguments={"topics": list(topics)})


def said(topic: str, payload: bytes = b"{}") -> PublishTopic:
    return PublishTopic(msgid=new_id(), topic=topic, payload=payload)


class Asking(Bench):
    """A bench that answers questions, too."""

    def __init__(self) -> None:
        super().__init__()
        self.asks = Asks(self.engine, lambda file, done: None, self.now)

    def told(self, *commands: tuple[bytes, Command], passed_s: float = 0.0) -> list[tuple[str, list[bytes]]]:
        """Do a turn; return each topic that is passed on, and to whom."""
        self.turn(*commands, passed_s=passed_s)
        return [(command.topic, clients) for command, clients in self.engine.topics.take()]

    def missed(self, client: bytes, *topics: str) -> int:
        """Subscribe once more; return what the answer says was dropped."""
        [send] = [s for s in self.turn((client, subscribe(*topics))) if hasattr(s, "command")]
        answer = send.command
        assert isinstance(answer, Answer)
        return int(json.loads(answer.body)["ok"]["dropped"])


@pytest.fixture
def bench() -> Asking:
    return Asking()


@pytest.mark.unit
def test_by_how_the_topic_begins(bench: Asking) -> None:
    """A message goes to each client with a prefix of its topic, whoever publishes it."""
    bench.turn((b"client.1", subscribe("celeryev.task.")), (b"client.2", subscribe("other", "celeryev.")))
    bench.turn((b"client.3", subscribe("")))

    sent, online = said("celeryev.task.sent"), said("celeryev.worker.online")
    both = bench.told((b"client.9", sent), (b"stranger", online))

    expected = [
        ("celeryev.task.sent", [b"client.1", b"client.2", b"client.3"]),
        ("celeryev.worker.online", [b"client.2", b"client.3"]),
    ]
    assert expected == both


@pytest.mark.unit
def test_nobody_asked(bench: Asking) -> None:
    """Without subscribers a message is dropped at once, and nothing is kept for those that come later."""
    assert [] == bench.told((b"client.1", said("t")))
    assert [] == bench.told((b"client.2", subscribe("")))
    assert 1 == bench.engine.desk.counters["topics"]


@pytest.mark.unit
def test_who_does_not_read_is_dropped(bench: Asking) -> None:
    """A client that doesn't ask again is sent a bounded number of messages; it is told how many it missed."""
    bench.turn((b"client.1", subscribe("")))

    told = bench.told(*[(b"client.2", said("t"))] * (ALLOWED_MESSAGES + 3))

    assert ALLOWED_MESSAGES == len(told)
    assert 3 == bench.engine.desk.counters["topics_dropped"]
    assert 3 == bench.missed(b"client.1", "")
    assert 1 == len(bench.told((b"client.2", said("t"))))


@pytest.mark.unit
def test_large_messages_are_bounded_by_their_size(bench: Asking) -> None:
    """A client is sent a bounded number of bytes, too."""
    bench.turn((b"client.1", subscribe("")))
    large = said("t", b"x" * (ALLOWED_BYTES // 2 + 1))

    assert 2 == len(bench.told(*[(b"client.2", large)] * 3))


@pytest.mark.unit
@pytest.mark.parametrize("how", ["unsubscribed", "gone", "silent"])
def test_forgotten(bench: Asking, how: str) -> None:
    """Who unsubscribes, is gone, or doesn't ask again for some minutes is told nothing more."""
    bench.turn((b"client.1", subscribe("")))
    assert 1 == len(bench.told((b"client.2", said("t"))))

    if how == "unsubscribed":
        bench.turn((b"client.1", Ask(msgid=new_id(), verb="unsubscribe", arguments={})))
    elif how == "gone":
        bench.engine.client_gone(b"client.1", bench.now)
    else:
        bench.turn(passed_s=SUBSCRIBED_S + 1)

    assert [] == bench.told((b"client.2", said("t")))
    assert 0 == bench.engine.topics.subscribers


@pytest.mark.unit
def test_a_lost_worker(bench: Asking) -> None:
    """The broker tells of what a lost worker ran, and sent events of: failed, or rejected and put back."""
    tasks = {"early": "e", "late": "le", "silent": ""}
    bench.worker(b"w@h.1", slots=8, credit=8, tasks=tasks)
    held = {name: bench.publish(task=name)[0] for name in tasks}
    [waits] = bench.publish(task="late")
    bench.turn((b"w@h.1", Heartbeat(msgid=new_id(), timestamp=bench.wall, not_begun=frozenset({waits}))))
    bench.turn((b"client.1", subscribe("celeryev.")))
    bench.engine.topics.take()

    bench.pass_time(20.0)

    [(command, clients)] = bench.engine.topics.take()
    assert ("celeryev.task.multi", [b"client.1"]) == (command.topic, clients)
    failed, rejected = json.loads(command.payload)
    everywhere = {"type", "uuid", "hostname", "pid", "timestamp", "utcoffset", "clock"}
    assert everywhere | {"exception", "traceback"} == failed.keys()
    assert everywhere | {"requeue"} == rejected.keys()
    assert ("task-failed", f"t-{held['early']}", "w@h") == (
        failed["type"], failed["uuid"], failed["hostname"]
    )  # fmt: skip
    assert failed["exception"].startswith("WorkerLostError('the worker w@h.1 was lost")
    assert ("task-rejected", f"t-{held['late']}", True) == (
        rejected["type"], rejected["uuid"], rejected["requeue"]
    )  # fmt: skip


@pytest.fixture
def subscribed(broker: Broker) -> Iterator[Callable[..., Subscription]]:
    """A function that subscribes a client of its own."""
    made: list[tuple[Client, Subscription]] = []

    def open_one(*topics: str) -> Subscription:
        client = Client(broker.url)
        made.append((client, client.subscribe(topics)))
        made[-1][1].open()
        return made[-1][1]

    yield open_one
    for client, subscription in made:
        subscription.close()
        client.close()


def taken(subscription: Subscription, count: int) -> list[str]:
    found = []
    until = time.monotonic() + 20
    while len(found) < count and (one := subscription.take(until)) is not None:
        found.append(one.topic)
    return found


@pytest.mark.integration
def test_announced(broker: Broker, subscribed: Callable[..., Subscription], hand_worker: Any) -> None:
    """What clients and workers publish reaches subscribers in order; who doesn't read stops nobody."""
    broker.start("--memory")
    events, tasks = subscribed("e."), subscribed("e.task.")
    worker: HandWorker = hand_worker("q")
    worker.wire.send(said("e.worker.online"))
    assert ["e.worker.online"] == taken(events, 1)

    for number in range(3_000):
        broker.client.announce(f"e.task.{number}", b"[]")
        if number % 100 == 99:
            assert [f"e.task.{n}" for n in range(number - 99, number + 1)] == taken(events, 100)

    assert [f"e.task.{n}" for n in range(400)] == taken(tasks, 400)
    assert 0 == events.missed
    stats = broker.client.ask("stats")
    assert 3_001 == stats["topics"]
    assert 2 == stats["subscribers"]


@pytest.mark.integration
def test_a_restart_of_the_broker(broker: Broker, subscribed: Callable[..., Subscription]) -> None:
    """A subscription lasts over a restart; while there is no broker, taking and announcing say so."""
    proc = broker.start("--memory")
    subscription = subscribed("")
    proc.kill()

    with pytest.raises(OperationalError):
        subscription.take(time.monotonic() + 0.3)
    client = Client(broker.url)
    with pytest.raises(OperationalError):
        client.announce("t", b"")
    begun = time.monotonic()
    with pytest.raises(OperationalError, match="a moment ago"):
        client.announce("t", b"")
    assert time.monotonic() - begun < 0.5
    client.close()

    broker.start("--memory")
    subscription.open()
    broker.client.announce("t", b"")
    assert ["t"] == taken(subscription, 1)


@pytest.mark.integration
def test_a_client_that_is_gone(broker: Broker, subscribed: Callable[..., Subscription]) -> None:
    """The broker forgets a subscription with its connection."""
    broker.start("--memory")
    subscription = subscribed("")
    assert 1 == broker.client.ask("stats")["subscribers"]
    subscription.close()
    wait_until(lambda: broker.client.ask("stats")["subscribers"] == 0, what="its end")
