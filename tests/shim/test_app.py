"""The app itself: its arguments, when it is finalized, fix-ups, pickling, its parts."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from emq_compat.celery_shim import Celery, Task, shared_task
from emq_compat.shim.amqp import AMQP
from emq_compat.shim.exceptions import NotRegistered
from emq_compat.shim.loader import BaseLoader
from emq_compat.shim.pickling import AppPickler
from emq_compat.shim.registry import TaskRegistry
from tests.shim.recorder import Recorder

pytestmark = pytest.mark.unit


def new_app(name: str = "p", **arguments: Any) -> Celery:
    return Celery(name, set_as_current=False, **arguments)


def test_settings_may_be_arguments() -> None:
    """What isn't an argument of Celery but a setting's name, old or new, is taken as that."""
    app = new_app(task_default_queue="q", CELERY_ACKS_LATE=True, changes={"task_time_limit": 3})

    assert ("q", True, 3) == (app.conf.task_default_queue, app.conf.task_acks_late, app.conf.task_time_limit)


def test_it_is_finalized_once_when_its_tasks_are_first_used() -> None:
    """on_after_finalize comes once, with the builtin tasks there; declaring tasks doesn't finalize."""
    app = new_app()
    told: list[bool] = []

    @app.on_after_finalize.connect
    def ready(sender: Celery, **_: object) -> None:
        told.append("celery.chain" in sender.tasks)

    @app.task
    def mine() -> None: ...

    assert ([], False) == (told, app.finalized)
    assert mine is app.tasks[mine.name]
    app.finalize()
    assert ([True], True) == (told, app.finalized)
    with pytest.raises(NotRegistered):
        _ = app.tasks["nothing"]


def test_without_autofinalize_its_tasks_want_finalize_first(client: Recorder) -> None:
    """autofinalize=False makes every use of tasks a RuntimeError until finalize() was called."""
    app = new_app(autofinalize=False)

    @app.task
    def mine() -> None: ...

    with pytest.raises(RuntimeError, match="app not finalized"):
        _ = app.tasks
    with pytest.raises(RuntimeError, match="app not finalized"):
        mine.delay()
    app.finalize()
    app.client = client
    mine.delay()
    assert mine.name in app.tasks


def test_who_adapts_it_is_asked_for_packages_and_before_imports(module: Callable[[str, str], None]) -> None:
    """A fix-up is called with the app; its hooks come before imports, and name the packages to look in."""
    text = "from emq_compat.celery_shim import shared_task\n@shared_task\ndef one(): pass\n"
    module("fixed_tasks", text)
    calls: list[str] = []

    class Fixup:
        def __init__(self, app: Celery) -> None:
            calls.append(app.main or "")

        def before_import(self) -> None:
            calls.append("before")

        def autodiscover_tasks(self) -> list[str]:
            calls.append("packages")
            return ["fixed_tasks"]

    app = new_app(fixups=[Fixup, lambda app: None])
    app.autodiscover_tasks(related_name=None)
    assert ["p"] == calls
    app.loader.import_default_modules()
    assert ["p", "before", "packages"] == calls
    assert "fixed_tasks.one" in app.tasks
    assert {"fixed_tasks"} == app.loader.task_modules


def test_parts_may_be_other_classes(module: Callable[[str, str], None]) -> None:
    """amqp, loader, tasks and task_cls take a class or its dotted path, as do attributes of a subclass."""

    class Loader(BaseLoader):
        def on_worker_init(self) -> None:
            self.task_modules.add("hooked")

    class Amqp(AMQP):
        argsrepr_maxsize = 3

    class Registry(TaskRegistry):
        pass

    class Base(Task[..., Any]):
        queue = "of-base"

    app = new_app(loader=Loader, amqp=Amqp, tasks=Registry, task_cls=Base)

    @app.task
    def mine() -> None: ...

    app.loader.init_worker()
    app.loader.init_worker()
    assert {"hooked"} == app.loader.task_modules
    assert "(1," == app.amqp.create_task_message("id", "n", (1, 2)).headers["argsrepr"]
    assert isinstance(app.tasks, Registry)
    assert "of-base" == mine.queue
    module("my_parts", "from emq_compat.celery_shim import Task\nclass Base(Task):\n    queue = 'by-path'\n")
    assert "by-path" == new_app(task_cls="my_parts:Base").Task.queue

    class Mine(Celery):
        task_cls = "my_parts:Base"

        def on_init(self) -> None:
            self.conf.task_time_limit = 9

    mine_app = Mine("m", set_as_current=False)
    assert ("by-path", 9) == (mine_app.Task.queue, mine_app.conf.task_time_limit)


def test_shared_tasks_are_of_the_app_s_class(module: Callable[[str, str], None]) -> None:
    """shared_task makes a task of the current app's task_cls, as Celery does."""

    class Base(Task[..., Any]):
        pass

    app = new_app(task_cls=Base)
    app.set_current()

    @shared_task
    def shared() -> None: ...

    assert isinstance(shared, Base)


def test_an_app_is_pickled_by_what_it_was_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy has the same name, settings and source, and doesn't become the current app."""
    app = new_app(broker="emq://h", config_source={"task_default_queue": "q"}, namespace="X")
    app.conf.task_time_limit = 4

    copy = pickle.loads(pickle.dumps(app))

    assert ("p", "X") == (copy.main, copy.namespace)
    assert ("emq://h", 4) == (copy.conf.broker_url, copy.conf.task_time_limit)
    made: list[dict[str, Any]] = []

    class Pickler(AppPickler):
        def construct(self, cls: type[Celery], **kwargs: Any) -> Celery:
            made.append(kwargs)
            return super().construct(cls, **kwargs)

    monkeypatch.setattr(Celery, "Pickler", Pickler)
    function, arguments = app.__reduce__()
    assert "p" == function(*arguments).main
    assert "p" == made[0]["main"]


def test_a_class_can_carry_the_app() -> None:
    """subclass_with_self gives a class the app as an attribute."""

    class Thing:
        """A thing."""

        app: Celery | None = None

        def __reduce_args__(self) -> tuple[()]:
            return ()

    app = new_app()
    made = app.subclass_with_self(Thing, name="Made", attribute="app", extra=1)

    assert ("Made", app, 1, "A thing.") == (made.__name__, made.app, made.extra, made.__doc__)
    assert "Thing" == made().__reduce__()[1][0]


def test_ids_of_process_and_thread() -> None:
    """oid stays the same in a process, thread_oid in a thread only."""
    app = new_app()
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.extend((app.oid, app.thread_oid)))
    thread.start()
    thread.join()

    assert seen[0] == app.oid != new_app().oid
    assert seen[1] != app.thread_oid == app.thread_oid


def test_a_fork_is_told() -> None:
    """on_after_fork is sent in the child."""
    app = new_app()
    read, write = os.pipe()

    @app.on_after_fork.connect
    def forked(sender: Celery, **_: object) -> None:
        os.write(write, str(sender.main).encode())

    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read, "rb") as told:
        assert b"p" == told.read()


def test_periodic_entries_are_added_before_and_after_the_settings_are_read() -> None:
    """add_periodic_task fills beat_schedule; it reads no settings itself."""
    app = new_app(config_source={"beat_schedule": {"read": {}}})

    @app.task(name="p.tick")
    def tick(*args: int) -> None: ...

    assert "every" == app.add_periodic_task(10, tick.s(1), name="every", args=(2,), expires=5)
    assert not app.configured
    assert {"read", "every"} == set(app.conf.beat_schedule)
    app.add_periodic_task(20, tick, kwargs={"k": 1}, name="later")
    entry = app.conf.beat_schedule["every"]
    assert (10, "p.tick", [2, 1], 5) == (
        entry["schedule"], entry["task"], list(entry["args"]), entry["options"]["expires"],
    )  # fmt: skip
    assert {"k": 1} == app.conf.beat_schedule["later"]["kwargs"]


def test_a_bug_report_names_versions_and_masks_secrets() -> None:
    """bugreport() has software, platform and settings, and no password."""
    text = new_app(broker="emq://u:hidden@h").bugreport()

    assert ["software", "platform", "loader", "settings"] == [
        word for word in ("software", "platform", "loader", "settings") if f"{word}" in text
    ]
    assert "hidden" not in text


def test_signing_messages_is_refused() -> None:
    """setup_security raises, and says what there is instead."""
    with pytest.raises(NotImplementedError, match="CURVE"):
        new_app().setup_security()


def test_a_worker_is_started_by_a_command_line_of_its_own() -> None:
    """worker_main wants the command in its words; Worker turns options into them."""
    app = new_app()

    with pytest.raises(ValueError, match="'worker'"):
        app.worker_main(["-c", "2"])
    words = app.Worker(concurrency=2, queues=["a", "b"], quiet=True, pool=None).argv()
    assert ["worker", "--concurrency", "2", "--queues", "a,b", "--quiet"] == words


def test_either_takes_what_is_given_before_the_setting() -> None:
    """app.either: the first argument that isn't None, else the setting."""
    app = new_app()

    assert "celery" == app.either("task_default_queue", None)
    assert 0 == app.either("task_default_queue", None, 0)


def test_the_loader_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, module: Callable[[str, str], None]
) -> None:
    """CELERY_LOADER (--loader) is the loader of an app that names none of its own."""
    module(
        "loading",
        "from emq_compat.celery_shim import Celery\nfrom emq_compat.shim.loader import AppLoader\n"
        "class Loader(AppLoader): ...\nclass Own(AppLoader): ...\n",
    )
    monkeypatch.setenv("CELERY_LOADER", "loading:Loader")
    assert "Loader" == type(Celery("proj", set_as_current=False).loader).__name__
    assert "Own" == type(Celery("proj", loader="loading:Own", set_as_current=False).loader).__name__
    monkeypatch.setenv("CELERY_LOADER", "app")
    assert "AppLoader" == type(Celery("proj", set_as_current=False).loader).__name__


def test_the_backend_of_the_first_use_stays() -> None:
    """app.backend is one object, also where asking for it reads the settings."""
    app = new_app()
    app.config_from_object({"task_default_queue": "q"})
    first = app.backend
    assert first is app.backend
