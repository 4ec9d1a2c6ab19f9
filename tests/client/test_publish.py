"""Publishing, one by one and in bulk, to a broker that works, loses or refuses."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from emq_compat.client import Client, client_for
from emq_compat.errors import BrokerRefused, LocalProtocolError, NotPublished, QueueFull
from emq_compat.message import Headers, Publish
from tests.client.conftest import message, within
from tests.client.fake_broker import FakeBroker

pytestmark = pytest.mark.integration


def test_publish(broker: FakeBroker, client: Client) -> None:
    """A publish that returned has been acknowledged, with its headers and the wish for an ACK."""
    sent = message("a queue", task="m.f", priority=3)

    client.publish(sent)

    request = broker.taken[sent.msgid]
    assert ("a queue", sent.payload) == (request.queue, request.payload)
    assert (True, "m.f", 3) == (request.headers.guarantee, request.headers.task, request.headers.priority)


def test_connections_are_kept(broker: FakeBroker, client: Client) -> None:
    """One thread needs one connection, however often it publishes."""
    for _ in range(20):
        client.publish(message())

    assert 1 == broker.hellos


def test_threads(broker: FakeBroker, connect: Callable[..., Client]) -> None:
    """Threads talk at the same time, each on its own connection, of which only some are kept."""
    client = connect(broker.url, pool_limit=2)
    barrier = threading.Barrier(10)
    sent = [message() for _ in range(200)]
    failed: list[BaseException] = []

    def publish(own: list[Publish]) -> None:
        try:
            barrier.wait(10)
            for one in own:
                client.publish(one)
        except Exception as exc:  # noqa: BLE001  (handed to the test)
            failed.append(exc)

    threads = [threading.Thread(target=publish, args=(sent[i::10],)) for i in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert [] == failed
    assert {one.msgid for one in sent} == broker.taken.keys()
    assert len(sent) == broker.requests


def test_lost_ack(broker: FakeBroker, client: Client) -> None:
    """A message whose ACK is lost with the connection is said again, under the same msgid."""
    client.publish(message())
    broker.behaviour.loses_acks = 1
    sent = message()

    client.publish(sent)

    assert 3 == broker.requests
    assert sent.msgid in broker.taken


def test_lost_request(broker: FakeBroker, client: Client) -> None:
    """A message that is lost with the connection is said again."""
    broker.behaviour.loses_requests = 3
    sent = message()

    client.publish(sent)

    assert [sent.msgid] == list(broker.taken)


def test_restart_between_two_calls(broker: FakeBroker, client: Client) -> None:
    """A broker that was restarted on its port is found again by the next call, without an error."""
    client.publish(message())
    broker.restart()

    client.publish(message())

    assert 2 == len(broker.taken)


def test_refused(broker: FakeBroker, client: Client) -> None:
    """A refusal raises by the type of its error, and the connection goes on."""
    broker.behaviour.refuses["full"] = {"type": "QueueFull", "message": "full holds 10 messages"}
    broker.behaviour.refuses["odd"] = {"type": "NotAllowed", "message": "not here"}

    with pytest.raises(QueueFull, match="full holds 10 messages"):
        client.publish(message("full"))
    with pytest.raises(BrokerRefused, match=r"^not here"):
        client.publish(message("odd"))
    client.publish(message())

    assert 1 == broker.hellos


def test_unencodable(broker: FakeBroker, client: Client) -> None:
    """A message that can't be said in eMQP/1.0 is refused before anything is sent."""
    with pytest.raises(LocalProtocolError, match="queue"):
        client.publish(message("a\nb"))

    assert 0 == broker.requests


def test_bulk(broker: FakeBroker, client: Client) -> None:
    """A bulk publish confirms all, in order, on one connection."""
    broker.behaviour.ack_batch = 256
    sent = [message() for _ in range(5_000)]

    client.publish_all(iter(sent))

    assert [one.msgid for one in sent] == list(broker.taken)
    assert (5_000, 1) == (broker.requests, broker.hellos)


def test_bulk_of_nothing(client: Client) -> None:
    """No message is no work."""
    client.publish_all([])


def test_bulk_cut(broker: FakeBroker, client: Client) -> None:
    """A bulk publish goes on after cuts, and no message is doubled or lost."""
    broker.behaviour.ack_batch = 64
    broker.behaviour.loses_acks = 2
    broker.behaviour.loses_requests = 1
    sent = [message() for _ in range(3_000)]

    client.publish_all(sent)

    assert {one.msgid for one in sent} == broker.taken.keys()
    assert broker.hellos >= 3


def test_bulk_refused(broker: FakeBroker, client: Client) -> None:
    """Of a bulk publish the refused messages are named, with the reason; the others are published."""
    broker.behaviour.refuses["full"] = {"type": "QueueFull", "message": "full holds 10 messages"}
    good, full, bad = [message() for _ in range(10)], message("full"), message("\n")

    with pytest.raises(NotPublished, match="2 of 12 messages were refused") as caught:
        client.publish_all([*good, full, bad])

    assert {full.msgid, bad.msgid} == set(caught.value.msgids)
    assert {one.msgid for one in good} == broker.taken.keys()


def test_bulk_unconfirmed(broker: FakeBroker, connect: Callable[..., Client]) -> None:
    """Messages that get no ACK within the limit are named, those not yet sent among them."""
    client = connect(broker.url, timeout_s=0.3)
    broker.behaviour.acks = False
    sent = [message() for _ in range(2_100)]

    with within(2), pytest.raises(NotPublished, match=f"2100 of 2100.*{broker.url}.*0.3 s") as caught:
        client.publish_all(sent)

    assert tuple(one.msgid for one in sent) == caught.value.msgids


def test_bulk_limit_is_for_progress(broker: FakeBroker, connect: Callable[..., Client]) -> None:
    """A large bulk publish may last longer than the limit, as long as it gets on."""
    client = connect(broker.url, timeout_s=0.5)
    payload = b'["run",{}]' + b" " * 20_000
    sent = [Publish(queue="q", headers=Headers(), payload=payload) for _ in range(2_000)]

    client.publish_all(sent)

    assert 2_000 == len(broker.taken)


def test_client_for(broker: FakeBroker) -> None:
    """A process has one client for one URL; it works again after it was closed."""
    with client_for(broker.url) as client:
        assert client is client_for(broker.url)
        client.publish(message())

    with client_for(broker.url) as client:
        client.publish(message())
    assert 2 == broker.hellos


def test_unusual_msgid(broker: FakeBroker, client: Client) -> None:
    """A msgid that looks like a JSON list is acknowledged like any other."""
    sent = Publish(queue="q", headers=Headers(), payload=b"[]", msgid="[1]")

    client.publish(sent)

    assert ["[1]"] == list(broker.taken)
