"""What a peer may not say to a broker: it is told, counted, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import zmq

from emq_compat.client import Client
from emq_compat.errors import OperationalError
from emq_compat.protocol.commands import Kbye, Nack, Ready, Reply, Request, Show
from emq_compat.wire import Wire
from tests.broker_process import Broker
from tests.hand_worker import HandWorker, message
from tests.processes import wait_until

pytestmark = pytest.mark.integration


def test_a_client_is_told(broker: Broker) -> None:
    """A client that says what is a worker's is answered with an error that names it."""
    broker.start()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    wire = Wire(context, broker.endpoint("frontend"), identity=b"client")
    try:
        wire.send(Ready(msgid="ready"))
        wire.send(Nack(msgid="nack", returned=()))
        answers: list[object] = []
        while len(answers) < 2:
            assert wire.socket.poll(10_000)
            answers += wire.receive()
    finally:
        wire.close()
        context.term()

    for answer, said in zip(answers, ("READY", "NACK"), strict=True):
        assert isinstance(answer, Reply)
        assert said.lower() == answer.request_msgid
        assert f"{said} is not for clients to say here".encode() in answer.body
    assert 2 == broker.client.ask("stats")["malformed"]


def test_what_is_not_a_workers_to_say_has_no_effect(
    broker: Broker, hand_worker: Callable[..., HandWorker]
) -> None:
    """A worker that publishes, and an administrator that says goodbye, are counted, and all goes on."""
    broker.start()
    worker = hand_worker("q")
    one = message()
    worker.wire.send(Request(msgid=one.msgid, queue="q", headers=one.headers, payload=one.payload))
    worker.wire.send(Show(msgid="m", what="STATUS"))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    administrator = Wire(context, broker.endpoint("admin"), identity=b"admin")
    try:
        administrator.send(Kbye(msgid="m"))
        wait_until(lambda: broker.client.ask("stats")["malformed"] == 3, what="three refusals")
    finally:
        administrator.close()
        context.term()

    assert 0 == broker.waiting()
    broker.client.publish(one)
    worker.ready(1)
    [request] = worker.take(1)
    assert one.msgid == request.msgid


def test_a_client_at_the_workers_address_is_told_the_clients(broker: Broker) -> None:
    """Its HELLO is answered with the port for clients, which its error names."""
    broker.start()
    told = f"this is the broker's address for workers; clients use port {broker.ports['frontend']}"
    with Client(f"emq://127.0.0.1:{broker.ports['backend']}", timeout_s=1.0) as client:
        for _ in range(3):  # the last try before the deadline has little time
            with pytest.raises(OperationalError, match=told):
                client.ask("stats")


def test_a_clients_message_at_the_workers_address_is_logged_as_that(broker: Broker) -> None:
    """Who is taken for a stock router's client can't be told: the log names it, and the port for clients."""
    proc = broker.start()
    with Client(f"emq://127.0.0.1:{broker.ports['backend']}?stock=1", identity="stray") as client:
        client.publish(message())
    proc.wait_line("a message that is not for this address (for workers) was dropped: REQUEST of 'stray-")
    assert f"; clients use port {broker.ports['frontend']}" in proc.output()
