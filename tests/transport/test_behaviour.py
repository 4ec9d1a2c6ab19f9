"""What kombu's transports do, over its own in memory and over `emq://`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.pidbox import Mailbox

from tests.transport.draining import collecting, drained, nothing_comes

pytestmark = pytest.mark.integration

Name = Callable[[str], str]


@pytest.fixture(params=["memory", "emq"])
def connection(request: pytest.FixtureRequest) -> Iterator[Connection]:
    """A connection to kombu's broker in memory, and to ours."""
    if request.param == "memory":
        made = Connection("memory://", transport_options={"polling_interval": 0.01})
    else:
        made = Connection(request.getfixturevalue("shared_broker").url)
    with made:
        yield made


def test_publish_and_consume(connection: Connection, name: Name) -> None:
    """A message comes once to a consumer, as it was published, and then no more."""
    queue = Queue(name("q"), Exchange(name("x"), type="direct"), routing_key=name("k"))
    got: list[tuple[Any, Any]] = []
    producer = connection.Producer()
    producer.publish(
        {"a": [1, "ü"]},
        exchange=queue.exchange,
        routing_key=queue.routing_key,
        declare=[queue],
        headers={"h": 1},
        correlation_id="c-1",
        reply_to="r",
    )
    with connection.Consumer(queue, callbacks=[lambda body, message: got.append((body, message))]):
        drained(connection)
        [(body, message)] = got
        message.ack()
        nothing_comes(connection)
    assert {"a": [1, "ü"]} == body
    assert ({"h": 1}, "c-1", "r") == (
        message.headers,
        message.properties["correlation_id"],
        message.properties["reply_to"],
    )
    assert (queue.exchange.name, queue.routing_key) == (
        message.delivery_info["exchange"],
        message.delivery_info["routing_key"],
    )
    assert ("application/json", "utf-8") == (message.content_type, message.content_encoding)


@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_serializers(connection: Connection, name: Name, serializer: str, compression: str | None) -> None:
    """Bodies of every serializer, compressed ones too, come back as they were."""
    queue = connection.SimpleQueue(name("q"))
    queue.consumer.accept = {"application/json", "application/x-python-serialize", "application/x-yaml"}
    queue.put({"a": "ü" * 100, "n": None}, serializer=serializer, compression=compression)
    message = queue.get(timeout=5)
    assert {"a": "ü" * 100, "n": None} == message.payload
    message.ack()
    queue.close()


def test_raw_bytes(connection: Connection, name: Name) -> None:
    """A body of bytes that are no text comes as it was."""
    queue = connection.SimpleQueue(name("q"))
    raw = bytes(range(256))
    queue.producer.publish(raw, content_type="application/data", content_encoding="binary")
    queue.consumer.accept = None
    message = queue.get(timeout=5)
    assert raw == message.body
    message.ack()
    queue.close()


def test_simple_queue(connection: Connection, name: Name) -> None:
    """SimpleQueue puts, gets, counts, gets without waiting, and is emptied."""
    queue = connection.SimpleQueue(name("q"))
    with pytest.raises(queue.Empty):
        queue.get_nowait()
    with pytest.raises(queue.Empty):
        queue.get(timeout=0.1)
    for n in range(3):
        queue.put({"n": n})
    assert {"n": 0} == queue.get(timeout=5).payload
    queue.close()
    again = connection.SimpleQueue(name("q2"))
    for n in range(3):
        again.put(n)
    assert 3 == again.qsize()
    assert 3 == again.clear()
    assert 0 == again.qsize()
    again.close()


def test_simple_buffer(connection: Connection, name: Name) -> None:
    """SimpleBuffer, whose queue is transient and needs no acknowledgements, does too."""
    buffer = connection.SimpleBuffer(name("b"))
    buffer.put("x")
    message = buffer.get(timeout=5)
    assert "x" == message.payload
    buffer.close()


def test_topic(connection: Connection, name: Name) -> None:
    """A topic exchange compares words."""
    exchange = Exchange(name("x"), type="topic")
    bodies: dict[str, list[Any]] = {"europe": [], "all": []}
    europe = Queue(name("europe"), exchange, routing_key="stock.eu.*")
    every = Queue(name("all"), exchange, routing_key="stock.#")
    channel = connection.default_channel
    first = Consumer(channel, [europe], callbacks=[collecting(bodies["europe"])])
    second = Consumer(channel, [every], callbacks=[collecting(bodies["all"])])
    with first, second:
        producer = Producer(channel, exchange)
        producer.publish("de", routing_key="stock.eu.de")
        producer.publish("us", routing_key="stock.us.ny")
        producer.publish("none", routing_key="weather.eu.de")
        drained(connection, 3)
        nothing_comes(connection)
    assert {"europe": ["de"], "all": ["de", "us"]} == {key: sorted(some) for key, some in bodies.items()}


def test_fanout(connection: Connection, name: Name) -> None:
    """A fanout exchange gives each queue a copy."""
    exchange = Exchange(name("x"), type="fanout")
    bodies: list[list[Any]] = [[], []]
    queues = [Queue(name(str(n)), exchange) for n in range(2)]
    channel = connection.default_channel
    pairs = zip(queues, bodies, strict=True)
    consumers = [Consumer(channel, [queue], callbacks=[collecting(got)]) for queue, got in pairs]
    with consumers[0], consumers[1]:
        Producer(channel, exchange).publish("hello")
        drained(connection, 2)
    assert [["hello"], ["hello"]] == bodies


def test_several_bindings(connection: Connection, name: Name) -> None:
    """A queue with several bindings gets what matches any of them, and what is unbound no more."""
    exchange = Exchange(name("x"), type="direct")
    queue = Queue(name("q"), exchange, routing_key="a")(connection.default_channel)
    queue.declare()
    queue.bind_to(exchange.name, "b")
    producer = connection.Producer(exchange=exchange)
    for key in ("a", "b", "c"):
        producer.publish(key, routing_key=key)
    queue.unbind_from(exchange, "b")
    producer.publish("late", routing_key="b")
    got = [message.payload for _ in range(3) if (message := queue.get(no_ack=True)) is not None]
    assert ["a", "b"] == sorted(got)


def test_prefetch(connection: Connection, name: Name) -> None:
    """A consumer holds no more than its prefetch count, and gets on when it acknowledges."""
    held: list[Any] = []
    queue = Queue(name("q"), Exchange(name("x")), routing_key="k")
    producer = connection.Producer()
    for n in range(4):
        producer.publish(n, exchange=queue.exchange, routing_key="k", declare=[queue])
    consumer = Consumer(connection.default_channel, [queue], on_message=held.append)
    consumer.qos(prefetch_count=2)
    with consumer:
        drained(connection, 2)
        nothing_comes(connection)
        held[0].ack()
        drained(connection)
        assert [0, 1, 2] == [message.payload for message in held]
        for message in held[1:]:
            message.ack()
        drained(connection)
        held[-1].ack()
    assert 0 == queue(connection.default_channel).queue_declare(passive=True).message_count


def test_requeue(connection: Connection, name: Name) -> None:
    """What is requeued comes again."""
    queue = connection.SimpleQueue(name("q"))
    queue.put("x")
    queue.get(timeout=5).requeue()
    again = queue.get(timeout=5)
    assert "x" == again.payload
    again.ack()
    queue.close()


def test_reject(connection: Connection, name: Name) -> None:
    """What is rejected doesn't come again."""
    queue = connection.SimpleQueue(name("q"))
    queue.put("x")
    queue.get(timeout=5).reject()
    with pytest.raises(queue.Empty):
        queue.get(timeout=0.1)
    queue.close()


def test_get(connection: Connection, name: Name) -> None:
    """`Queue.get` takes one message without waiting, or nothing."""
    queue = Queue(name("q"), Exchange(name("x")), routing_key="k")(connection.default_channel)
    queue.declare()
    assert queue.get() is None
    connection.Producer().publish("x", exchange=queue.exchange, routing_key="k")
    message = queue.get()
    assert "x" == message.payload
    message.ack()
    assert queue.get() is None


def test_passive(connection: Connection, name: Name) -> None:
    """A passive declaration counts what waits, and is an error of the channel where there is no queue."""
    channel = connection.default_channel
    queue = Queue(name("q"), Exchange(name("x")), routing_key="k")(channel)
    with pytest.raises(connection.channel_errors):
        queue.queue_declare(passive=True)
    queue.declare()
    connection.Producer().publish("x", exchange=queue.exchange, routing_key="k")
    assert 1 == queue.queue_declare(passive=True).message_count
    assert 1 == queue.purge()
    assert 0 == queue.queue_declare(passive=True).message_count
    queue.delete()
    with pytest.raises(connection.channel_errors):
        queue.queue_declare(passive=True)


def test_two_consumers_of_a_queue(connection: Connection, name: Name) -> None:
    """Each message of a queue goes to one of its consumers."""
    queue = Queue(name("q"), Exchange(name("x")), routing_key="k")
    bodies: list[Any] = []
    with connection.channel() as first, connection.channel() as second:
        consumers = [Consumer(c, [queue], callbacks=[collecting(bodies)]) for c in (first, second)]
        with consumers[0], consumers[1]:
            for n in range(10):
                connection.Producer().publish(n, exchange=queue.exchange, routing_key="k")
            drained(connection, 10)
            nothing_comes(connection)
    assert list(range(10)) == sorted(bodies)


def test_cancelled_consumer(connection: Connection, name: Name) -> None:
    """A cancelled consumer gets nothing more, another queue's consumer on the channel goes on."""
    one, two = (Queue(name(k), Exchange(name("x")), routing_key=k) for k in ("one", "two"))
    bodies: list[Any] = []
    consumer = Consumer(connection.default_channel, [one, two], callbacks=[collecting(bodies)])
    with consumer:
        consumer.cancel_by_queue(one.name)
        for key in ("one", "two"):
            connection.Producer().publish(key, exchange=one.exchange, routing_key=key)
        drained(connection)
        nothing_comes(connection)
    assert ["two"] == bodies
    assert 1 == one(connection.default_channel).queue_declare(passive=True).message_count


def test_pidbox(connection: Connection) -> None:
    """A mailbox's call reaches its nodes by fanout, and their replies come back."""
    mailbox = Mailbox("test-mail", type="fanout", accept=["json"])
    node_connection = connection.clone()
    handlers = {"add": lambda state, n: state["n"] + n}
    node = mailbox(node_connection).Node("node-1", state={"n": 1}, handlers=handlers)
    node.channel = node_connection.channel()
    with node.listen(channel=node.channel):
        box = mailbox(connection)
        answers = box._broadcast("add", {"n": 41}, reply=False)
        assert answers is None
        ticket = "t-1"
        channel = connection.channel()
        box._publish("add", {"n": 41}, reply_ticket=ticket, channel=channel)
        drained(node_connection, 2)
        assert [{"node-1": 42}] == box._collect(ticket, limit=1, timeout=5, channel=channel)
    node_connection.close()
