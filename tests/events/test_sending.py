"""Events, their clock, and sending them."""

from __future__ import annotations

from typing import Any

import pytest

from emq_compat.celery_shim import Celery
from emq_compat.shim.events.clock import Clock
from emq_compat.shim.events.dispatcher import OFFLINE_LIMIT
from emq_compat.shim.events.event import Event, get_exchange, group_from, matches
from emq_compat.shim.events.system import Events
from emq_compat.shim.program import ShimProgram
from tests.events.conftest import Announcing
from tests.shim.recorder import Worker

pytestmark = pytest.mark.unit

#: What an event of a task that is sent has (Celery's documentation of events).
SENT = {
    "type", "timestamp", "hostname", "utcoffset", "pid", "clock",
    "uuid", "name", "args", "kwargs", "retries", "eta", "expires", "root_id", "parent_id",
    "queue", "exchange", "routing_key",
}  # fmt: skip


def test_an_event() -> None:
    """An event is a dict with its type and a timestamp, now unless it has one."""
    event = Event("group-name", {"a": 1}, b=2)
    assert {"type": "group-name", "a": 1, "b": 2} == {k: v for k, v in event.items() if k != "timestamp"}
    assert 1.5 == Event("x", timestamp=1.5)["timestamp"]
    assert ("group", "alone") == (group_from("group-some-name"), group_from("alone"))
    assert ("celeryev", "topic") == (get_exchange().name, get_exchange().type)


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        ("#", "task.sent", True),
        ("task.#", "task.sent", True),
        ("task.#", "task", True),
        ("task.#", "worker.online", False),
        ("*.sent", "task.sent", True),
        ("task.*", "task.my.own", False),
        ("#.own", "task.my.own", True),
        ("task.sent", "task.sent", True),
        ("task.sent", "task.sent.more", False),
    ],
)
def test_routing_keys(pattern: str, key: str, expected: bool) -> None:
    """A routing key is matched as a topic exchange does."""
    assert expected == matches(pattern, key)


def test_the_clock() -> None:
    """The clock goes with the time, never stands still or back, and is later than what it was adjusted to."""
    now = [100.0]
    clock = Clock(now=lambda: now[0])
    assert 100_000_000 == clock.forward()
    assert 100_000_001 == clock.forward()
    now[0] = 50.0
    assert 100_000_002 == clock.forward()
    assert 200_000_001 == clock.adjust(200_000_000)
    assert 200_000_002 == clock.adjust(7)
    now[0] = 300.0
    assert 300_000_000 == clock.forward()


def test_send(app: Celery, client: Announcing) -> None:
    """An event goes out with its sender's name, pid, offset and clock, under a topic of its type."""
    with app.events.Dispatcher(app.connection(), hostname="me@h") as dispatcher:
        dispatcher.send("my-own-event", number=1)
        dispatcher.send("my-other", blind=True)

    (topic, event), (_, blind) = client.announced
    assert "celeryev.my.own.event" == topic
    assert {"type", "timestamp", "hostname", "utcoffset", "pid", "clock", "number"} == event.keys()
    assert ("my-own-event", "me@h", 1) == (event["type"], event["hostname"], event["number"])
    assert app.clock.value == event["clock"]
    assert blind["clock"] is None


def test_the_exchange_is_the_topics_beginning(app: Celery, client: Announcing) -> None:
    """The setting event_exchange keeps sites on one broker apart."""
    app.conf.event_exchange = "theirs"
    app.events.Dispatcher(app.connection()).send("a-b")
    assert ["theirs.a.b"] == [topic for topic, _ in client.announced]


def test_disabled(app: Celery, client: Announcing) -> None:
    """A dispatcher that is disabled sends nothing; both changes are told."""
    told: list[str] = []
    dispatcher = app.events.Dispatcher(app.connection(), enabled=False)
    dispatcher.on_enabled.add(lambda: told.append("on"))
    dispatcher.on_disabled.add(lambda: told.append("off"))
    dispatcher.send("a-b")
    dispatcher.enable()
    dispatcher.send("a-c")
    dispatcher.disable()
    dispatcher.send("a-d")
    assert ["a-c"] == [event["type"] for event in client.events]
    assert ["on", "off"] == told


def test_groups(app: Celery, client: Announcing) -> None:
    """With groups only their events are sent; without, all are."""
    dispatcher = app.events.Dispatcher(app.connection(), groups=["worker"])
    dispatcher.send("task-sent")
    dispatcher.send("worker-online")
    assert ["worker-online"] == [event["type"] for event in client.events]
    assert (True, False) == (dispatcher.sends("worker"), dispatcher.sends("task"))
    assert app.events.Dispatcher(app.connection()).sends("task")


def test_sent_together(app: Celery, client: Announcing) -> None:
    """Events of a buffered group are sent as one list, one alone by itself; a full buffer is sent at once."""
    calls: list[int] = []
    dispatcher = app.events.Dispatcher(
        app.connection(), buffer_group=["task"], buffer_limit=3, on_send_buffered=lambda: calls.append(1)
    )
    dispatcher.send("task-a")
    dispatcher.send("worker-b")
    dispatcher.send("task-c")
    dispatcher.flush()
    dispatcher.send("task-d")
    dispatcher.flush()
    for _ in range(3):
        dispatcher.send("task-e")

    topics = [topic for topic, _ in client.announced]
    expected = ["celeryev.worker.b", "celeryev.task.multi", "celeryev.task.d", "celeryev.task.multi"]
    assert expected == topics
    types = [event["type"] for event in client.events]
    assert ["worker-b", "task-a", "task-c", "task-d", "task-e", "task-e", "task-e"] == types
    assert 5 == len(calls)


def test_not_too_many_bytes_together(app: Celery, client: Announcing) -> None:
    """Large events of a group go in several messages, in order."""
    dispatcher = app.events.Dispatcher(app.connection(), buffer_group=["task"])
    for number in range(10):
        dispatcher.send("task-large", number=number, text="x" * 60_000)
    dispatcher.flush()
    assert [*range(10)] == [event["number"] for event in client.events]
    assert {"celeryev.task.multi"} == {topic for topic, _ in client.announced}
    assert 2 < len(client.announced) < 10


def test_without_a_broker(app: Celery, client: Announcing, caplog: pytest.LogCaptureFixture) -> None:
    """Without a broker events are kept, up to a limit, in order; nobody who sends one hears of it."""
    dispatcher = app.events.Dispatcher(app.connection())
    client.away = True
    for number in range(OFFLINE_LIMIT + 2):
        dispatcher.send("a-b", number=number)
    dispatcher.flush()
    assert [] == client.announced
    assert 1 == sum(record.levelname == "WARNING" for record in caplog.records)

    client.away = False
    dispatcher.flush()
    dispatcher.send("a-last")
    numbers = [event.get("number") for event in client.events]
    assert [*range(2, OFFLINE_LIMIT + 2), None] == numbers


def test_not_kept(app: Celery, client: Announcing) -> None:
    """The default dispatcher drops what can't be sent."""
    client.away = True
    with app.events.default_dispatcher() as dispatcher:
        dispatcher.send("a-b")
        client.away = False
        dispatcher.flush()
    assert [] == client.announced


def test_what_is_no_json(app: Celery) -> None:
    """A field that JSON can't carry is an error of whoever sends it."""
    dispatcher = app.events.Dispatcher(app.connection())
    with pytest.raises(TypeError):
        dispatcher.send("a-b", field=object())


def test_a_producer_of_ones_own(app: Celery, client: Announcing) -> None:
    """``publish`` sends by one of the app's producers, or by anything that has publish()."""

    class Producer:
        def publish(self, event: Any, routing_key: str, **more: Any) -> None:
            sent.append((routing_key, event["type"]))

    sent: list[tuple[str, str]] = []
    dispatcher = app.events.Dispatcher(app.connection(), enabled=False)
    dispatcher.publish("a-b", {"x": 1}, Producer())
    with app.producer_or_acquire() as producer:
        dispatcher.publish("a-c", {"x": 2}, producer)
    assert [("a.b", "a-b")] == sent
    assert [2] == [event["x"] for event in client.events]


def test_the_apps_classes(app: Celery) -> None:
    """``app.events`` gives classes with the app, each made once; Celery(events=…) replaces it."""
    assert isinstance(app.events, Events)
    assert app.events is app.events
    assert app.events.Receiver is app.events.Receiver
    assert app is app.events.Dispatcher.app

    class Own(Events):
        pass

    assert isinstance(Celery("own", events=Own, set_as_current=False).events, Own)


def test_task_sent(app: Celery, client: Announcing) -> None:
    """With task_send_sent_event a publish sends an event with Celery's fields; without it, none."""

    @app.task(name="proj.add")
    def add(x: int, y: int) -> int:
        return x + y

    add.delay(1, 2)
    assert [] == client.events
    app.conf.task_send_sent_event = True
    before = app.clock.forward()
    result = add.apply_async((1,), {"y": 2}, countdown=60, expires=120, queue="other")

    [event] = client.events
    assert SENT == event.keys()
    told = ["task-sent", result.id, "proj.add", "(1,)", "{'y': 2}", 0, "other", result.id, None]
    names = ("type", "uuid", "name", "args", "kwargs", "retries", "queue", "root_id", "parent_id")
    assert told == [event[name] for name in names]
    assert event["eta"] < event["expires"]
    assert before < event["clock"]


def test_task_sent_without_a_broker_for_it(app: Celery, client: Announcing) -> None:
    """An event that can't be sent fails no publish."""

    @app.task(name="proj.one")
    def one() -> int:
        return 1

    app.conf.task_send_sent_event = True
    client.away = True
    one.delay()
    assert 1 == len(client.published)


def test_send_event(app: Celery, client: Announcing) -> None:
    """A task sends events of its own, with its id and its worker's name."""

    @app.task(name="proj.one", bind=True)
    def one(self: Any) -> int:
        self.send_event("task-progress", done=3)
        return 1

    result = one.delay()
    Worker(ShimProgram(app), client).run(client.last)
    [event] = client.events
    assert ("task-progress", result.id, 3) == (event["type"], event["uuid"], event["done"])
