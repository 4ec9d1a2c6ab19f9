"""Which app -A means, what is imported for it, and how it fails."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from emq_compat.celery_shim import Celery
from emq_compat.errors import ConfigurationError
from emq_compat.shim.find_app import AppNotFound, find_app

pytestmark = pytest.mark.unit
WriteModule = Callable[[str, str], None]

_APP = "from emq_compat.celery_shim import Celery\n"

_GENUINE = "from celery import Celery\napp = Celery()\n"

#: Files of a project, what -A says → the name of the app that Celery finds, too.
_FOUND = {
    "module:attribute": ({"fa1": "other = Celery('x')\nmine = Celery('mine')\n"}, "fa1:mine", "mine"),
    "module with app": ({"fa2": "celery = Celery('c')\napp = Celery('a')\n"}, "fa2", "a"),
    "module with celery": ({"fa3": "celery = Celery('c')\n"}, "fa3", "c"),
    "module with anything": ({"fa4": "whatever = Celery('w')\n"}, "fa4", "w"),
    "package with celery.py": ({"fa5.celery": "app = Celery('pc')\n"}, "fa5", "pc"),
    "package.celery": ({"fa6.celery": "app = Celery('pc')\n"}, "fa6.celery", "pc"),
    "package.celery:app": ({"fa7.celery": "app = Celery('pc')\n"}, "fa7.celery:app", "pc"),
    "package.celery.app": ({"fa8.celery": "app = Celery('pc')\n"}, "fa8.celery.app", "pc"),
    "package that re-exports": (
        {"fa9.celery": "app = Celery('pc')\n", "fa9.__init__": "from .celery import app as celery_app\n"},
        "fa9",
        "pc",
    ),
    "module named app": ({"fa10.app": "application = Celery('in')\n"}, "fa10.app", "in"),
    "nested attribute": ({"fa11": "class NS:\n    app = Celery('ns')\n"}, "fa11:NS.app", "ns"),
    "factory": ({"fa12": "def make():\n    return Celery('made')\n"}, "fa12:make", "made"),
}


@pytest.mark.parametrize("how", _FOUND)
def test_the_app_is_found_where_celery_finds_it(how: str, module: WriteModule) -> None:
    """proj, proj.celery, proj:app, proj.celery:app and the rest of the table of shim/find_app.py."""
    files, written, name = _FOUND[how]
    for file, text in files.items():
        module(file, text if file.endswith("__init__") else _APP + text)

    assert name == find_app(written).main


@pytest.mark.parametrize(
    ("files", "written", "told"),
    [
        ({}, "no_such_module", "no module 'no_such_module'"),
        ({}, "no_such_module:app", "no module 'no_such_module'"),
        ({}, "", "needs the name of a module"),
        ({"fb1": "x = 1\n"}, "fb1", "no Celery app in the module fb1"),
        ({"fb2": "x = 1\n"}, "fb2:app", "fb2 has no Celery app 'app'"),
        ({"fb3": "import a_missing_lib\n"}, "fb3", "importing fb3 failed: No module named 'a_missing_lib'"),
        ({"fb4": "\n1/0\n"}, "fb4:app", r"importing fb4 failed: ZeroDivisionError.*fb4\.py, line 2"),
        ({"fb5.celery": "1/0\n"}, "fb5", "importing fb5.celery failed: ZeroDivisionError"),
        ({"fb6": "def (:\n"}, "fb6", "importing fb6 failed: SyntaxError"),
        ({"fb7": "import sys\nsys.exit(3)\n"}, "fb7", "importing fb7 failed: SystemExit: 3"),
        ({"fb8": "def app():\n    raise KeyError('k')\n"}, "fb8:app", "calling app failed: KeyError: 'k'"),
        ({"celery": "class Celery: ...\n", "fb9": _GENUINE}, "fb9", "no Celery app in the module fb9"),
        ({"celery": "class Celery: ...\n", "fb10": _GENUINE}, "fb10:app", "fb10 has no Celery app 'app'"),
    ],
)
def test_an_app_that_cant_be_had_is_one_clear_error(
    files: dict[str, str], written: str, told: str, module: WriteModule
) -> None:
    """The message says what was missing, or which module failed and how; it is a ConfigurationError."""
    for file, text in files.items():
        module(file, text)

    with pytest.raises(AppNotFound, match=told) as caught:
        find_app(written)
    assert isinstance(caught.value, ConfigurationError)


def test_a_file_is_no_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """-A with a file's path says which module is meant."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "proj.py").write_text("")
    with pytest.raises(AppNotFound, match=r"-A inner/proj.py is a file, .*: -A inner\.proj$"):
        find_app("inner/proj.py")


def test_the_current_directory_is_looked_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project is found from its own folder without being installed."""
    (tmp_path / "fc1.py").write_text(_APP + "app = Celery('here')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    assert "here" == find_app("fc1").main
    del sys.modules["fc1"]


def test_task_modules_are_imported_by_include_imports_and_discovery(
    app: Celery, module: WriteModule
) -> None:
    """import_default_modules() imports include, imports, and the tasks module of each discovered package."""
    declare = "from emq_compat.celery_shim import shared_task\n@shared_task\ndef f(): ...\n"
    for name in ("fd1", "fd2", "fd3.tasks", "fd4.jobs", "fd5.tasks", "fd6.other"):
        module(name, declare)
    module("fd7", "x = 1\n")
    app.conf.update(include=["fd1"], imports="fd2")
    app.autodiscover_tasks(["fd3", "fd6", "fd7"])
    app.autodiscover_tasks(lambda: ["fd4"], related_name="jobs")
    app.autodiscover_tasks(["fd5.tasks"], related_name=None)

    assert [] == app.tasks.own()
    app.loader.import_default_modules()

    assert {"fd1.f", "fd2.f", "fd3.tasks.f", "fd4.jobs.f", "fd5.tasks.f"} == set(app.tasks.own())


@pytest.mark.parametrize(
    ("package", "text", "told"),
    [
        ("fe1", "import a_missing_library\n", "a_missing_library"),
        ("fe2", "from fe2 import nothing_such\n", "nothing_such"),
        ("fe3", "1/0\n", "division"),
    ],
)
def test_an_error_inside_a_tasks_module_is_not_passed_over(
    app: Celery, module: WriteModule, package: str, text: str, told: str
) -> None:
    """A package without tasks is silent; one whose tasks module fails stops the start (case 29)."""
    module(f"{package}.tasks", text)
    app.autodiscover_tasks([package])

    with pytest.raises(Exception, match=told):
        app.loader.import_default_modules()


def test_a_package_that_isnt_there_is_an_error(app: Celery, module: WriteModule) -> None:
    """A missing package, or include, is told; force imports at once."""
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        app.autodiscover_tasks(["no_such_package"], force=True)
    app.conf.include = ["no_such_module"]
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        app.loader.import_default_modules()


def test_a_class_in_a_package_stands_for_the_package(app: Celery, module: WriteModule) -> None:
    """Django's shop.apps.ShopConfig means the package shop."""
    module("ff1.apps", "class ShopConfig: ...\n")
    module("ff1.tasks", "from emq_compat.celery_shim import shared_task\n@shared_task\ndef f(): ...\n")

    app.autodiscover_tasks(["ff1.apps.ShopConfig"], force=True)

    assert ["ff1.tasks.f"] == app.tasks.own()
