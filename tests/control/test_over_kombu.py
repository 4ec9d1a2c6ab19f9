"""The client's side on a kombu broker: asking workers, sending events and receiving them (in memory)."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from kombu import Connection, Exchange, Queue

from emq_compat.celery_shim import Celery
from emq_compat.errors import OperationalError
from emq_compat.ids import new_id
from emq_compat.shim import current
from emq_compat.shim.events.over_kombu import KombuSpeaker, KombuSubscription
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.remote_kombu import RemoteKombu, control_settings
from emq_compat.upstream.base import Asked
from emq_compat.upstream.kombu_control import ControlNode, ControlSettings

pytestmark = pytest.mark.unit

Connect = Callable[[], AbstractContextManager[Connection]]


@pytest.fixture
def connect() -> Connect:
    @contextmanager
    def connected() -> Iterator[Connection]:
        with Connection("memory://") as connection:
            yield connection

    return connected


@pytest.fixture
def namespace() -> str:
    return new_id()


@contextmanager
def answering(settings: ControlSettings, connect: Connect) -> Iterator[None]:
    """A node in a thread, which answers each command with its arguments."""
    end, ready = threading.Event(), threading.Event()

    def live() -> None:
        asked: list[Asked] = []
        node = ControlNode("w1@host", settings, asked.append)
        with connect() as connection:
            node.start(connection, lambda after_s, function: None)
            ready.set()
            while not end.is_set():
                try:
                    connection.drain_events(timeout=0.02)
                except TimeoutError:
                    pass
                while asked:
                    one = asked.pop()
                    node.answer(one.asked, json.dumps({"ok": one.arguments}).encode())
            node.stop()

    thread = threading.Thread(target=live)
    thread.start()
    assert ready.wait(10)
    try:
        yield
    finally:
        end.set()
        thread.join(10)


def test_asking(connect: Connect, namespace: str) -> None:
    """Answers come in the shape of app.control's; who isn't meant, and a call without reply, gives none."""
    settings = ControlSettings(namespace=namespace)
    remote, told = RemoteKombu(settings, connect), []
    with answering(settings, connect):
        expected = [{"w1@host": {"method": "rate_limit", "arguments": {"task_name": "t"}}}]
        ask: dict[str, Any] = {"reply": True, "timeout": 0.3}
        assert expected == remote.broadcast("rate_limit", {"task_name": "t"}, callback=told.append, **ask)
        assert expected == told
        assert 1 == len(remote.broadcast("ping", {}, destination=["w1@host"], **ask) or ())
        assert [] == remote.broadcast("ping", {}, destination=["w2@host"], **ask)
        assert 1 == len(remote.broadcast("ping", {}, pattern="w1*", **ask) or ())
        assert [] == remote.broadcast("ping", {}, pattern="x", matcher="pcre", **ask)
        assert None is remote.broadcast("ping", {})
        with pytest.raises(ValueError, match="glob or pcre"):
            remote.broadcast("ping", {}, pattern="x", matcher=lambda node, pattern: True)  # type: ignore[arg-type]


def test_purging(connect: Connect, namespace: str) -> None:
    """What waits in queues is dropped and counted; a queue that isn't there holds nothing."""
    with connect() as connection, connection.channel() as channel:
        Queue(namespace, Exchange(""), routing_key=namespace)(channel).declare()
        message = channel.prepare_message("x")
        for _ in range(3):
            channel.basic_publish(message, exchange="", routing_key=namespace)
        remote = RemoteKombu(ControlSettings(), connect)
        assert 3 == remote.purge([namespace, f"{namespace}.none"])


def _queue(name: str, key: str = "#") -> Callable[[Exchange], Queue]:
    return lambda exchange: Queue(name, exchange=exchange, routing_key=key, auto_delete=True)


def test_events_come_as_they_were_sent(
    connect: Connect, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Topics are told apart by their routing keys; what no serializer that is accepted wrote is dropped."""
    speaker = KombuSpeaker(namespace, connect)
    subscription = KombuSubscription(namespace, _queue(new_id(), "task.#"), ["json"], connect)
    assert not subscription.connected
    subscription.open()
    speaker.announce(f"{namespace}.worker.online", b"{}")
    speaker.announce(f"{namespace}.task.sent", b'{"type": "task-sent"}')
    found = subscription.take(time.monotonic() + 5)
    assert found is not None
    assert (f"{namespace}.task.sent", b'{"type": "task-sent"}') == (found.topic, found.payload)
    with connect() as connection, connection.Producer() as producer, caplog.at_level(logging.WARNING):
        producer.publish({"a": 1}, exchange=namespace, routing_key="task.x", serializer="pickle")
        assert None is subscription.take(time.monotonic() + 0.05)
    assert "task.x" in caplog.text
    speaker.close()
    speaker.announce(f"{namespace}.task.sent", b"{}")
    assert subscription.take(time.monotonic() + 5) is not None
    subscription.close()
    assert not subscription.connected
    speaker.close()


def test_a_broker_that_is_away(namespace: str) -> None:
    """Sending and receiving raise OperationalError, and the next call tries again."""
    from kombu.exceptions import OperationalError as KombuError

    tries = 0

    @contextmanager
    def away() -> Iterator[Connection]:
        nonlocal tries
        tries += 1
        raise KombuError("nobody there")
        yield

    subscription = KombuSubscription(namespace, _queue(new_id()), ["json"], away)
    with pytest.raises(OperationalError, match="nobody there"):
        subscription.take(time.monotonic() + 1)
    with pytest.raises(OperationalError, match="nobody there"):
        subscription.open()
    with pytest.raises(KombuError, match="nobody there"):
        KombuSpeaker(namespace, away).announce(f"{namespace}.x", b"{}")
    assert 3 == tries


def test_settings() -> None:
    """What the settings say goes to the mailbox; exclusive and durable queues are refused."""
    app = Celery("proj", set_as_current=False, broker="redis://nowhere")
    try:
        app.conf.update(control_exchange="mine", control_queue_ttl=5, event_exchange="ev")
        settings = control_settings(app.conf)
        assert ("mine", 5, "ev", True) == (
            settings.namespace, settings.queue_ttl_s, settings.event_exchange, settings.exclusive
        )  # fmt: skip
        assert 5 == settings.mailbox().get_queue("n").message_ttl
        app.conf.update(control_queue_durable=True)
        with pytest.raises(ImproperlyConfigured, match="exclusive"):
            control_settings(app.conf)
    finally:
        current.set_default_app(None)
