"""django-celery-results on the shim: results in the project's database, and in its cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.processes import Proc, Procs, unused_port, wait_until
from tests.site import Site, open_site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

SETTINGS = """
import os

SECRET_KEY = "x"
USE_TZ = True
INSTALLED_APPS = ["django.contrib.contenttypes", "django_celery_results"]
DATABASES = {{
    "default": {{
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": {folder!r} + "/db.sqlite3",
        "OPTIONS": {{"timeout": 20, "transaction_mode": "IMMEDIATE"}},
    }}
}}
CACHES = {{
    "default": {{
        "BACKEND": "django.core.cache.backends.filebased.FileBasedCache",
        "LOCATION": {folder!r},
    }}
}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CELERY_BROKER_URL = {url!r}
CELERY_RESULT_BACKEND = os.environ["BACKEND"]
CELERY_CACHE_BACKEND = "default"
CELERY_RESULT_EXTENDED = True
CELERY_TASK_DEFAULT_QUEUE = os.environ["QUEUE"]
"""

INIT = """
from emq_compat import celery_shim

celery_shim.install()

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")
app = Celery("proj", include=["proj.tasks"])
app.config_from_object("django.conf:settings", namespace="CELERY")
"""

TASKS = """
from decimal import Decimal

from celery import shared_task


@shared_task
def add(x, y=0):
    return x + y


@shared_task(name="total")
def total(numbers):
    return sum(numbers)


@shared_task
def priced():
    return {"price": Decimal("1.50")}


@shared_task
def fails():
    raise LookupError("nothing", 7)


@shared_task(bind=True)
async def progress(self):
    self.update_state(state="PROGRESS", meta={"done": 1})
    state = self.backend.get_task_meta(self.request.id)
    return [state["status"], state["result"]]


@shared_task(bind=True)
def parent(self):
    return add.delay(1, 1).id
"""

CALL = """
import django

django.setup()
import json
import time

from celery import chain, chord, group
from celery.result import AsyncResult, GroupResult
from proj import app, tasks

told = {"backend": type(app.backend).__name__, "module": type(app.backend).__module__}
result = tasks.add.delay(2, y=3)
told["value"] = [result.get(timeout=60), result.state, AsyncResult(result.id).result]
told["unknown"] = AsyncResult("nobody").state
told["decimal"] = str(tasks.priced.delay().get(timeout=60)["price"])
failed = tasks.fails.delay()
error = failed.get(timeout=60, propagate=False)
traced = "LookupError" in (failed.traceback or "")
told["error"] = [type(error).__name__, list(error.args), failed.state, traced]
told["progress"] = tasks.progress.delay().get(timeout=60)
told["chain"] = chain(tasks.add.s(1), tasks.add.s(2), tasks.add.s(3)).delay(1).get(timeout=60)
told["chord"] = chord([tasks.add.s(n, 1) for n in range(4)])(tasks.total.s()).get(timeout=60)
family = tasks.parent.delay()
child = family.get(timeout=60)
told["children"] = [one.id == child for one in AsyncResult(family.id).children]
several = group(tasks.add.s(n) for n in range(3)).delay()
told["group"] = several.get(timeout=60)
several.save()
told["restored"] = [one.get(timeout=60) for one in GroupResult.restore(several.id).results]
told["no group"] = GroupResult.restore("nobody")
if told["backend"] == "DatabaseBackend":
    from django_celery_results.models import TaskResult
    from datetime import timedelta
    from django.utils import timezone

    row = TaskResult.objects.get(task_id=result.id)
    told["row"] = [row.status, row.task_name, json.loads(row.task_kwargs), row.result, bool(row.worker)]
    old = timezone.now() - timedelta(days=2)
    TaskResult.objects.filter(task_id=failed.id).update(date_done=old)
    app.tasks["celery.backend_cleanup"].delay()
    deadline = time.monotonic() + 30
    while AsyncResult(failed.id).state != "PENDING" and time.monotonic() < deadline:
        time.sleep(0.05)
    told["cleaned"] = [AsyncResult(failed.id).state, AsyncResult(result.id).state]
result.forget()
told["forgotten"] = AsyncResult(result.id).state
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with django-celery-results, which pip can't install for good: it requires Celery."""
    folder = tmp_path_factory.mktemp("package")
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder)
    argv = (*pip, "django-celery-results>=2.5")
    got = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=100)
    if got.returncode != 0:
        missing = f"django-celery-results can't be installed: {got.stderr[-300:]}"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, package: Path) -> Iterator[Site]:
    """A project with the package, and its broker."""
    folder = tmp_path_factory.mktemp("results")
    procs = Procs(folder)
    try:
        with open_site(folder, procs, unused_port) as made:
            made.start_broker()
            for name, text in (
                ("proj/__init__.py", INIT),
                ("proj/settings.py", SETTINGS.format(folder=str(made.folder), url=made.url)),
                ("proj/tasks.py", TASKS),
                ("call.py", CALL),
            ):
                path = made.folder / name
                path.parent.mkdir(exist_ok=True)
                path.write_text(text)
            yield made
    finally:
        procs.close()


def keep_open(worker: Proc, name: str) -> list[int]:
    """Return the processes of a worker that have a file open."""
    family = [psutil.Process(worker.pid), *worker.children()]
    return [one.pid for one in family if any(Path(file.path).name == name for file in one.open_files())]


@pytest.mark.parametrize(
    ("backend", "pool"),
    [
        ("django-db", "prefork"),
        ("django-db", "asyncio"),
        pytest.param("django-db", "threads", marks=pytest.mark.long),
        pytest.param("django-db", "solo", marks=pytest.mark.long),
        ("django-cache", "prefork"),
    ],
)
def test_results_are_kept_there(backend: str, pool: str, site: Site, package: Path) -> None:
    """Values, failures, states, workflows, groups and clean-up; no connection is left open by a result."""
    queue = f"{backend}-{pool}"
    environment = {
        "BACKEND": backend,
        "QUEUE": queue,
        "PYTHONPATH": str(package),
        "DJANGO_SETTINGS_MODULE": "proj.settings",
    }
    options: dict[str, Any] = {"cwd": site.folder, "env": environment}
    make = "import proj, django; django.setup(); from django.core.management import call_command as call; "
    made = site.procs.python("-c", f"{make}call('migrate', verbosity=0)", **options)
    assert 0 == made.wait(60), made.tail()
    argv = ("worker", "-A", "proj", "-c", "2", "-P", pool)
    worker = site.procs.emq(*argv, ready="is ready", timeout_s=60, **options)
    call = site.procs.python("call.py", **options)
    assert 0 == call.wait(110), call.tail() + worker.tail()
    wait_until(lambda: not keep_open(worker, "db.sqlite3"), 10, what="no open connection")
    worker.stop()
    told = json.loads(call.output().splitlines()[-1])
    row, cleaned = told.pop("row", None), told.pop("cleaned", None)
    name = "DatabaseBackend" if backend == "django-db" else "CacheBackend"
    assert {
        "backend": name,
        "module": f"django_celery_results.backends.{name.removesuffix('Backend').lower()}",
        "value": [5, "SUCCESS", 5],
        "unknown": "PENDING",
        "decimal": "1.50",
        "error": ["LookupError", ["nothing", 7], "FAILURE", True],
        "progress": ["PROGRESS", {"done": 1}],
        "chain": 7,
        "chord": 10,
        "children": [True],
        "group": [0, 1, 2],
        "restored": [0, 1, 2],
        "no group": None,
        "forgotten": "PENDING",
    } == told
    if backend == "django-db":
        assert ["SUCCESS", "proj.tasks.add", "{'y': 3}", "5", True] == row
        assert ["PENDING", "SUCCESS"] == cleaned
    assert "stays with the broker" not in worker.output()
