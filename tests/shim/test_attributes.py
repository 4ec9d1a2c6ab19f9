"""Attributes of tasks: options, settings, annotations; and the stack of requests."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from emq_compat.celery_shim import Celery, Context, Task
from emq_compat.shim.exceptions import CeleryWarning, ImproperlyConfigured
from tests.shim.recorder import Recorder, Worker

pytestmark = pytest.mark.unit


def test_an_unknown_option_is_an_attribute_of_the_task(app: Celery) -> None:
    """A project's own option is kept, and so is each of Celery's, under its name."""

    @app.task(own_option=5, trail=False, resultrepr_maxsize=9, acks_on_timeout=False, delivery_mode=1)
    def optioned() -> None: ...

    task: Any = optioned
    assert (5, False, 9) == (task.own_option, task.trail, task.resultrepr_maxsize)
    assert (False, 1, True) == (task.acks_on_timeout, task.delivery_mode, task.send_events)


def test_a_task_looks_like_its_function(app: Celery) -> None:
    """Signature, name, docstring and the function itself can be had; a bound task's signature has no self."""

    def plain(x: int, *, y: str = "") -> bytes:
        """What it does."""
        return b""

    def bound(self: Any, x: int) -> None: ...

    one, two = app.task(plain), app.task(bind=True)(bound)

    assert "(x: 'int', *, y: 'str' = '') -> 'bytes'" == str(inspect.signature(one))
    assert "(x: 'int') -> 'None'" == str(inspect.signature(two))
    assert ("plain", "What it does.", plain) == (one.__name__, one.__doc__, one.__wrapped__)


@pytest.mark.parametrize("attribute", ["acks_on_failure", "acks_on_timeout"])
def test_the_split_acks_settings_fall_back_to_the_joint_one(app: Celery, attribute: str) -> None:
    """acks_on_failure and acks_on_timeout are True, or what the older joint setting or attribute says."""

    @app.task
    def plain() -> None: ...

    @app.task(acks_on_failure_or_timeout=False)
    def never() -> None: ...

    assert (True, False) == (getattr(plain, attribute), getattr(never, attribute))
    app.conf.task_acks_on_failure_or_timeout = False
    assert getattr(plain, attribute) is False
    app.conf[f"task_{attribute}"] = True
    assert getattr(plain, attribute) is True


def test_annotations_set_attributes_of_tasks(app: Celery, client: Recorder) -> None:
    """task_annotations changes attributes by name or for any task, before and after the declaration."""
    app.conf.task_annotations = {"*": {"rate_limit": "7/s", "queue": "any"}, "proj.one": {"queue": "one"}}

    @app.task(name="proj.one", queue="declared")
    def one() -> None: ...

    @app.task(name="proj.two")
    def two() -> None: ...

    assert ("7/s", "one", "any") == (one.rate_limit, one.queue, two.queue)
    app.conf.task_annotations = {"proj.two": {"priority": 6}}
    two.delay()
    assert (6, "any") == (client.last.headers.priority, client.last.queue)


def test_annotations_may_be_objects_or_their_names(
    app: Celery, module: Callable[[str, str], None]
) -> None:
    """An object with annotate(task), or the name of its class, says what holds for a task."""
    text = "class Notes:\n    def annotate(self, task):\n        return {'queue': task.name}\n"
    module("notes_of_tasks", text)
    app.conf.task_annotations = ["notes_of_tasks.Notes", {"*": {"queue": "any", "priority": 3}}]

    @app.task(name="proj.one")
    def one() -> None: ...

    assert ("proj.one", 3) == (one.queue, one.priority)
    app.conf.task_annotations = ["no_such_module.Notes"]
    with pytest.raises(ImproperlyConfigured, match="no_such_module"):
        one.annotate()


def test_an_annotation_may_wrap_a_method_or_replace_a_handler(
    app: Celery, client: Recorder, worker: Worker
) -> None:
    """``@run`` names a decorator of the body, and a plain function becomes a method; once is enough."""
    told = []

    def twice(run: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: 2 * run(*args, **kwargs)

    def on_success(self: Any, retval: Any, *args: Any) -> None:
        told.append((self.name, retval))

    app.conf.task_annotations = {"*": {"@run": twice, "on_success": on_success}}

    @app.task(name="proj.one")
    def one(x: int) -> int:
        return x + 1

    app.conf.touch()
    one.delay(4)
    worker.run(client.last)
    assert [("proj.one", 10)] == told


def test_filter_is_called_with_the_new_task(app: Celery) -> None:
    """What the option ``filter`` returns is what is registered."""
    seen = []

    @app.task(name="proj.one", filter=lambda task: seen.append(task) or task, lazy=False, shared=False)
    def one() -> None: ...

    assert [one] == seen == [app.tasks["proj.one"]]


def test_a_request_class_is_warned_about(app: Celery) -> None:
    """Celery's Request and Strategy classes have no part in a worker here, which is said at once."""
    with pytest.warns(CeleryWarning, match="Request"):
        app.task(Request="proj:Request")(lambda: None)


def test_requests_are_pushed_and_popped(app: Celery) -> None:
    """A test may enter a request; one inside another starts with what the outer one has."""

    @app.task(bind=True, name="proj.one")
    def one(self: Any) -> str:
        return str(self.request.id)

    task: Any = one
    assert task.request.called_directly
    assert task.request_stack.top is None
    task.push_request(id="a", retries=2)
    task.push_request(id="b")
    assert ("b", 2, 2) == (task.request.id, task.request.retries, len(task.request_stack))
    task.pop_request()
    assert ("a", "a") == (task.request.id, task.request_stack.top.id)
    task.pop_request()
    assert task.request.id is None


def test_a_run_keeps_the_results_it_published(app: Celery, client: Recorder, worker: Worker) -> None:
    """request.children and the reply name them; trail and add_to_parent leave them out."""

    @app.task(name="proj.leaf")
    def leaf() -> None: ...

    def publish(self: Task[..., Any]) -> list[str]:
        ids = [leaf.delay().id, leaf.apply_async(add_to_parent=False).id]
        assert ids[:1] == [child.id for child in self.request.children[:1]] or not self.trail
        return ids

    kept = app.task(bind=True, name="proj.kept")(publish)
    left_out = app.task(bind=True, name="proj.left_out", trail=False)(publish)
    for task, expected in ((kept, 1), (left_out, 0)):
        result = task.delay()
        worker.run(client.last)
        reply = client.stored[result.id].reply
        assert [[[i, None], None] for i in reply["value"][:expected]] == reply.get("children", [])


def test_shadow_name_chooses_the_shown_name(app: Celery, client: Recorder, worker: Worker) -> None:
    """A task's shadow_name is asked at each call; ``shadow=`` wins over it."""
    seen: list[Context] = []

    def shadow_name(task: Any, args: Any, kwargs: Any, options: Any) -> str:
        return f"{task.name} of {args[0]}"

    @app.task(bind=True, name="proj.one", shadow_name=shadow_name)
    def one(self: Any, x: int) -> None:
        seen.append(self.request)

    one.delay(1)
    worker.run(client.last)
    one.apply_async((1,), shadow="other")
    worker.run(client.last)
    assert ["proj.one of 1", "other"] == [request.shadow for request in seen]


def test_custom_headers_are_attributes_of_the_request(
    app: Celery, client: Recorder, worker: Worker
) -> None:
    """request.NAME and request.headers both have a header; one never hides what a request is."""
    seen: list[Any] = []

    @app.task(bind=True)
    def one(self: Any) -> None:
        seen.append(self.request)

    result = one.apply_async(headers={"tenant": "t", "id": "forged", "is_eager": True})
    worker.run(client.last)
    assert ("t", "t", False) == (seen[0].tenant, seen[0].headers["tenant"], seen[0].is_eager)
    assert result.id == seen[0].id == seen[0].properties["correlation_id"]
