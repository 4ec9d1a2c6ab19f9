"""What `emq://` does and kombu's transport in memory doesn't."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from kombu import Connection, Consumer, Exchange, Queue
from kombu.exceptions import EncodeError

from tests.broker_process import Broker
from tests.processes import wait_until
from tests.transport.draining import collecting, drained, nothing_comes

pytestmark = pytest.mark.integration

Name = Callable[[str], str]


@pytest.fixture
def emq(shared_broker: Broker) -> Iterator[Connection]:
    """A connection to our broker."""
    with Connection(shared_broker.url) as made:
        yield made


def test_priorities(emq: Connection, name: Name) -> None:
    """A higher priority comes first; of one priority the older."""
    queue = emq.SimpleQueue(name("q"), queue_opts={"max_priority": 9})
    for n, priority in enumerate((0, 9, 3, 9, 12)):
        queue.put(n, priority=priority)
    got = [queue.get(timeout=5) for _ in range(5)]
    for message in got:
        message.ack()
    assert [1, 3, 4, 2, 0] == [message.payload for message in got]
    assert 3 == got[3].delivery_info["priority"]
    queue.close()


def test_redelivered(emq: Connection, name: Name) -> None:
    """What comes again says so."""
    queue = emq.SimpleQueue(name("q"))
    queue.put("x")
    first = queue.get(timeout=5)
    assert first.delivery_info["redelivered"] is False
    first.requeue()
    second = queue.get(timeout=5)
    assert second.delivery_info["redelivered"] is True
    first._state = "RECEIVED"
    first.ack()  # of a delivery that is over: it says nothing of the second
    second.ack()
    queue.close()


def test_closed_channel_gives_back(emq: Connection, shared_broker: Broker, name: Name) -> None:
    """What a channel held and didn't acknowledge waits again, in its place, when the channel is closed."""
    queue = Queue(name("q"), Exchange(name("x")), routing_key="k")
    for n in range(5):
        emq.Producer().publish(n, exchange=queue.exchange, routing_key="k", declare=[queue])
    held: list[Any] = []
    with emq.channel() as channel, Consumer(channel, [queue], on_message=held.append):
        drained(emq, 2)
        held[0].ack()
    bodies: list[Any] = []
    with emq.Consumer(queue, callbacks=[collecting(bodies)]):
        drained(emq, 4)
    assert [1, 2, 3, 4] == bodies


def test_recover(emq: Connection, name: Name) -> None:
    """A channel's `basic_recover` puts back all that isn't acknowledged."""
    queue = Queue(name("q"), Exchange(name("x")), routing_key="k")
    emq.Producer().publish("x", exchange=queue.exchange, routing_key="k", declare=[queue])
    held: list[Any] = []
    consumer = Consumer(emq.default_channel, [queue], on_message=held.append)
    with consumer:
        drained(emq)
        consumer.recover(requeue=True)
        drained(emq)
        held[-1].ack()
    assert [False, True] == [message.delivery_info["redelivered"] for message in held]


def test_acknowledged_up_to(emq: Connection, name: Name) -> None:
    """An acknowledgement of several is for all up to that one."""
    queue = Queue(name("q"), Exchange(name("x")), routing_key="k")
    for n in range(3):
        emq.Producer().publish(n, exchange=queue.exchange, routing_key="k", declare=[queue])
    held: list[Any] = []
    with emq.channel() as channel, Consumer(channel, [queue], on_message=held.append):
        drained(emq, 3)
        held[1].ack(multiple=True)
    bodies: list[Any] = []
    with emq.Consumer(queue, callbacks=[collecting(bodies)]):
        drained(emq)
        nothing_comes(emq)
    assert [2] == bodies


def test_prefetch_lowered(emq: Connection, name: Name) -> None:
    """A prefetch count that becomes less counts at once, also where more was asked for already."""
    queue = Queue(name("q"), Exchange(name("x")), routing_key="k")
    held: list[Any] = []
    consumer = Consumer(emq.default_channel, [queue], on_message=held.append)
    consumer.qos(prefetch_count=5)
    with consumer:
        consumer.qos(prefetch_count=1)
        for n in range(3):
            emq.Producer().publish(n, exchange=queue.exchange, routing_key="k", declare=[queue])
        drained(emq)
        nothing_comes(emq)
        consumer.qos(prefetch_count=0)
        drained(emq, 2)
    assert 3 == len(held)


def test_no_ack(emq: Connection, shared_broker: Broker, name: Name) -> None:
    """A consumer without acknowledgements leaves nothing behind."""
    queue = Queue(name("q"), Exchange(name("x")), routing_key="k")
    held: list[Any] = []
    with emq.Consumer(queue, on_message=held.append, no_ack=True):
        for n in range(20):
            emq.Producer().publish(n, exchange=queue.exchange, routing_key="k")
        drained(emq, 20)
    assert list(range(20)) == [message.payload for message in held]
    [row] = [row for row in shared_broker.client.ask("queues") if row["name"] == queue.name]
    assert (0, 0) == (row["waiting"], row["in_flight"])


def test_auto_delete_and_exclusive(emq: Connection, shared_broker: Broker, name: Name) -> None:
    """Queues that are there for a consumer or a connection end with it."""

    def there(queue: str) -> bool:
        return queue in {row["name"] for row in shared_broker.client.ask("queues")}

    passing = Queue(name("passing"), Exchange(name("x")), routing_key="k", auto_delete=True)
    with emq.Consumer(passing):
        assert there(passing.name)
    assert not there(passing.name)
    other = emq.clone()
    Queue(name("mine"), Exchange(name("x")), routing_key="k", exclusive=True)(other.default_channel).declare()
    assert there(name("mine"))
    other.release()
    wait_until(lambda: not there(name("mine")))


def test_expiration(emq: Connection, name: Name) -> None:
    """A message that has expired doesn't come, by its own time or by its queue's."""
    queue = emq.SimpleQueue(name("own"))
    queue.put("old", expiration=0.05)
    brief = emq.SimpleQueue(name("brief"), queue_opts={"message_ttl": 0.05})
    brief.put("old")
    time.sleep(0.1)
    queue.put("new")
    for some in (queue, brief):
        message = None
        with suppress(some.Empty):
            message = some.get(timeout=0.2)
        assert ("new" if some is queue else None) == (message and message.payload)
        some.close()


def test_nobody_waits_for_a_reply(emq: Connection, shared_broker: Broker, name: Name) -> None:
    """A reply to a queue that is gone makes none; a task's message makes its queue."""
    emq.Producer().publish("reply", exchange="", routing_key=name("gone"))
    assert name("gone") not in {row["name"] for row in shared_broker.client.ask("queues")}
    headers = {"task": "proj.add", "id": "1", "retries": 0, "timelimit": [None, None]}
    emq.Producer().publish([[1, 2], {}, {}], exchange="", routing_key=name("tasks"), headers=headers)
    assert 1 == shared_broker.waiting(name("tasks"))


def test_too_large(emq: Connection, name: Name) -> None:
    """A message that is larger than the broker takes is an EncodeError, and the connection goes on."""
    queue = emq.SimpleQueue(name("q"))
    with pytest.raises(EncodeError, match="payload"):
        queue.producer.publish(b"x" * (65 << 20), content_type="application/data", content_encoding="binary")
    wrong = emq.default_channel.prepare_message("x", properties={"expiration": "soon"})
    with pytest.raises(EncodeError, match="milliseconds"):
        emq.default_channel.basic_publish(wrong, "", name("q"))
    queue.put("x")
    assert "x" == queue.get(timeout=5).payload
    queue.close()


def test_undeclared_exchange(emq: Connection, name: Name) -> None:
    """Publishing to an exchange that isn't there is an error of the channel, and the connection goes on."""
    with pytest.raises(emq.channel_errors, match="NOT_FOUND"):
        emq.Producer().publish("x", exchange=name("x"), routing_key="k")
    queue = emq.SimpleQueue(name("q"))
    queue.put("x")
    assert "x" == queue.get(timeout=5).payload
    queue.close()


def test_declared_as_another(emq: Connection, name: Name) -> None:
    """An exchange that is there can't be declared as another kind."""
    Exchange(name("x"), type="topic")(emq.default_channel).declare()
    with pytest.raises(emq.channel_errors, match="PRECONDITION_FAILED"):
        Exchange(name("x"), type="fanout")(emq.default_channel).declare()


def test_bindings_told(emq: Connection, name: Name) -> None:
    """The manager lists the bindings."""
    Queue(name("q"), Exchange(name("x")), routing_key="k")(emq.default_channel).declare()
    binding = {"destination": name("q"), "source": name("x"), "routing_key": "k"}
    assert binding in emq.manager.get_bindings()


def test_transient_messages_keep_their_order(emq: Connection, name: Name) -> None:
    """Transient messages aren't confirmed one by one, and all arrive, in order."""
    queue = Queue(name("q"), Exchange(name("x"), delivery_mode=1), routing_key="k")
    producer = emq.Producer(exchange=queue.exchange)
    queue(emq.default_channel).declare()
    for n in range(500):
        producer.publish(n, routing_key="k")
    bodies: list[Any] = []
    with emq.Consumer(queue, callbacks=[collecting(bodies)]):
        drained(emq, 500)
    assert list(range(500)) == bodies
