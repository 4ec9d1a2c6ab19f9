"""Celery's rules for the names of tasks, and what registering them does."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emq_compat.celery_shim import Celery, NotRegistered, Task, shared_task
from emq_compat.shim.exceptions import DuplicateTaskNameWarning, ImproperlyConfigured
from emq_compat.shim.registry import TaskRegistry, nearest

WriteModule = Callable[[str, str], None]

unit = pytest.mark.unit


@unit
def test_a_task_is_named_by_module_and_function_unless_name_says_otherwise(app: Celery) -> None:
    """The name is MODULE.FUNCTION; name= wins."""

    @app.task
    def plain() -> None: ...

    @app.task(name="other.name")
    def named() -> None: ...

    assert (f"{__name__}.plain", "other.name") == (plain.name, named.name)
    assert app.tasks["other.name"] is named
    assert "plain" == plain.__name__


@unit
def test_an_app_may_have_its_own_rule_for_names() -> None:
    """gen_task_name can be overridden."""

    class Own(Celery):
        def gen_task_name(self, name: str, module: str | None) -> str:
            return f"own.{name}"

    @Own("p").task
    def f() -> None: ...

    assert "own.f" == f.name


#: What Celery 5.7.0 gives for the same files: how it is started → the task's name there and in a worker.
_SCRIPTS = {
    ("Celery('proj')", "script"): "proj.add",
    ("Celery()", "script"): "__main__.add",
    ("Celery('tasks')", "script"): "tasks.add",
    ("Celery('tasks')", "import"): "tasks.add",
    ("Celery('proj')", "import"): "tasks.add",
    ("Celery('proj')", "-m pkg.tasks"): "proj.add",
    ("Celery('pkg.tasks')", "-m pkg.tasks"): "pkg.tasks.add",
    ("Celery('proj')", "-c import pkg.tasks"): "pkg.tasks.add",
}


@pytest.mark.cases
@pytest.mark.integration
@pytest.mark.parametrize(("made", "started"), _SCRIPTS)
def test_a_script_names_its_tasks_as_celery_does(made: str, started: str, tmp_path: Path) -> None:
    """A module that is run directly has the app's name in place of __main__ (case 28a)."""
    text = f"from emq_compat.celery_shim import Celery\napp = {made}\n"
    text += "@app.task\ndef add(): ...\nprint(add.name)\n"
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").touch()
    for path in (tmp_path / "tasks.py", tmp_path / "pkg" / "tasks.py"):
        path.write_text(text)
    arguments = {
        "script": ["tasks.py"],
        "import": ["-c", "import tasks"],
        "-m pkg.tasks": ["-m", "pkg.tasks"],
        "-c import pkg.tasks": ["-c", "import pkg.tasks"],
    }[started]

    ran = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )

    assert _SCRIPTS[made, started] == ran.stdout.strip()


@unit
def test_a_relative_import_of_the_same_module_registers_one_task(module: WriteModule) -> None:
    """However a module is imported, its tasks are registered once."""
    module("proj28.app", "from emq_compat.celery_shim import Celery\napp = Celery('proj28')\n")
    module("proj28.tasks", "from .app import app\n@app.task\ndef add(): ...\n")
    module("proj28.user", "from .tasks import add as one\nfrom proj28.tasks import add as two\n")
    import proj28.user  # type: ignore[import-not-found]

    assert proj28.user.one is proj28.user.two
    assert ["proj28.tasks.add"] == proj28.user.one.app.tasks.own()


@unit
def test_a_name_that_is_taken_keeps_its_task_and_a_different_function_is_warned_about(app: Celery) -> None:
    """The first declaration counts, as in Celery; a second one of the same file gets a warning."""

    @app.task(name="n")
    def first() -> int:
        return 1

    with pytest.warns(DuplicateTaskNameWarning, match="n is declared twice"):

        @app.task(name="n")
        def second() -> int:
            return 2

    assert second is first


@unit
def test_the_same_function_declared_again_is_no_mistake(app: Celery) -> None:
    """A factory that is called twice declares its task twice, silently."""

    def factory() -> Task[[], None]:
        @app.task(name="made")
        def made() -> None: ...

        return made

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert factory() is factory()


@unit
def test_class_based_tasks_are_registered_by_class_or_instance(app: Celery) -> None:
    """register_task takes a Task class or an instance, named by its name or by MODULE.CLASS."""

    class Named(Task[[int], int]):
        name = "my.named"

        def run(self, x: int) -> int:
            return x

    class Unnamed(Task[[int], int]):
        def run(self, x: int) -> int:
            return x + 1

    named = app.register_task(Named())
    unnamed = app.register_task(Unnamed)

    assert {"my.named", f"{__name__}.Unnamed"} == set(app.tasks.own())
    assert (1, 2) == (named(1), unnamed(1))
    assert named.app is app


@unit
def test_an_unknown_name_raises_notregistered_which_is_a_keyerror(app: Celery) -> None:
    """app.tasks[NAME] raises NotRegistered; unregister, too."""
    with pytest.raises(NotRegistered):
        _ = app.tasks["nowhere.task"]
    with pytest.raises(KeyError):
        app.tasks.unregister("nowhere.task")


@unit
def test_the_nearest_names_have_the_same_last_part_or_look_alike() -> None:
    """For the log: same function in another module first, then names that look alike."""

    @Celery("p").task(name="proj.tasks.add")
    def add() -> None: ...

    registry = TaskRegistry({"proj.tasks.add": add, "proj.tasks.sub": add, "x": add})

    assert "proj.tasks.add" == nearest("tasks.add", registry)[0]
    assert ["proj.tasks.sub", "proj.tasks.add"] == nearest("proj.tasks.sup", registry)
    assert [] == nearest("zzz", registry)


@unit
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"queue": ""}, ImproperlyConfigured),
        ({"queue": "a\nb"}, ImproperlyConfigured),
        ({"priority": 10}, ValueError),
        ({"priority": "high"}, ValueError),
        ({"time_limit": -1}, ValueError),
        ({"soft_time_limit": "3"}, ValueError),
    ],
)
def test_an_option_that_cant_be_is_refused_at_the_declaration(
    app: Celery, options: dict[str, Any], error: type[Exception]
) -> None:
    """A queue's name, a priority or a limit that no message can have is told where it is written."""
    with pytest.raises(error):

        @app.task(**options)
        def f() -> None: ...


@unit
@pytest.mark.parametrize("decorate", ["app", "shared"])
def test_the_decorators_take_one_function(app: Celery, decorate: str) -> None:
    """Anything else than one function is a TypeError at once."""
    decorator = app.task if decorate == "app" else shared_task

    with pytest.raises(TypeError, match="one function"):
        decorator("name")  # type: ignore[call-overload]


@unit
def test_a_task_keeps_the_function_s_face(app: Celery) -> None:
    """Docstring, module, qualified name and the function itself stay reachable."""

    @app.task(bind=True)
    def f(self: object, x: int) -> int:
        """The docstring."""
        return x

    assert ("The docstring.", __name__) == (f.__doc__, f.__module__)
    assert getattr(f, "__qualname__", "").endswith("<locals>.f")
    assert 3 == f(3)
