"""A mistake of the broker's own that a message brings out: it costs the batch, not the broker."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from emq_compat.broker.exchanges import Exchanges
from emq_compat.broker.server import Server
from emq_compat.client import Client
from emq_compat.config import BrokerConfig
from emq_compat.errors import OperationalError
from tests.hand_worker import HandWorker, message

pytestmark = pytest.mark.integration


@contextlib.contextmanager
def serving(data: Path | None, ports: list[int]) -> Iterator[Server]:
    """A broker in a thread of this process, so that a mistake can be made in it."""
    front, back, admin = (f"tcp://127.0.0.1:{port}" for port in ports)
    config = BrokerConfig(frontend=front, backend=back, admin=admin, memory=data is None, data=data or Path())
    server = Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()
        server.close()


@pytest.mark.parametrize("memory", [True, False])
def test_a_mistake_costs_the_batch_only(
    memory: bool,
    tmp_path: Path,
    free_port: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The broker logs where it was, keeps all that was confirmed, and its workers and clients go on."""

    def mistaken(self: Exchanges, name: str, *args: object, **options: object) -> None:
        raise ZeroDivisionError(name)

    monkeypatch.setattr(Exchanges, "declare", mistaken)
    ports = [free_port() for _ in range(3)]
    url = f"emq://127.0.0.1:{ports[0]}?worker_port={ports[1]}"
    with (
        serving(None if memory else tmp_path / "data", ports),
        Client(url, timeout_s=5) as client,
        zmq.Context() as context,
    ):
        worker = HandWorker(context, f"tcp://127.0.0.1:{ports[1]}", "q")
        first, second = message("q"), message("q")
        client.publish(first)
        worker.ready(2)
        [request] = worker.take(1)

        with pytest.raises(OperationalError):
            client.ask("declare_exchange", timeout_s=0.5, exchange="boom")

        client.publish(second)
        [queue] = client.ask("queues")
        assert ("q", 1, 1) == (queue["name"], queue["waiting"], queue["in_flight"])
        worker.close()
        assert request.msgid == first.msgid
        assert "ZeroDivisionError: boom" in caplog.text
        assert "declare_exchange" in caplog.text
