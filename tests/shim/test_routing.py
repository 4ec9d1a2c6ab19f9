"""task_routes and task_queues: which queue a call goes to. The expected queues are genuine Celery's."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from emq_compat.celery_shim import Celery, Task
from emq_compat.shim.exceptions import ImproperlyConfigured, QueueNotFound
from emq_compat.shim.routes import Routes
from tests.shim.recorder import Recorder

pytestmark = pytest.mark.unit

AnyTask = Task[..., Any]


@pytest.fixture
def app(client: Recorder) -> Celery:
    made = Celery("p", set_as_current=False)
    made.client = client
    return made


def queue_of(app: Celery, client: Recorder, name: str, **options: Any) -> str:
    app.send_task(name, (1,), **options)
    return client.last.queue


@pytest.mark.parametrize(
    ("routes", "name", "expected"),
    [
        ({"a.b": "exact", "a.*": "glob"}, "a.b", "exact"),
        ({"a.*": "glob", "a.b": "exact"}, "a.b", "exact"),
        ({"a.*": "glob", "a.b": "exact"}, "a.c", "glob"),
        ({"*": "all", "a.*": "narrow"}, "a.c", "all"),
        ({"a.*": "narrow", "*": "all"}, "a.c", "narrow"),
        ({re.compile(r"(video|image)\..*"): "media"}, "image.resize", "media"),
        ({re.compile(r"ideo"): "media"}, "video", "celery"),
        ({"a.?": "one"}, "a.b", "celery"),
        ([("a.*", "pairs"), ("b.*", {"queue": "dict"})], "b.x", "dict"),
        ([{"a.*": "first"}, {"a.b": "second"}], "a.b", "first"),
        (([("a.*", "nested")],), "a.b", "nested"),
        ({"a": {"queue": "q", "routing_key": "x"}}, "a", "q"),
        ({"a": {"routing_key": "x"}}, "a", "celery"),
        ({"a": {"exchange": "media", "routing_key": "media"}}, "a", "media"),
        (None, "a", "celery"),
    ],
)
def test_a_route_leads_where_celery_s_does(
    app: Celery, client: Recorder, routes: Any, name: str, expected: str
) -> None:
    """The exact name counts first, then patterns in their order, then the next router."""
    app.conf.task_routes = routes

    assert expected == queue_of(app, client, name)


def test_a_call_wins_over_its_task_and_both_over_the_route(app: Celery, client: Recorder) -> None:
    """Celery's precedence: options of the call, attributes of the task, the route, the default."""
    app.conf.task_routes = {"p.*": {"queue": "routed", "priority": 7}}

    @app.task(name="p.own", queue="own", priority=2)
    def own() -> None: ...

    @app.task(name="p.plain")
    def plain() -> None: ...

    sent = []
    for call in (
        plain.delay,
        own.delay,
        lambda: own.apply_async(queue="called", priority=1),
        lambda: plain.apply_async(queue="called"),
        lambda: app.send_task("p.own"),
        lambda: app.send_task("p.plain", queue="called"),
    ):
        call()
        sent.append((client.last.queue, client.last.headers.priority))

    expected = [("routed", 7), ("own", 2), ("called", 1), ("called", 7), ("own", 2), ("called", 7)]
    assert expected == sent


def test_a_router_function_is_asked_at_each_call(
    app: Celery, client: Recorder, module: Callable[[str, str], None]
) -> None:
    """It gets name, arguments, options and the task; a dotted path to one, or to a class, will do."""
    seen: list[Any] = []

    def route(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> Any:
        seen.append((name, tuple(args), dict(kwargs), options.get("countdown"), task))
        return {"queue": f"of-{args[0]}"} if args else None

    app.conf.task_routes = (route, {"p.add": "fallback"})

    @app.task(name="p.add")
    def add(x: int = 0, y: int = 0) -> int:
        return x + y

    add.delay(1, y=2)
    assert "of-1" == client.last.queue
    add.apply_async((7,), countdown=3)
    assert "of-7" == client.last.queue
    add.delay()
    assert "fallback" == client.last.queue
    add.apply_async((7,), queue="called")
    assert "called" == client.last.queue
    assert [("p.add", (1,), {"y": 2}, None, add), ("p.add", (7,), {}, 3, add)] == seen[:2]
    module(
        "my_routers",
        "def route(name, args, kwargs, options, task=None, **kw):\n    return 'by-path'\n"
        "class Old:\n    def route_for_task(self, task, args=None, kwargs=None):\n"
        "        return {'queue': 'old'}\n"
        "table = {'p.*': 'table'}\n",
    )
    paths = {"my_routers.route": "by-path", "my_routers:Old": "old", "my_routers.table": "table"}
    for path, expected in paths.items():
        app.conf.task_routes = path
        add.delay()
        assert expected == client.last.queue


def test_what_is_no_router_or_no_route_is_said_to_be_none(app: Celery, client: Recorder) -> None:
    """A setting that can't be one raises where a task is published."""
    for routes in (5, {5: "x"}, {"a": 5}, lambda *_, **__: 5):
        app.conf.task_routes = routes
        with pytest.raises(ImproperlyConfigured, match="task_routes"):
            app.send_task("a")
    app.conf.task_routes = "no_such_module.router"
    with pytest.raises(ModuleNotFoundError):
        app.send_task("a")


def test_further_options_of_a_route_reach_the_message(app: Celery, client: Recorder) -> None:
    """A route may say more than a queue: expires, headers …; the call's own win."""
    app.conf.task_routes = {"a": {"queue": "q", "headers": {"from": "route"}}}

    app.send_task("a")
    assert ("q", {"from": "route"}) == (client.last.queue, client.last_job.celery["headers"])
    app.send_task("a", headers={"from": "call"})
    assert {"from": "call"} == client.last_job.celery["headers"]


@pytest.mark.parametrize(
    ("routes", "hidden"),
    [
        ({"a.*": "x", "a.b.*": "y"}, ["'a.b.*' never counts, 'a.*' stands before it"]),
        ({"a.b.*": "y", "a.*": "x"}, []),
        ({"*": "x", "a.*": "y", "a.b": "z"}, ["'a.*' never counts, '*' stands before it"]),
        ([{"a.*": "x"}, {"a.b": "y"}], ["'a.b' never counts, 'a.*' stands before it"]),
        ([{"a.b": "x"}, {"a.b": "y"}], ["'a.b' never counts, 'a.b' stands before it"]),
        ({"*.a": "x", "b.*": "y", re.compile("c"): "z"}, []),
        (None, []),
    ],
)
def test_a_route_that_can_never_count_is_told(routes: Any, hidden: list[str]) -> None:
    """A pattern behind a wider one, and a name behind another router's pattern, are a line for the log."""
    assert [f"task_routes: {line}" for line in hidden] == Routes(routes).problems()


def test_queues_are_found_by_exchange_and_key(app: Celery, client: Recorder) -> None:
    """An exchange with a key leads to the queue that is bound so, in direct and in topic exchanges."""
    app.conf.task_queues = {
        "videos": {"exchange": "media", "routing_key": "media.video"},
        "images": {"exchange": "media", "routing_key": "media.image"},
        "logs": {"exchange": "events", "exchange_type": "topic", "routing_key": "log.#"},
        "errors": {"exchange": "alerts", "exchange_type": "topic", "routing_key": "*.error"},
    }
    found = [
        queue_of(app, client, "a", exchange=exchange, routing_key=key)
        for exchange, key in (
            ("media", "media.video"), ("media", "media.image"), ("events", "log"), ("events", "log.a.b"),
            ("alerts", "db.error"),
        )
    ]  # fmt: skip
    assert ["videos", "images", "logs", "logs", "errors"] == found
    with pytest.raises(ImproperlyConfigured, match="no queue is bound"):
        app.send_task("a", exchange="alerts", routing_key="db.x.error")
    app.conf.task_default_queue = "logs"
    assert "logs" == queue_of(app, client, "a", routing_key="log.a")


def test_kombu_s_queues_are_taken_as_they_are(app: Celery, client: Recorder) -> None:
    """task_queues may hold kombu's Queue objects; their names count, and their bindings."""
    kombu = pytest.importorskip("kombu")
    media = kombu.Exchange("media", type="direct")
    app.conf.task_queues = (
        kombu.Queue("default", routing_key="default"),
        kombu.Queue("videos", exchange=media, routing_key="media.video"),
    )
    app.conf.task_default_queue = "default"
    video = app.conf.task_queues[1]
    app.conf.task_routes = {"v": {"exchange": "media", "routing_key": "media.video"}, "w": video}

    assert "default" == queue_of(app, client, "a")
    assert "videos" == queue_of(app, client, "v")
    assert "videos" == queue_of(app, client, "w")
    assert "videos" == queue_of(app, client, "a", queue=app.amqp.queues["videos"])
    assert {"default", "videos"} == set(app.amqp.queues.consume_from)


def test_routing_needs_no_kombu(app: Celery, client: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """kombu is imported by nobody here, unless the settings have its objects."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "kombu"]:
        monkeypatch.delitem(sys.modules, name)
    app.conf.update(task_queues=["a", "b"], task_routes={"x": "a"}, task_default_queue="b")

    assert ["a", "b"] == [queue_of(app, client, "x"), queue_of(app, client, "y")]
    assert "kombu" not in sys.modules


def test_an_unknown_queue_is_refused_where_none_may_be_made_up(app: Celery, client: Recorder) -> None:
    """task_create_missing_queues=False: a queue that task_queues lacks is QueueNotFound."""
    app.conf.update(task_queues=["celery", "known"], task_create_missing_queues=False)

    assert "known" == queue_of(app, client, "a", queue="known")
    with pytest.raises(QueueNotFound, match="'unknown' missing from task_queues"):
        app.send_task("a", queue="unknown")
    app.conf.task_routes = {"a": "lost"}
    with pytest.raises(QueueNotFound, match="'lost'"):
        app.send_task("a")
    with pytest.raises(QueueNotFound, match="'nowhere'"):
        app.select_queues(["nowhere"])


@pytest.mark.parametrize("name", ["", "a\nb", 256 * "q"])
def test_a_name_that_can_be_none_is_refused_at_declaration(app: Celery, name: str) -> None:
    """An empty name, one with a line break and one too long raise in settings, in a task and in a call."""
    app.conf.task_queues = [name]
    with pytest.raises(ImproperlyConfigured, match="can't be a queue's name"):
        _ = app.amqp.queues
    app.conf.task_queues = None
    with pytest.raises(ImproperlyConfigured, match="can't be a queue's name"):
        app.task(queue=name)(lambda: None)
    with pytest.raises(ImproperlyConfigured, match="can't be a queue's name"):
        app.send_task("a", queue=name)


def test_a_worker_s_queues_are_selected_and_deselected(app: Celery) -> None:
    """select() keeps these only, deselect() leaves some out; without task_queues there is the default one."""
    assert ["celery"] == list(app.amqp.queues.consume_from)
    app.conf.task_queues = ["a", "b", "c"]
    queues = app.amqp.queues
    queues.deselect(["b"])
    assert ["a", "c"] == list(queues.consume_from)
    app.select_queues(["b", "new"])
    assert ["b", "new"] == list(queues.consume_from)
    queues.select_add("more", routing_key="m")
    assert ["b", "more", "new"] == sorted(queues.consume_from)
    assert ".> more" in queues.format()
    assert queues is app.amqp.queues


def test_children_have_their_parent_s_priority_where_the_setting_says_so(
    app: Celery, client: Recorder
) -> None:
    """task_inherit_parent_priority gives a call without a priority that of the running task's message."""
    app.conf.task_inherit_parent_priority = True

    @app.task(name="p.child")
    def child() -> None: ...

    @app.task(name="p.parent", bind=True)
    def parent(self: AnyTask) -> None:
        self.request.delivery_info = {"priority": 6}
        child.delay()
        child.apply_async(priority=2)

    parent.apply(throw=True)

    assert [6, 2] == [m.headers.priority for m in client.published]


def test_the_router_answers_for_itself(app: Celery) -> None:
    """app.amqp has Celery's names: router.route, default_queue, routes, Queues, create_task_message."""
    app.conf.task_routes = {"a": {"queue": "q"}}
    amqp = app.amqp

    assert "q" == amqp.router.route({}, "a")["queue"].name
    assert {"queue": "q"} == amqp.router.lookup_route("a")
    assert ("celery", 1) == (amqp.default_queue.name, len(amqp.routes))
    assert not amqp.Router(create_missing=False).create_missing
    message = amqp.create_task_message("id", "a", (1,), {"k": 2}, countdown=10, callbacks=[1])
    assert ("a", "id", "(1,)") == tuple(message.headers[key] for key in ("task", "id", "argsrepr"))
    assert ((1,), {"k": 2}, [1]) == (*message.body[:2], message.body[2]["callbacks"])
    assert message.headers["eta"] > app.now().isoformat()
    routes = {"b": "old"}
    app.conf.task_routes = routes
    assert {"queue": "old"} == amqp.router.lookup_route("b")
    routes["b"] = "new"
    amqp.flush_routes()
    assert {"queue": "new"} == amqp.router.lookup_route("b")
    assert SimpleNamespace(queue="x").queue == amqp.router.expand_destination("x")["queue"].name


def test_a_call_s_queue_counts_at_each_call_anew(app: Celery, client: Recorder) -> None:
    """A queue that a call names goes with the route's priority each time, and with the call's own."""
    app.conf.task_routes = {"a": {"queue": "routed", "priority": 3}}
    for options, expected in (
        ({"queue": "x"}, ("x", 3)),
        ({"queue": "x", "priority": 7}, ("x", 7)),
        ({"queue": "x", "priority": None}, ("x", 3)),
        ({"queue": "y"}, ("y", 3)),
        ({}, ("routed", 3)),
    ):
        queue = queue_of(app, client, "a", **options)
        assert expected == (queue, client.last.headers.priority)
    app.conf.task_routes = {"a": {"priority": 5}}
    assert "x" == queue_of(app, client, "a", queue="x")
    assert 5 == client.last.headers.priority
