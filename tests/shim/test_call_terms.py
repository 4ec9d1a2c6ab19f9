"""Unique tasks, concurrency keys and shared rates: what a call's message says of them."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from emq_compat.celery_shim import Celery, chain, chord, group
from emq_compat.errors import DuplicateTask
from emq_compat.message import Publish
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.program import ShimProgram
from emq_compat.terms import FAIL, FOLLOW, JOIN, REFUSE, Once, Share, Shares
from tests.shim.recorder import Recorder

pytestmark = pytest.mark.unit


def once(message: Publish) -> Once:
    return Once.decode(message.headers.once)


def declared(app: Celery, **options: Any) -> Any:
    @app.task(**{"name": "sync", **options})
    def sync(user_id: int, full: bool = False, *, dry: bool = False, **more: Any) -> None:
        pass

    return sync


@pytest.mark.parametrize(
    ("unique_key", "key"),
    [
        (None, 'sync({"dry":false,"full":false,"user_id":7})'),
        (("user_id",), "sync(user_id=7)"),
        (["user_id", "full"], "sync(user_id=7,full=false)"),
        ("u-{user_id}-{full}", "sync(u-7-False)"),
        ("all", "sync(all)"),
        (lambda user_id, **rest: f"of {user_id}", "sync(of 7)"),
        (lambda *args, **kwargs: {"b": 1, "a": [2]}, 'sync({"a":[2],"b":1})'),
    ],
)
def test_a_key_of_the_arguments(app: Celery, client: Recorder, unique_key: Any, key: str) -> None:
    """The key is made of the arguments by name, however they are given, and has the task's name in it."""
    sync = declared(app, unique_for=60, unique_key=unique_key)
    sync.delay(7)
    sync.delay(user_id=7, full=False)
    sync.apply_async((7,), kwargs={"dry": False})
    assert {Once(key=key, seconds=60.0, until="done", mode=JOIN)} == set(map(once, client.published))


def test_a_long_key_is_a_digest(app: Celery, client: Recorder) -> None:
    """A key of many or odd characters is shortened to a digest: equal for equal arguments only."""
    sync = declared(app, unique_for=math.inf)
    for more in ("ü" * 100, "ü" * 100, "ü" * 101):
        sync.delay(1, text=more)
    first, same, other = map(once, client.published)
    assert first == same != other
    assert (True, 0.0) == (first.key.startswith("sync#"), first.seconds)


def test_a_key_that_a_function_makes_of_none(app: Celery, client: Recorder) -> None:
    """A function that returns None says that this call is not unique, or has no limit."""
    sync = declared(app, unique_key=lambda user_id, **_: None, concurrency_key=lambda *_, **__: None)
    sync.delay(1)
    assert ("", "") == (client.last.headers.once, client.last.headers.slots)


@pytest.mark.parametrize(
    ("unique_key", "said"),
    [
        (("nobody",), "unique_key of sync names the argument 'nobody'"),
        ("{nobody}", "it has: user_id, full, dry"),
        (lambda user_id, **_: 1 // 0 if False else [].pop(), "can't be made of these arguments: pop"),
        (lambda *_, **__: "", "unique_key of sync is empty"),
    ],
)
def test_a_key_that_cant_be_made(app: Celery, client: Recorder, unique_key: Any, said: str) -> None:
    """A call whose key can't be made is refused with the reason, and nothing is published."""
    sync = declared(app, unique_key=unique_key)
    with pytest.raises(ValueError, match=said):
        sync.delay(7)
    assert [] == client.published


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"unique_for": 0}, "unique_for must be a number of seconds"),
        ({"unique_for": True}, "unique_for"),
        ({"unique_until": "end", "unique_for": 1}, "unique_until must be one of 'done', 'started'"),
        ({"unique_until": "elapsed", "unique_key": "k"}, "needs unique_for"),
        ({"on_duplicate": "drop", "unique_for": 1}, "on_duplicate must be one of 'join', 'refuse'"),
        ({"unique_key": 3}, "unique_key must be a text .*, a tuple of names, or a function, not 3"),
        ({"unique_key": {"user_id", "full"}}, "unique_key must be a text"),
        ({"unique_key": ()}, "unique_key must be a text"),
        ({"concurrency_key": ""}, "concurrency_key must be a text"),
        ({"rate_limit_key": "u:{user_id"}, "rate_limit_key is 'u:{user_id', whose braces"),
        ({"unique_key": "u:{}"}, "braces hold the names of arguments, not their places"),
        ({"concurrency_limit": 0}, "concurrency_limit must be a whole number"),
        ({"global_rate_limit": "100/x"}, "global_rate_limit must be"),
    ],
)
def test_wrong_options(app: Celery, options: dict[str, Any], said: str) -> None:
    """A wrong option is refused when the task is declared, when it is annotated, and for one call."""
    with pytest.raises(ValueError, match=said):
        declared(app, **options)
    sync = declared(app, unique_key="k")
    with pytest.raises(ValueError, match=said):
        sync.apply_async((1,), **{"concurrency_key": "k", **options})
    app.conf.task_annotations = {"sync": options}
    with pytest.raises(ImproperlyConfigured, match="task sync: "):
        sync.delay(1)


def test_a_key_of_arguments_that_there_are_not(app: Celery) -> None:
    """A key that names what the body doesn't take is refused when the task is declared."""
    said = "names the argument 'user', which the task doesn't have; it has: user_id"
    for key in ("{user}", "{user[0]}", ("user_id", "user")):
        with pytest.raises(ValueError, match=said):
            app.task(bind=True, unique_key=key)(lambda self, user_id: None)
    assert app.task(unique_key="{user.name}")(lambda user: None).name in app.tasks


def test_the_options_of_one_call(app: Celery, client: Recorder) -> None:
    """Each option can be given to a call, also by the task's name alone."""
    sync = declared(app, unique_for=60)
    sync.apply_async((1,), unique_for=5, unique_key="mine", unique_until="started", on_duplicate="refuse")
    assert Once(key="sync(mine)", seconds=5.0, until="started", mode=REFUSE) == once(client.last)
    app.send_task("elsewhere", (7,), {"a": 1}, unique_key=("0", "a"), concurrency_key="k:{a}")
    assert ("elsewhere(0=7,a=1)", Share(key="k:1")) == (
        once(client.last).key,
        Share.decode(client.last.headers.slots),
    )
    sync.apply_async((1,), concurrency_key="u", concurrency_limit=3)
    assert Share(key="u", number=3) == Share.decode(client.last.headers.slots)
    sync.apply_async((1,), rate_limit_key="api", global_rate_limit="30/m")
    assert Share(key="api", number=2.0) == Share.decode(client.last.headers.pace)
    with pytest.raises(ValueError, match="concurrency_limit of a single call needs concurrency_key"):
        sync.apply_async((1,), concurrency_limit=3)


def test_annotations_say_it_for_all_tasks(app: Celery, client: Recorder) -> None:
    """The setting task_annotations gives tasks these options, too."""
    sync = declared(app)
    sync.delay(1)
    assert "" == client.last.headers.once
    app.conf.task_annotations = {"*": {"unique_for": 9, "on_duplicate": "refuse"}}
    sync.delay(1)
    assert (9.0, REFUSE) == (once(client.last).seconds, once(client.last).mode)


def test_a_class_may_define_its_keys(app: Celery, client: Recorder) -> None:
    """A method of a class-based task makes a key of the arguments, too."""

    class Sync(app.Task):  # type: ignore[name-defined,misc]
        name = "sync"

        def unique_key(self, user_id: int) -> str:
            return f"{self.name} {user_id}"

        def run(self, user_id: int) -> None:
            pass

    app.register_task(Sync()).delay(7)
    assert "sync(sync 7)" == once(client.last).key


# Whose id is known


class Joins(Recorder):
    """A broker where another task is there already."""

    def publish(self, message: Publish) -> str | None:  # type: ignore[override]
        super().publish(message)
        return "first" if once(message).mode == JOIN else None


def test_the_result_of_a_second_call_is_the_firsts(app: Celery) -> None:
    """delay() returns the first one's handle; a call with an id of its own keeps it."""
    app.client = client = Joins()
    sync = declared(app, unique_for=60)
    assert "first" == sync.delay(1).id
    assert "first" == app.send_task("sync", (1,)).id
    assert "mine" == sync.apply_async((1,), task_id="mine").id
    assert FOLLOW == once(client.last).mode


def test_a_refused_call_names_the_first(app: Celery, client: Recorder) -> None:
    """With ``refuse`` delay() raises an error that has the first one's id."""
    sync = declared(app, unique_for=60, on_duplicate="refuse")
    client.failures.append(DuplicateTask("there", first="f1"))
    with pytest.raises(DuplicateTask) as caught:
        sync.delay(1)
    assert "f1" == caught.value.first


def test_steps_of_workflows_end_as_the_first_does(app: Celery, client: Recorder) -> None:
    """Where others know a call's id already it can't be replaced by another: it follows, or fails."""

    @app.task(name="after")
    def after(*values: Any) -> None:
        pass

    for on_duplicate, parts, alone in (("join", FOLLOW, FOLLOW), ("refuse", FAIL, REFUSE)):
        sync = declared(app, unique_for=60, on_duplicate=on_duplicate, name=f"sync {on_duplicate}")
        modes = {}
        for name, call, mode in (
            ("group", group(sync.si(1), sync.si(2)), parts),
            ("chord", chord([sync.si(1), sync.si(2)], after.s()), parts),
            ("chain", chain(sync.si(1), after.s()), alone),
            ("link", sync.si(1).set(link=after.s()), alone),
        ):
            client.published.clear()
            call.apply_async()
            unique = [message for message in client.published if message.headers.once]
            modes[name] = {once(message).mode for message in unique} - {mode}
            if name in ("link", "chain"):
                assert [True] == [message.headers.epilogue for message in unique]
        assert {"group": set(), "chord": set(), "chain": set(), "link": set()} == modes
        with app.pipeline():
            sync.delay(1)
        assert alone == once(client.last).mode
        asyncio.run(sync.adelay(1))
        assert alone == once(client.last).mode


def test_a_body_that_takes_values_is_unique_by_what_is_known(app: Celery, client: Recorder) -> None:
    """A chord's body has arguments that nobody knows: it is unique by named ones, not by all of them."""

    @app.task(name="part")
    def part() -> None:
        pass

    @app.task(name="body", unique_for=60)
    def body(values: Any, report: int) -> None:
        pass

    chord([part.s()], body.s(7)).apply_async()
    [message] = [m for m in client.published if m.headers.task == "body"]
    assert "" == message.headers.once
    client.published.clear()
    chord([part.s()], body.s(7).set(unique_key=("report",))).apply_async()
    [message] = [m for m in client.published if m.headers.task == "body"]
    assert ("body(report=7)", FOLLOW) == (once(message).key, once(message).mode)


def test_a_stock_router_is_told_nothing(app: Celery) -> None:
    """A stock router can't keep to such terms: the call is refused."""
    app.client = Recorder(stock=True)
    with pytest.raises(ImproperlyConfigured, match="unique tasks, concurrency keys or shared rates"):
        app.send_task("proj.sync", (1,), unique_for=60)


def test_eager_calls_have_no_terms(app: Celery) -> None:
    """A task that runs at once has ended when the next is called."""
    app.conf.task_always_eager = True
    sync = declared(app, unique_for=60, concurrency_key="k")
    assert ["SUCCESS"] * 2 == [sync.delay(1).state for _ in range(2)]


def test_what_the_worker_tells(app: Celery) -> None:
    """The numbers are the worker's to say, by task; keys say whether they are for each of them."""
    for name, options in {
        "plain": {},
        "one": {"concurrency_key": "k"},
        "three": {"concurrency_key": "k:{a}", "concurrency_limit": 3},
        "all": {"concurrency_limit": 2, "global_rate_limit": "100/m"},
        "each": {"global_rate_limit": 5, "rate_limit_key": ("a",)},
    }.items():
        app.task(name=name, **options)(lambda a: None)
    policies = ShimProgram(app).policies
    assert {
        "plain": Shares(),
        "one": Shares(1, True),
        "three": Shares(3, True),
        "all": Shares(2, False, 0.6, False),
        "each": Shares(0, False, 0.2, True),
    } == {name: policies[name].shares for name in ("plain", "one", "three", "all", "each")}
