"""Publishing while RabbitMQ or Redis is away (case 40)."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import pytest
from kombu import Connection, Exchange, Queue

from emq_compat.celery_shim import Celery, OperationalError
from emq_compat.errors import NotConfirmed
from emq_compat.ids import new_id
from tests.processes import unused_port
from tests.proxy import Proxy

pytestmark = [pytest.mark.integration, pytest.mark.cases]

LIMIT_S = 1.0
#: What a call may take beyond its limit on a machine that is busy.
SLACK_S = 1.5


class Place:
    """A queue of a real broker, an app whose way to it a test can cut, and what the app has published."""

    def __init__(self, url: str, **settings: object) -> None:
        self.url = url
        self.queue = f"q-{new_id()}"
        self.settings = {"task_default_queue": self.queue, "broker_connection_timeout": LIMIT_S, **settings}
        self.confirmed: set[str] = set()
        self.raised: set[str] = set()

    def app(self, port: int | None = None) -> Celery:
        """An app whose broker is at this port of 127.0.0.1; None: at its own."""
        parts = urlsplit(self.url)
        where = parts.netloc if port is None else f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}"
        url = urlunsplit(parts._replace(netloc=where.removeprefix("@")))
        made = Celery("away", broker=url, set_as_current=False)
        made.conf.update(self.settings)
        return made

    def publish(self, app: Celery, mark: str) -> bool:
        """Publish a call; return whether it was confirmed. Asserts that the call ended in time."""
        began = time.monotonic()
        try:
            app.send_task("away.ping", (mark,), task_id=mark)
        except OperationalError:
            self.raised.add(mark)
        else:
            self.confirmed.add(mark)
        assert time.monotonic() - began < LIMIT_S + SLACK_S
        return mark in self.confirmed

    def arrived(self) -> list[str]:
        """Take the ids of all that is in the queue."""
        found = []
        with Connection(self.url) as connection:
            queue = Queue(self.queue, Exchange(self.queue), self.queue, channel=connection.channel())
            queue.declare()
            while (message := queue.get(no_ack=True)) is not None:
                found.append(message.headers["id"])
        return found

    def assert_each_arrived_once(self) -> None:
        """What was confirmed is there once, what raised at most once, and nothing else is."""
        arrived = self.arrived()
        assert self.confirmed == set(arrived) - self.raised
        assert len(set(arrived)) == len(arrived)

    def close(self) -> None:
        with Connection(self.url) as connection:
            Queue(self.queue, channel=connection.channel()).delete()


@pytest.fixture(params=["amqp", "redis"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    made = Place(request.getfixturevalue(f"{request.param}_url"))
    yield made
    made.close()


@pytest.fixture
def proxy(place: Place) -> Iterator[Proxy]:
    """What the app connects to."""
    with Proxy(urlsplit(place.url).port or 0) as made:
        yield made


def test_nobody_listens(place: Place) -> None:
    """40: each call raises in time, as kombu's error, too; once a broker is there the next one returns."""
    from kombu.exceptions import OperationalError as KombuError

    port = unused_port()
    app = place.app(port)

    assert not place.publish(app, "first")
    with pytest.raises(KombuError, match="nothing was sent"):
        app.send_task("away.ping")
    with Proxy(urlsplit(place.url).port or 0, port=port):
        assert place.publish(app, "third")
        app.close()
    assert ["third"] == place.arrived()


def test_nobody_answers(place: Place) -> None:
    """40: a port that accepts and is silent costs no more than the limit, again and again."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        app = place.app(silent.getsockname()[1])
        assert not place.publish(app, "first")
        assert not place.publish(app, "second")
    assert [] == place.arrived()


def test_it_stands_still_between_two_calls(place: Place, proxy: Proxy) -> None:
    """40: calls in between raise in time; afterwards the next works, and nothing is there twice."""
    app = place.app(proxy.port)
    assert place.publish(app, "before")

    proxy.hold()
    assert not place.publish(app, "first")
    assert not place.publish(app, "second")
    proxy.let_go()

    assert place.publish(app, "after")
    app.close()
    place.assert_each_arrived_once()


def test_what_was_sent_is_not_sent_again(place: Place, proxy: Proxy) -> None:
    """40: a message that is on its way when the broker stops raises NotConfirmed, whatever the policy."""
    app = place.app(proxy.port)
    assert place.publish(app, "before")

    proxy.hold()
    with pytest.raises(NotConfirmed, match="unknown"):
        app.send_task("away.ping", task_id="lost", retry_policy={"max_retries": 3})
    proxy.let_go()

    place.raised.add("lost")
    assert place.publish(app, "after")
    app.close()
    place.assert_each_arrived_once()


def test_connections_are_cut_between_two_calls(place: Place, proxy: Proxy) -> None:
    """40: the next call finds that out, connects anew and returns."""
    app = place.app(proxy.port)
    assert place.publish(app, "before")
    for number in range(3):
        proxy.cut()
        assert place.publish(app, f"after {number}")
    app.close()
    place.assert_each_arrived_once()


def test_from_ten_threads(place: Place, proxy: Proxy) -> None:
    """40: ten threads publish while connections are cut: each call ends in time, nothing is there twice."""
    app = place.app(proxy.port)

    def work(number: int) -> None:
        for turn in range(10):
            place.publish(app, f"{number}-{turn}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    proxy.cut()
    for thread in threads:
        thread.join(60)
    assert place.publish(app, "after")
    app.close()
    assert len(place.confirmed) > 50
    place.assert_each_arrived_once()


def test_after_a_fork(place: Place) -> None:
    """40: child and parent publish on connections of their own, though the parent had one at the fork."""
    app = place.app()
    assert place.publish(app, "before")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            app.send_task("away.ping", task_id="child")
            code = 0
        finally:
            os._exit(code)
    for number in range(5):
        assert place.publish(app, f"parent {number}")
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert place.publish(app, "after")
    app.close()
    place.confirmed.add("child")
    place.assert_each_arrived_once()
