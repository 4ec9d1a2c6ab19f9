"""Lost brokers and consumers, forks, threads, and the event loop."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Consumer, Queue
from kombu.asynchronous import Hub
from kombu.exceptions import OperationalError

from emq_compat.errors import ConfigurationError
from emq_compat.genuine import transport_link
from emq_compat.genuine.transport_link import BrokerLost
from tests.broker_process import Broker
from tests.processes import Procs, open_pipes, unused_port, wait_until
from tests.proxy import Proxy

pytestmark = pytest.mark.integration

#: Celery's policy for publishing.
POLICY = {"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2}
CONSUMER = Path(__file__).with_name("consumer.py")


def publish(connection: Connection, queue: str, body: Any) -> None:
    """Publish as Celery does: a task for a queue, with its retry policy."""
    headers = {"task": "proj.add", "id": f"t-{body}", "retries": 0, "timelimit": [None, None]}
    connection.Producer().publish(
        [[body], {}, {}],
        exchange="",
        routing_key=queue,
        headers=headers,
        retry=True,
        retry_policy=POLICY,
    )


def bodies(messages: list[Any]) -> list[Any]:
    return [message.payload[0][0] for message in messages]


def took(connection: Connection, queue: str, count: int, timeout_s: float = 20.0) -> list[Any]:
    """Take and acknowledge so many messages of a queue; return what they say."""
    held: list[Any] = []

    def take(message: Any) -> None:
        held.append(message)
        message.ack()

    with Consumer(connection.default_channel, [Queue(queue)], on_message=take):
        deadline = time.monotonic() + timeout_s
        while len(held) < count:
            connection.drain_events(timeout=deadline - time.monotonic())
    return bodies(held)


def test_killed_consumer(shared_broker: Broker, procs: Procs, name: Callable[[str], str]) -> None:
    """What a killed consumer held comes to another one within seconds, and says that it comes again."""
    with Connection(shared_broker.url) as connection:
        for n in range(4):
            publish(connection, name("q"), n)
        first = procs.python(CONSUMER, shared_broker.url, name("q"), "3", "none", ready="consuming")
        first.wait_line("took", count=3)
        second = procs.python(CONSUMER, shared_broker.url, name("q"), "5", "all", ready="consuming")
        second.wait_line("took")
        first.send_signal(signal.SIGKILL)
        second.wait_line("True", count=3)
        assert 4 == second.output().count("took")


def test_two_consumers_share(shared_broker: Broker, procs: Procs, name: Callable[[str], str]) -> None:
    """Of two consumers none takes more than its prefetch count, though there is more for it."""
    consumers = [
        procs.python(CONSUMER, shared_broker.url, name("q"), "2", "none", ready="consuming")
        for _ in range(2)
    ]
    with Connection(shared_broker.url) as connection:
        for n in range(6):
            publish(connection, name("q"), n)
    for consumer in consumers:
        consumer.wait_line("took", count=2)
    assert 2 == shared_broker.waiting(name("q"))
    assert [2, 2] == [consumer.output().count("took") for consumer in consumers]


def test_broker_killed(broker: Broker) -> None:
    """A killed broker is an error of the connection; after a restart it gives and takes messages again."""
    broker.start("--dead-after", "1")
    held: list[Any] = []
    with Connection(broker.url) as connection:
        publish(connection, "q", 1)
        with Consumer(connection.default_channel, [Queue("q")], on_message=held.append):
            connection.drain_events(timeout=5)
            assert broker.proc is not None
            broker.proc.kill()
            with pytest.raises(connection.connection_errors):
                connection.drain_events(timeout=10)
            assert not connection.connected
            with pytest.raises(connection.connection_errors):
                held[0].ack()
        broker.start("--dead-after", "1")
        publish(connection, "q", 2)
        assert [1, 2] == sorted(took(connection, "q", 2))


def test_consumers_are_told(broker: Broker) -> None:
    """Who goes on draining after a loss hears of it, though kombu connects anew by itself meanwhile."""
    broker.start()
    with Connection(broker.url) as connection, Consumer(connection.default_channel, [Queue("q")]):
        assert broker.proc is not None
        broker.proc.kill()
        broker.start()
        with pytest.raises(BrokerLost):
            connection.drain_events(timeout=5)
        with pytest.raises(BrokerLost):
            connection.drain_events(timeout=5)
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=0.1)


def test_restarted_between_two_calls(broker: Broker) -> None:
    """Who publishes without kombu's retries needs none where the broker was restarted since the last time."""
    broker.start()
    with Connection(broker.url) as connection:
        connection.Producer().publish("x", exchange="amq.direct", routing_key="k")
        assert broker.proc is not None
        broker.proc.kill()
        broker.start()
        wait_until(lambda: not connection.connected)
        connection.Producer().publish("y", exchange="amq.direct", routing_key="k")


def test_no_broker(name: Callable[[str], str]) -> None:
    """Publishing without a broker is an OperationalError within the limit, and works once there is one."""
    with Connection(f"emq://127.0.0.1:{unused_port()}", connect_timeout=4) as connection:
        for _ in range(2):
            begun = time.monotonic()
            with pytest.raises(OperationalError, match="no broker at"):
                publish(connection, "q", 1)
            assert time.monotonic() - begun < 5


def test_silent_broker(broker: Broker) -> None:
    """A broker that was stopped costs no publish more than the limit; once it goes on the next one works."""
    proc = broker.start()
    with Connection(broker.url, connect_timeout=2) as connection:
        publish(connection, "q", 0)
        proc.send_signal(signal.SIGSTOP)
        try:
            for n in (1, 2):
                begun = time.monotonic()
                with pytest.raises(OperationalError):
                    publish(connection, "q", n)
                assert time.monotonic() - begun < 4
        finally:
            proc.send_signal(signal.SIGCONT)
        publish(connection, "q", 3)
        got = took(connection, "q", broker.waiting())
    assert {0, 3} <= set(got)
    assert len(got) == len(set(got))


def test_confirmed_once(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message whose confirmation was lost is said again under its own id: the broker has it once."""
    broker.start()
    lose = [True]
    receive = transport_link.Channel.receive

    def losing(self: Any, deadline: float | None) -> Any:
        command = receive(self, deadline)
        if lose and type(command).__name__ == "Ack":
            lose.clear()
            raise transport_link.Cut("the connection was cut")
        return command

    monkeypatch.setattr(transport_link.Channel, "receive", losing)
    with Connection(broker.url) as connection:
        publish(connection, "q", 1)
    assert not lose
    assert 1 == broker.waiting()


def test_cut_connections(broker: Broker) -> None:
    """Messages published while connections are cut again and again arrive once each."""
    broker.start()
    with Proxy(broker.ports["frontend"]) as proxy:
        url = broker.address(frontend=proxy.port, backend=broker.ports["backend"])
        with Connection(url) as connection:
            for n in range(100):
                publish(connection, "q", n)
                if n % 20 == 10:
                    proxy.cut()
    with Connection(broker.url) as connection:
        assert list(range(100)) == took(connection, "q", 100)
    assert 0 == broker.waiting()


def test_failover(shared_broker: Broker, name: Callable[[str], str]) -> None:
    """Of several URLs, options included, the first one that answers is used, also when it is lost later."""
    with Proxy(shared_broker.ports["frontend"]) as proxy:
        first = shared_broker.address(frontend=proxy.port, backend=shared_broker.ports["backend"])
        nobody = f"emq://127.0.0.1:{unused_port()}?worker_port={unused_port()}"
        with Connection(f"{nobody};{first};{shared_broker.url}") as connection:
            publish(connection, name("q"), 1)
            assert first == connection.as_uri()
            proxy._target = unused_port()
            proxy.cut()
            publish(connection, name("q"), 2)
            assert shared_broker.url == connection.as_uri()
            assert [1, 2] == took(connection, name("q"), 2)
            with connection.clone() as other:
                publish(other, name("q"), 3)
                assert [3] == took(other, name("q"), 1)


def test_ipc(procs: Procs, tmp_path: Path) -> None:
    """Sockets in a folder are a broker's URL, too, alone and among others."""
    folder = tmp_path / "s"
    procs.emq("broker", "--ipc", str(folder), "--memory", ready="memory only")
    url = f"emq+ipc://{folder}"
    with Connection(url) as connection:
        publish(connection, "q", 1)
        assert url == connection.as_uri()
        assert [1] == took(connection, "q", 1)
    with Connection(f"emq://127.0.0.1:{unused_port()};{url}") as connection:
        publish(connection, "q", 2)
        assert [2] == took(connection, "q", 1)


def test_keys(broker: Broker, procs: Procs, tmp_path: Path) -> None:
    """With keys in the URL messages are published and taken; without any the broker stays shut."""
    keys = tmp_path / "keys"
    assert 0 == procs.emq("keys", "new", str(keys)).wait()
    broker.start("--keys", str(keys))
    with Connection(f"{broker.url}&keys={keys}") as connection:
        publish(connection, "q", 1)
        assert [1] == took(connection, "q", 1)
    without = Connection(broker.url, connect_timeout=2)
    with without, pytest.raises(OperationalError, match="uses CURVE keys"):
        publish(without, "q", 1)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("emq://127.0.0.1:1000?worker_port=x", "worker_port=x is no port"),
        ("emq://127.0.0.1:1000?stock=1", "stock eventmq router"),
        ("emq://127.0.0.1:1000?keys=/nowhere", "nowhere"),
    ],
)
def test_wrong_urls(url: str, told: str) -> None:
    """What is wrong with a URL is said at once, and isn't tried again."""
    begun = time.monotonic()
    with Connection(url) as connection, pytest.raises(ConfigurationError, match=told):
        publish(connection, "q", 1)
    assert time.monotonic() - begun < 2


def test_forked(shared_broker: Broker, name: Callable[[str], str]) -> None:
    """A forked process uses its connections anew; those of its parent stay the parent's."""
    held: list[Any] = []
    with Connection(shared_broker.url) as connection:
        publish(connection, name("q"), 0)
        consumer = Consumer(connection.default_channel, [Queue(name("q"))], on_message=held.append)
        with consumer:
            connection.drain_events(timeout=5)
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                said = b"failed"
                try:
                    assert not connection.connected
                    publish(connection, name("other"), 1)
                    connection.collect()
                    with connection.clone() as mine:
                        publish(mine, name("other"), 2)
                    said = b"published"
                finally:
                    os.write(write, said)
                    os._exit(0)
            os.waitpid(pid, 0)
            assert b"published" == os.read(read, 100)
            os.close(read)
            os.close(write)
            publish(connection, name("q"), 3)
            connection.drain_events(timeout=5)
            for message in held:
                message.ack()
        assert [0, 3] == bodies(held)
        assert [1, 2] == took(connection, name("other"), 2)


def test_threads(shared_broker: Broker, name: Callable[[str], str]) -> None:
    """Threads publish over one connection, and others acknowledge what one takes."""
    count, threads = 100, 4
    with Connection(shared_broker.url) as connection:
        producer = connection.Producer()
        producer.publish(-1, exchange="", routing_key=name("none"))

        def some(first: int) -> None:
            for n in range(first, first + count):
                publish(connection, name("q"), n)

        publishing = [threading.Thread(target=some, args=(n * count,)) for n in range(threads)]
        for thread in publishing:
            thread.start()
        held: list[Any] = []
        acknowledging: list[threading.Thread] = []

        def take(message: Any) -> None:
            held.append(message)
            acknowledging.append(threading.Thread(target=message.ack))
            acknowledging[-1].start()

        with connection.clone() as taking:
            consumer = Consumer(taking.default_channel, [Queue(name("q"))], on_message=take)
            consumer.qos(prefetch_count=3)
            with consumer:
                while len(held) < count * threads:
                    taking.drain_events(timeout=20)
            for thread in [*publishing, *acknowledging]:
                thread.join()
    assert list(range(count * threads)) == sorted(bodies(held))
    wait_until(lambda: shared_broker.waiting(name("q")) == 0)


def test_a_busy_consumer_keeps_its_messages(shared_broker: Broker, name: Callable[[str], str]) -> None:
    """A consumer that doesn't look at its connection for longer than the broker waits isn't lost."""
    with Connection(shared_broker.url) as connection:
        publish(connection, name("q"), 1)
        held: list[Any] = []
        with Consumer(connection.default_channel, [Queue(name("q"))], on_message=held.append):
            connection.drain_events(timeout=5)
            time.sleep(3)  # the broker's --dead-after is 2 s
            held[0].ack()
            with pytest.raises(socket.timeout):
                connection.drain_events(timeout=0.2)
        assert 0 == shared_broker.waiting(name("q"))


def test_event_loop(shared_broker: Broker, name: Callable[[str], str]) -> None:
    """An event loop of kombu's takes what comes without being asked, and hears of a lost broker."""
    hub = Hub()
    held: list[Any] = []
    with Proxy(shared_broker.ports["backend"]) as proxy:
        url = shared_broker.address(frontend=shared_broker.ports["frontend"], backend=proxy.port)
        with Connection(url) as connection:
            connection.register_with_event_loop(hub)
            hub.propagate_errors = connection.connection_errors

            def take(message: Any) -> None:
                held.append(message)
                message.ack()

            consumer = Consumer(connection.default_channel, [Queue(name("q"))], on_message=take)
            consumer.qos(prefetch_count=2)
            loop = hub.create_loop()
            with consumer:
                for n in range(10):
                    publish(connection, name("q"), n)
                deadline = time.monotonic() + 10
                while len(held) < 10 and time.monotonic() < deadline:
                    next(loop)
                assert list(range(10)) == bodies(held)
                proxy.cut()
                with pytest.raises(BrokerLost):
                    _run(loop, deadline)
                assert not connection.transport._watched
    hub.close()


def _run(loop: Any, deadline: float) -> None:
    while time.monotonic() < deadline:
        next(loop)


@pytest.mark.faults
def test_broker_killed_often(broker: Broker) -> None:
    """With a broker that is killed again and again no confirmed message is lost, and each ends."""
    kills, pipes = 6, open_pipes()
    broker.start("--dead-after", "1")
    published: list[int] = []
    got: list[int] = []
    done = threading.Event()

    def consume() -> None:
        with Connection(broker.url, connect_timeout=10) as connection:
            while not done.is_set():
                try:
                    connection.ensure_connection(max_retries=100, interval_start=0.05, interval_max=0.1)
                    with connection.channel() as channel:
                        consumer = Consumer(channel, [Queue("q")], on_message=take)
                        consumer.qos(prefetch_count=10)
                        with consumer:
                            while not done.is_set():
                                try:
                                    connection.drain_events(timeout=0.2)
                                except TimeoutError:
                                    continue
                except connection.connection_errors:
                    connection.collect()

    def take(message: Any) -> None:
        message.ack()
        got.append(message.payload[0][0])

    consuming = threading.Thread(target=consume)
    consuming.start()
    try:
        with Connection(broker.url, connect_timeout=10) as connection:
            for n in range(kills * 50):
                headers = {"task": "proj.add", "id": f"t-{n}", "retries": 0, "timelimit": [None, None]}
                connection.Producer().publish(
                    [[n], {}, {}],
                    exchange="",
                    routing_key="q",
                    headers=headers,
                    retry=True,
                    retry_policy={"max_retries": 200, "interval_start": 0.02, "interval_max": 0.1},
                )
                published.append(n)
                if n % 50 == 25:
                    assert broker.proc is not None
                    broker.proc.kill()
                    broker.start("--dead-after", "1")
        # What a killed broker's consumers held comes once more.
        wait_until(lambda: set(published) <= set(got) and not broker.held(), 40)
    finally:
        done.set()
        consuming.join()
    assert pipes == open_pipes(), "what each lost connection had is closed"
