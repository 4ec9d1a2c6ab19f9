"""Which importable path a task has, and that following it runs the task (shim/paths.py)."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emq_compat.celery_shim import Celery
from emq_compat.message import Job
from emq_compat.shim.exceptions import NoImportablePath
from emq_compat.shim.paths import path_of
from tests.shim.recorder import Recorder

unit = pytest.mark.unit
WriteModule = Callable[[str, str], None]

_HEAD = "import functools\nfrom emq_compat.celery_shim import Celery, Task, shared_task\napp = Celery('p')\n"
_BY_NAME = "emq_compat.shim.paths:ByName"

#: module text, and the expression for the task in it → (path, callable, class_args); {m} is the module.
_DECLARED = {
    "function": ("@app.task\ndef f(x): return x + 1\n", "m.f", ("{m}", "f", ())),
    "bound": ("@app.task(bind=True)\ndef f(self, x): return x + 1\n", "m.f", ("{m}", "f", ())),
    "shared": ("@shared_task\ndef f(x): return x + 1\n", "m.f", ("{m}", "f", ())),
    "under another name": (
        "def _f(x): return x + 1\npublic = app.task(_f)\n",
        "m.public",
        ("{m}", "public", ()),
    ),
    "private": ("@app.task\ndef _f(x): return x + 1\n", "m._f", ("{m}", "_f", ())),
    "class-based, assigned": (
        "class F(Task):\n    def run(self, x): return x + 1\nf = app.register_task(F())\n",
        "m.f",
        ("{m}", "f", ()),
    ),
    "class-based, not assigned": (
        "class F(Task):\n    def run(self, x): return x + 1\napp.register_task(F())\n",
        "m.app.tasks['{m}.F']",
        (_BY_NAME, "run", ("{m}", "{m}.F")),
    ),
    "method": (
        "class C:\n    @app.task\n    def f(x): return x + 1\n",
        "m.C.f",
        (_BY_NAME, "run", ("{m}", "{m}.f")),
    ),
    "loop": (
        "tasks = []\nfor n in (1, 2):\n    @app.task(name=f'add{{n}}')\n"
        "    def f(x, n=n): return x + n\n    tasks.append(f)\n",
        "m.tasks[0]",
        (_BY_NAME, "run", ("{m}", "add1")),
    ),
    "factory": (
        "def make(name):\n    @app.task(name=name)\n    def f(x): return x + 1\n    return f\nmake('made')\n",
        "m.app.tasks['made']",
        (_BY_NAME, "run", ("{m}", "made")),
    ),
    "decorated once more": (
        "def twice(f):\n    @functools.wraps(f)\n    def w(*a): return 100 * f(*a)\n    return w\n"
        "@twice\n@app.task(name='inner')\ndef f(x): return x + 1\n",
        "m.app.tasks['inner']",
        (_BY_NAME, "run", ("{m}", "inner")),
    ),
    "hidden by something else": (
        "@app.task(name='hidden')\ndef f(x): return x + 1\nf = 3\n",
        "m.app.tasks['hidden']",
        (_BY_NAME, "run", ("{m}", "hidden")),
    ),
    "of another app than the current one": (
        "class C:\n    @app.task(name='theirs')\n    def f(x): return x + 1\nlater = Celery('later')\n",
        "m.C.f",
        (_BY_NAME, "run", ("{m}", "theirs")),
    ),
}


@unit
@pytest.mark.parametrize("how", _DECLARED)
def test_a_task_declared_while_a_module_is_imported_has_a_path(how: str, module: WriteModule) -> None:
    """The path is the module's attribute that is the task, or ByName; a stock job manager's calls run it."""
    body, where, (path, called, class_args) = _DECLARED[how]
    name = f"paths_{list(_DECLARED).index(how)}"
    module(name, _HEAD + body.replace("{{", "{").replace("}}", "}"))
    m = importlib.import_module(name)
    task = eval(where.format(m=name), {"m": m})

    found = path_of(task)

    wanted = tuple(part.format(m=name) for part in class_args)
    assert (path.format(m=name), called, wanted) == (found.path, found.callable, found.class_args)
    job = Job(path=found.path, callable=found.callable, class_args=found.class_args, args=(1,))
    assert 2 == _as_a_stock_job_manager(job)


def _as_a_stock_job_manager(job: Job) -> Any:
    module, _, cls = job.path.partition(":")
    holder: Any = importlib.import_module(module)
    if cls:
        holder = getattr(holder, cls)(*job.class_args, **job.class_kwargs)
    return getattr(holder, job.callable)(*job.args, **job.kwargs)


@unit
def test_a_task_made_at_run_time_has_no_path(app: Celery) -> None:
    """A task that no import declares can't be reached by importing: NoImportablePath says what to do."""

    @app.task(name="nowhere")
    def f() -> None: ...

    f.declared_in = None

    with pytest.raises(NoImportablePath, match="declare it at the top level of a module"):
        path_of(f)


@unit
def test_without_a_path_a_task_is_refused_for_a_stock_router_and_published_to_ours(app: Celery) -> None:
    """The publish to a stock router raises; our own workers find the task by its name."""

    @app.task(name="nowhere")
    def f() -> None: ...

    f.declared_in = None
    stock, ours = Recorder(stock=True), Recorder()

    app.client = stock
    with pytest.raises(NoImportablePath):
        f.delay()
    app.client = ours
    f.delay()

    assert [] == stock.published
    assert "nowhere" == ours.last.headers.task


@unit
def test_a_module_s_task_may_be_published_while_the_module_is_imported(module: WriteModule) -> None:
    """The path is the one that the task will have; it is looked up again afterwards."""
    module(
        "early",
        "from emq_compat.celery_shim import Celery\nfrom tests.shim.recorder import Recorder\n"
        "app = Celery('p')\napp.client = Recorder(stock=True)\n"
        "def sent(task):\n    task.delay()\n    return task\n"
        "@sent\n@app.task\ndef f(): return 1\ng = f\nf = None\n",
    )
    early = importlib.import_module("early")
    early.g.delay()

    first, second = (Job.decode(m.payload) for m in early.app.client.published)
    assert ("early", "f") == (first.path, first.callable)
    assert ("early", "g") == (second.path, second.callable)


_SCRIPT = """
import json
from emq_compat.celery_shim import Celery
from emq_compat.shim.exceptions import NoImportablePath
from emq_compat.shim.paths import path_of
app = Celery({name!r})
@app.task
def add(x): return x + 1
if __name__ == "__main__":
    try:
        p = path_of(add)
        print(json.dumps([p.path, p.callable, list(p.class_args)]))
    except NoImportablePath as exc:
        print(json.dumps(str(exc)))
"""


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("tasks", ["tasks.py"], ["tasks", "add", []]),
        ("pkg.tasks", ["-m", "pkg.tasks"], ["pkg.tasks", "add", []]),
        (None, ["tasks.py"], "of an app without a name"),
    ],
)
def test_a_script_s_task_is_reached_by_the_module_s_name(
    name: str | None, arguments: list[str], expected: object, tmp_path: Path
) -> None:
    """What runs as __main__ is imported elsewhere by its real name, or the app's; else it has no path."""
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").touch()
    for path in (tmp_path / "tasks.py", tmp_path / "pkg" / "tasks.py"):
        path.write_text(_SCRIPT.format(name=name))

    ran = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )

    found = json.loads(ran.stdout)
    if isinstance(expected, str):
        assert expected in found
    else:
        assert expected == found
