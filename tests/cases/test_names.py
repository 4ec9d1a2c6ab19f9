"""Which name a task has, and who runs it while old and new code are there (case 28)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from emq_compat.shim.exceptions import NotRegistered
from tests.cases.conftest import ANY_POOL, pass_s
from tests.processes import Proc
from tests.site import POOLS, Site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

SCRIPT = '''
import sys
from emq_compat.celery_shim import Celery, NotRegistered

app = Celery({main}broker={url!r})


@app.task
def add(x, y):
    return x + y


if __name__ == "__main__":
    result = add.delay(2, 3)
    try:
        print(add.name, result.get(timeout=2))
    except NotRegistered:
        print(add.name, "NotRegistered")
'''

RELATIVE = '''
from emq_compat.celery_shim import Celery

app = Celery("pkg", broker={url!r}, include=["pkg.tasks"])
'''

RELATIVE_TASKS = '''
from .celery import app


@app.task
def add(x, y):
    return x + y
'''

RELATIVE_CALLER = '''
from pkg.again import add

print(add.name, add.delay(2, 3).get(timeout=5))
'''

NEW = '''
@app.task
def new(n):
    note(f"new {n}")
    return n
'''


def run(site: Site, *argv: str) -> str:
    """Run a Python program of the project; returns what it printed."""
    program = site.procs.python(*argv, cwd=site.folder, env={"PYTHONPATH": _path(site)})
    assert 0 == program.wait(30), program.tail()
    return program.output().strip()


def _path(site: Site) -> str:
    before = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(site.folder), *([before] if before else [])])


@pytest.mark.parametrize(
    ("main", "printed"),
    [('"tasks", ', "tasks.add 5"), ("", "__main__.add NotRegistered")],
    ids=["with a main name", "without"],
)
def test_a_module_that_is_run_as_a_script(site: Site, main: str, printed: str) -> None:
    """28: its tasks are named as by Celery; one that nobody has fails, and the log tells the nearest name."""
    (site.folder / "tasks.py").write_text(SCRIPT.format(main=main, url=site.url))
    site.start_broker()
    worker = start(site, "tasks")

    assert printed == run(site, "tasks.py")

    if "NotRegistered" in printed:
        [told] = [line for line in worker.output().splitlines() if "near it" in line]
        assert "'__main__.add'" in told
        assert "near it: tasks.add" in told


def start(site: Site, app: str) -> Proc:
    """Start a worker of another app than the site's own."""
    argv = ("worker", "-A", app, "-P", "threads", "-c", "2", "-l", "info")
    return site.procs.emq(*argv, cwd=site.folder, ready="is ready", timeout_s=60)


def test_a_relative_import(site: Site) -> None:
    """28: a module that is imported relatively names its tasks by the module's full name."""
    package = site.folder / "pkg"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "celery.py").write_text(RELATIVE.format(url=site.url))
    (package / "tasks.py").write_text(RELATIVE_TASKS)
    (package / "again.py").write_text("from .tasks import add as add\n")
    (site.folder / "caller.py").write_text(RELATIVE_CALLER)
    site.start_broker()
    start(site, "pkg")

    assert "pkg.tasks.add 5" == run(site, "caller.py")


@pytest.mark.parametrize("pool", ANY_POOL)
def test_an_unknown_name(site: Site, assert_alive: Callable[[Proc], None], pool: str) -> None:
    """28: it fails in time as NotRegistered, the log names those that look alike, and the worker goes on."""
    site.start_broker()
    worker = site.start_worker("-P", pool)

    name = f"{site.tasks.__name__}.pingg"
    result = site.tasks.app.send_task(name, ("x",))

    with pytest.raises(NotRegistered, match="pingg"):
        result.get(timeout=2)
    assert "FAILURE" == result.state
    [told] = [line for line in worker.output().splitlines() if "near it" in line]
    assert f"{name}'" in told
    assert f"{site.tasks.__name__}.ping," in told
    assert_alive(worker)


@pytest.mark.parametrize(
    ("pool", "wait_s"),
    [
        pytest.param("prefork", 0.5, id="short"),
        *(pytest.param(pool, 10, id=f"full-{pool}", marks=pytest.mark.long) for pool in POOLS),
    ],
)
def test_old_and_new_code_on_one_queue(site: Site, pool: str, wait_s: float) -> None:
    """28: a task that only the new worker has is run by that one, whoever asks first."""
    site.start_broker()
    site.start_worker("-P", pool, "-n", "old@%h")
    site.write_project(NEW)
    site.start_worker("-P", pool, "-n", "new@%h")
    results = [site.tasks.new.delay(n) for n in range(20)]
    began = time.monotonic()

    assert list(range(20)) == [result.get(timeout=10) for result in results]

    pass_s(began + wait_s - time.monotonic())
    assert 20 == site.count("new")
    assert (0, 0) == (site.queue()["waiting"], site.queue()["in_flight"])
    assert [] == site.client.ask("dead_list")
