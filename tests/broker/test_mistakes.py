"""A mistake of the broker's own that a message brings out: it costs the batch, not the broker."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from emq_compat.broker import server as server_module
from emq_compat.broker.exchanges import Exchanges
from emq_compat.broker.server import Server
from emq_compat.broker.store import Store
from emq_compat.client import Client
from emq_compat.config import BrokerConfig
from emq_compat.errors import JournalError, OperationalError
from tests.hand_worker import HandWorker, message
from tests.processes import wait_until

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


def test_a_disk_that_fills_up_just_then_is_waited_for(
    tmp_path: Path,
    free_port: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where the journal takes no write as the broker starts anew it tries again, and knows its clients."""

    def mistaken(self: Exchanges, name: str, *args: object, **options: object) -> None:
        failures.append(JournalError("there is no room"))
        raise ZeroDivisionError(name)

    failures: list[JournalError] = []
    commit = Store.commit

    def failing(self: Store, *args: Any, **options: Any) -> None:
        if failures:
            raise failures.pop()
        commit(self, *args, **options)

    monkeypatch.setattr(Exchanges, "declare", mistaken)
    monkeypatch.setattr(Store, "commit", failing)
    monkeypatch.setattr(server_module, "PROBE_S", 0.05)
    ports = [free_port() for _ in range(3)]
    with (
        serving(tmp_path / "data", ports) as server,
        Client(f"emq://127.0.0.1:{ports[0]}?worker_port={ports[1]}", timeout_s=5) as client,
    ):
        client.publish(message("q"))
        known = set(server.engine.receipts.our_clients)
        with pytest.raises(OperationalError):
            client.ask("declare_exchange", timeout_s=0.5, exchange="boom")
        wait_until(lambda: "trying again" in caplog.text and not server.trouble, 10, what="the disk")

        client.publish(message("q"))
        [queue] = client.ask("queues")
        assert 2 == queue["waiting"]
        assert known
        assert known <= set(server.engine.receipts.our_clients)
    assert [] == failures
    assert "there is no room; nothing of this batch was taken, trying again" in caplog.text
