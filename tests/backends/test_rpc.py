"""Results as messages to whoever asked (in kombu's memory)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from kombu import Connection, Producer

from emq_compat.backends.rpc import RpcStore
from emq_compat.celery_shim import Celery
from emq_compat.errors import OperationalError
from emq_compat.message import new_id
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.record_codec import codec_of

pytestmark = pytest.mark.unit

_URL = "memory://"


def publish(queue: str, body: bytes, task_id: str) -> None:
    with Connection(_URL) as connection:
        Producer(connection.channel()).publish(
            body, exchange="", routing_key=queue, correlation_id=task_id,
            content_type="application/json", content_encoding="utf-8",
        )  # fmt: skip


@pytest.fixture
def store() -> RpcStore:
    codec = codec_of(Celery("rpc", set_as_current=False))
    return RpcStore(codec, connect=lambda: Connection(_URL), send=publish)


@pytest.fixture
def task_id() -> str:
    return new_id()


def test_what_is_sent_comes(store: RpcStore, task_id: str) -> None:
    """A result that is written for a queue is read by the process whose queue it is."""
    assert {task_id: None} == store.read([task_id])

    store.write_to(store.reply_to, task_id, {"state": "SUCCESS", "value": 5})

    [(found, stored)] = store.wait([task_id], 5)
    assert (task_id, "SUCCESS", 5) == (found, stored.state, stored.reply["value"])
    assert "SUCCESS" == store.read([task_id])[task_id].state  # type: ignore[union-attr]
    store.forget([task_id])
    assert {task_id: None} == store.read([task_id])
    store.close()


def test_the_latest_state_counts(store: RpcStore, task_id: str) -> None:
    """States come in their order; one that comes after the end changes nothing."""
    for state in ("STARTED", "SUCCESS", "RETRY"):
        store.write_to(store.reply_to, task_id, {"state": state, "value": state})

    assert "SUCCESS" == store.read([task_id])[task_id].state  # type: ignore[union-attr]


def test_what_is_no_result_is_dropped(
    store: RpcStore, task_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the task, and results go on coming."""
    publish(store.reply_to, b"no json", "odd")
    publish(store.reply_to, json.dumps({"status": "SUCCESS", "result": 1}).encode(), task_id)

    assert store.read([task_id])[task_id] is not None
    assert "odd" in caplog.text


def test_waiting_ends(store: RpcStore, task_id: str) -> None:
    """What doesn't come in time is a TimeoutError."""
    with pytest.raises(TimeoutError, match=task_id):
        list(store.wait([task_id], 0.05))


def test_no_broker(task_id: str, free_port: Callable[[], int]) -> None:
    """Where no broker answers that is an OperationalError, and nothing hangs."""
    codec = codec_of(Celery("rpc", set_as_current=False))
    url = f"amqp://127.0.0.1:{free_port()}//"
    store = RpcStore(codec, connect=lambda: Connection(url, connect_timeout=1), send=publish)

    with pytest.raises(OperationalError, match="rpc://"):
        _ = store.reply_to


@pytest.mark.parametrize("broker", ["emq://", "memory://"])
def test_it_needs_a_broker_of_kombu_s(broker: str) -> None:
    """Over our broker it is refused: results are kept there."""
    app: Any = Celery("rpc", broker=broker, backend="rpc://", set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match="needs RabbitMQ or Redis"):
        _ = app.backend
