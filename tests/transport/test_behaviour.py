"""What kombu's transports do, over its own in memory and over `emq://`."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.exceptions import EncodeError
from kombu.pidbox import Mailbox

from tests.broker_process import Broker

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


@pytest.fixture
def emq(shared_broker: Broker) -> Iterator[Connection]:
    """A connection to our broker, for what kombu's in memory doesn't have."""
    with Connection(shared_broker.url) as made:
        yield made


def drained(connection: Connection, count: int = 1, timeout_s: float = 5.0) -> None:
    """Take so many messages."""
    for _ in range(count):
        connection.drain_events(timeout=timeout_s)


def nothing_comes(connection: Connection, timeout_s: float = 0.1) -> None:
    """Nothing has come when so much time has passed."""
    with pytest.raises(socket.timeout):
        connection.drain_events(timeout=timeout_s)


def collecting(bodies: list[Any]) -> Callable[[Any, Any], None]:
    """A consumer's callback that keeps bodies and acknowledges."""

    def keep(body: Any, message: Any) -> None:
        bodies.append(body)
        message.ack()

    return keep


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


# What kombu's transport in memory doesn't have.


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
    deadline = time.monotonic() + 10
    while there(name("mine")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not there(name("mine"))


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
