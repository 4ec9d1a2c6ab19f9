"""A shim app on a broker of kombu's: what it publishes, what its connections are, and what it refuses."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Exchange, Queue
from kombu.pools import ProducerPool

from emq_compat.celery_shim import Celery, chain, chord, group
from emq_compat.errors import ConfigurationError
from emq_compat.message import Delivery, Headers
from emq_compat.shim.current import Frame
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.request import Context
from emq_compat.shim.retrying import retry_message

pytestmark = pytest.mark.unit


@pytest.fixture
def app(tmp_path: Path) -> Celery:
    """An app that publishes into a folder."""
    made = Celery("folder", broker="filesystem://", set_as_current=False)
    made.conf.update(
        broker_transport_options={
            "data_folder_in": str(tmp_path),
            "data_folder_out": str(tmp_path),
            "control_folder": str(tmp_path / "control"),
        },
        result_backend="cache+memory://",
    )
    return made


@pytest.fixture
def sent(tmp_path: Path) -> Callable[[], list[dict[str, Any]]]:
    """A function that returns the messages in the folder, in their order; their body as JSON values."""

    def read() -> list[dict[str, Any]]:
        found = []
        for path in sorted(tmp_path.glob("*.msg")):
            message = json.loads(path.read_text())
            message["body"] = json.loads(base64.b64decode(message["body"]))
            found.append(message)
        return sorted(found, key=lambda message: str(message["headers"]["id"]))

    return read


def test_a_call_is_celery_s_protocol_2(app: Celery, sent: Callable[[], list[dict[str, Any]]]) -> None:
    """Headers, properties and body of a message are those that Celery's worker reads."""

    @app.task(name="folder.add", shared=False)
    def add(x: int, y: int) -> int:
        return x + y

    add.apply_async(
        (1,), {"y": 2}, task_id="t1", headers={"tag": "x"}, priority=3, delivery_mode=1, argsrepr="(secret)",
        countdown=60, link=add.s(3), time_limit=9,
    )  # fmt: skip

    [message] = sent()
    headers, properties = message["headers"], message["properties"]
    args, kwargs, embedded = message["body"]
    assert ([1], {"y": 2}) == (args, kwargs)
    assert "folder.add" == embedded["callbacks"][0]["task"]
    assert ("folder.add", "t1", "t1", 0, "x") == tuple(
        headers[name] for name in ("task", "id", "root_id", "retries", "tag")
    )
    assert "(secret)" == headers["argsrepr"]
    assert [9, None] == headers["timelimit"]
    assert headers["eta"].endswith("+00:00")
    assert (3, 1, "t1") == tuple(properties[name] for name in ("priority", "delivery_mode", "correlation_id"))
    assert "celery" == properties["delivery_info"]["routing_key"]


def test_the_parts_of_a_chord_have_its_body_with_them(
    app: Celery, sent: Callable[[], list[dict[str, Any]]]
) -> None:
    """Each part names its group, its place and the body, nested ones too, as Celery has it."""

    @app.task(name="folder.add", shared=False)
    def add(*args: int) -> int:
        return sum(args)

    inner = chord([add.s(1), add.s(2)], add.s().set(task_id="inner"))
    result = chord([inner, chain(add.s(3), group(add.s(4), add.s(5)))], add.s()).apply_async()

    group_id = result.parent.id
    polling = [m["body"][0] for m in sent() if m["headers"]["task"] == "celery.chord_unlock"]
    [body] = [body for chord_id, body in polling if chord_id == group_id]
    assert 2 == len(polling)
    assert result.id == body["options"]["task_id"]
    parts = [m for m in sent() if m["body"][2]["chord"] is not None]
    inner_parts = [m for m in parts if m["body"][2]["chord"]["options"]["task_id"] == "inner"]
    assert 2 == len(inner_parts)
    assert {0, 1} == {m["headers"]["group_index"] for m in inner_parts}
    assert 1 == len({m["headers"]["group"] for m in inner_parts})
    outer = inner_parts[0]["body"][2]["chord"]["options"]
    assert (group_id, result.id) == (outer["group_id"], outer["chord"]["options"]["task_id"])
    [chained] = [m for m in sent() if m["body"][2]["chain"]]
    [step] = chained["body"][2]["chain"]
    assert [group_id] * 2 == [task["options"]["group_id"] for task in step["kwargs"]["tasks"]]


def test_chords_need_results_that_can_be_read(app: Celery) -> None:
    """Without a result backend a chord raises NotImplementedError, as Celery's."""
    app.conf.result_backend = None

    @app.task(name="folder.add", shared=False)
    def add(*args: int) -> int:
        return sum(args)

    with pytest.raises(NotImplementedError, match="result_backend"):
        chord([add.s(1)], add.s()).apply_async()
    with pytest.raises(ImproperlyConfigured, match="disabled"):
        add.delay().get(timeout=1)


@pytest.mark.parametrize(
    "option", [{"unique_for": 10}, {"concurrency_key": "k"}, {"link_exhausted": {"task": "folder.add"}}]
)
def test_what_only_our_broker_has_is_refused(app: Celery, option: dict[str, Any]) -> None:
    """Unique tasks, concurrency keys and what is asked of our broker raise errors that say what they need."""
    with pytest.raises(ImproperlyConfigured, match="emq:// broker"):
        app.send_task("folder.add", **option)
    with pytest.raises(ConfigurationError, match="emq:// broker"):
        app.client.ask("queues")
    app.conf.result_backend = "emq://"
    with pytest.raises(ImproperlyConfigured, match="another result_backend"):
        _ = app.backend


def test_connections_are_kombu_s(app: Celery) -> None:
    """What the app hands out are kombu's own objects, with the app's transport options and limits."""
    app.conf.broker_connection_timeout = 2
    with app.connection_for_write(heartbeat=7) as connection:
        assert isinstance(connection, Connection)
        assert (2, 7) == (connection.connect_timeout, connection.heartbeat)
        assert "data_folder_in" in connection.transport_options
    with app.producer_or_acquire() as producer:
        producer.publish({"a": 1}, routing_key="q", declare=[Queue("q", Exchange("q"), "q")])
    assert isinstance(app.producer_pool, ProducerPool)
    with app.connection_or_acquire() as pooled:
        message = Queue("q", Exchange("q"), "q", channel=pooled.channel()).get()
        assert {"a": 1} == message.payload


@pytest.mark.parametrize(
    ("said", "queue", "via"),
    [
        ({}, "celery", None),
        ({"queue": "plain"}, "plain", None),
        ({"queue": "plain", "routing_key": "k"}, "plain", None),
        ({"queue": "topical"}, "topical", None),
        ({"queue": "topical", "routing_key": "a.b"}, "topical", ("x", "a.b")),
        ({"exchange": "x", "routing_key": "a.b"}, "celery", ("x", "a.b")),
        ({"exchange": Exchange("y", type="fanout"), "exchange_type": "fanout"}, "celery", ("y", "celery")),
    ],
)
def test_where_a_call_goes(
    app: Celery, said: dict[str, Any], queue: str, via: tuple[str, str] | None
) -> None:
    """An exchange and a key lead to the broker's bindings; a queue with a direct exchange to itself."""
    exchange = Exchange("x", type="topic")
    app.conf.task_queues = [Queue("plain"), Queue("topical", exchange, routing_key="a.#"), Queue("celery")]

    options = app.amqp.send_options("folder.add", said, (), {})

    assert (queue, via) == (options["queue"], options["via"])


def test_queues_are_declared_as_settings_say(app: Celery) -> None:
    """task_default_queue_type, task_queue_max_priority and a queue's own arguments reach its declaration."""
    app.conf.task_default_queue_type = "quorum"
    app.conf.task_queue_max_priority = 5

    assert {"x-queue-type": "quorum"} == app.client.broker.queue("celery").queue_arguments  # type: ignore[attr-defined]
    app.conf.task_queues = [Queue("celery", queue_arguments={"x-max-length": 9})]
    assert {"x-max-length": 9, "x-max-priority": 5} == app.client.broker.queue("celery").queue_arguments  # type: ignore[attr-defined]


def test_a_retry_is_no_longer_the_message_that_came(app: Celery) -> None:
    """What is tried again of a message of Celery's has a try more, an eta, and no copy of old headers."""

    @app.task(name="folder.add", shared=False)
    def add() -> None:
        """Nothing."""

    payload = (
        b'["run",{"path":"folder","callable":"add","args":[],"kwargs":{},'
        b'"celery":{"task":"folder.add","id":"t1","wire":{"headers":{"retries":0},"properties":{}}}}]'
    )
    headers = Headers(task="folder.add", task_id="t1", attempt=1)
    delivery = Delivery(msgid="m", queue="celery", headers=headers, payload=payload)
    frame = Frame(add, Context(id="t1", retries=0), delivery=delivery)

    message = retry_message(frame, args=None, kwargs=None, eta=None, countdown=5, options={})

    assert 1 == message.headers.retries
    assert message.headers.eta > 0
    assert b"wire" not in message.payload


def test_connections_stay_when_the_first_task_is_published(tmp_path: Path) -> None:
    """A pool that was used before settings were read for a publish is used after it: nothing is left open."""
    app = Celery("early", broker="filesystem://")
    folder = {"data_folder_in": str(tmp_path), "data_folder_out": str(tmp_path)}
    app.conf.broker_transport_options = folder
    connections, producers = app.pool, app.producer_pool
    app.send_task("t")
    assert connections is app.pool
    assert producers is app.producer_pool
    app.close()
