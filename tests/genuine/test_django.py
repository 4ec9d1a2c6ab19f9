"""A Django project on genuine Celery: django-celery-beat and django-celery-results, both as they are."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

from emq_compat.ids import new_id
from tests.broker_process import Broker
from tests.processes import Proc, Procs, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.cases]

SETTINGS = """
SECRET_KEY = "x"
USE_TZ = True
TIME_ZONE = "Europe/Berlin"
INSTALLED_APPS = ["django.contrib.contenttypes", "django_celery_beat", "django_celery_results", "proj"]
DATABASES = {{
    "default": {{
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": {folder!r} + "/db.sqlite3",
        "OPTIONS": {{"timeout": 30, "transaction_mode": "IMMEDIATE"}},
    }}
}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CELERY_BROKER_URL = {url!r}
CELERY_RESULT_BACKEND = "django-db"
CELERY_RESULT_EXTENDED = True
CELERY_TASK_TRACK_STARTED = True
CELERY_TASK_DEFAULT_QUEUE = {queue!r}
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
CELERY_BEAT_SCHEDULE = {{"settings": {{"task": "proj.tasks.tick", "schedule": 1.0, "args": ("settings",)}}}}
"""

INIT = """
import os
from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")
app = Celery({name!r})
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
"""

TASKS = """
from celery import shared_task
from django_celery_beat.models import PeriodicTask

@shared_task
def tick(mark):
    return mark

@shared_task
def add(x, y=0):
    return x + y

@shared_task
def total(numbers):
    return sum(numbers)

@shared_task(bind=True, max_retries=2)
def fail(self):
    if self.request.retries < 1:
        raise self.retry(countdown=1)
    raise ValueError("no")

@shared_task
def rename(pk, text):
    return PeriodicTask.objects.filter(pk=pk).update(description=text)
"""

DAY = """
import json, proj, django
django.setup()
from celery import chain, chord, group
from django.db import transaction
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from django_celery_results.models import TaskResult
from proj.tasks import add, fail, rename, total

told = {}
told["chord"] = chain(chord((add.s(i, 1) for i in range(5)), total.s()), add.s(y=100)).delay().get(timeout=60)
told["group"] = group(add.s(i) for i in range(4))().get(timeout=60)
wrong = fail.delay()
wrong.get(timeout=60, propagate=False)
row = TaskResult.objects.get(task_id=wrong.id)
told["failure"] = [row.status, row.task_name, "ValueError: no" in row.traceback, bool(row.worker)]
second = IntervalSchedule.objects.create(every=1, period="seconds")
with transaction.atomic():
    entry = {"task": "proj.tasks.tick", "args": '["added"]', "interval": second}
    added = PeriodicTask.objects.create(name="added", **entry)
    committed = []
    transaction.on_commit(lambda: committed.append(rename.delay(added.pk, "renamed")))
told["rows changed"] = committed[0].get(timeout=60)
print(json.dumps(told))
"""

TICKS = """
import json, proj, django
django.setup()
from django_celery_beat.models import PeriodicTask
from django_celery_results.models import TaskResult
done = TaskResult.objects.filter(task_name="proj.tasks.tick", status="SUCCESS").order_by("date_created")
print(json.dumps({
    "runs": [[row.periodic_task_name, row.result, row.date_created.timestamp()] for row in done],
    "counts": {one.name: one.total_run_count for one in PeriodicTask.objects.all()},
}))
"""


class Project:
    """The project, with a broker that its settings name."""

    def __init__(self, procs: Procs, folder: Path, url: str) -> None:
        self.procs = procs
        self.folder = folder
        self.queue = f"django-{new_id()}"
        package = folder / "proj"
        package.mkdir()
        settings = SETTINGS.format(folder=str(folder), url=url, queue=self.queue)
        (package / "settings.py").write_text(settings)
        (package / "__init__.py").write_text(INIT.format(name=self.queue))
        (package / "tasks.py").write_text(TASKS)

    def start(self, *argv: str, ready: str) -> Proc:
        """Start a command of ours in the project."""
        return self.procs.emq(
            *argv, cwd=self.folder, env={"EMQ_BEAT_LEASE": "1.5"}, ready=ready, timeout_s=60
        )

    def python(self, text: str) -> Any:
        """Run some code of the project's; returns the JSON that it prints."""
        done = self.procs.start(sys.executable, "-W", "ignore", "-c", text, cwd=self.folder)
        assert 0 == done.wait(100), done.tail()
        return json.loads(done.output() or "null")

    def ticks(self, name: str) -> list[float]:
        """When the runs of a periodic task were made, as django-celery-results has them."""
        return [
            at for task, result, at in self.python(TICKS)["runs"] if (task, result) == (name, f'"{name}"')
        ]


@pytest.fixture
def project(procs: Procs, tmp_path: Path) -> Callable[[str], Project]:
    """Makes the project by its broker's URL."""

    def make(url: str) -> Project:
        made = Project(procs, tmp_path, url)
        made.python("import proj; from django.core.management import execute_from_command_line as run; "
                    "run(['', 'migrate', '-v', '0'])")  # fmt: skip
        return made

    return make


@pytest.mark.parametrize("kind", ["emq", pytest.param("redis", marks=pytest.mark.long)])
def test_beat_and_results_in_the_projects_database(
    kind: str, project: Callable[[str], Project], request: pytest.FixtureRequest
) -> None:
    """Workflows, failures, ORM and commits in our worker; all entries, by one of two beats."""
    if kind == "emq":
        broker: Broker = request.getfixturevalue("broker")
        broker.start()
        here = project(broker.url)
    else:
        here = project(request.getfixturevalue("redis_url"))
    here.start("worker", "-A", "proj", "-c", "2", "-l", "info", ready="is ready")
    killed = here.start("beat", "-A", "proj", "-l", "info", ready="beat: leads")
    other = here.start("beat", "-A", "proj", "-l", "info", ready="standing by")
    told = here.python(DAY)
    assert 115 == told["chord"]
    assert [0, 1, 2, 3] == told["group"]
    assert ["FAILURE", "proj.tasks.fail", True, True] == told["failure"]
    assert 1 == told["rows changed"]
    wait_until(lambda: len(here.ticks("added")) >= 2, 60, interval_s=0.5)
    before = len(here.ticks("settings"))
    assert before >= 2
    killed.kill()
    other.wait_line("beat: leads", 30)
    wait_until(lambda: len(here.ticks("settings")) >= before + 3, 60, interval_s=0.5)
    other.send_signal(signal.SIGTERM)
    assert 0 == other.wait(30)
    assert here.python(TICKS)["counts"]["added"] >= 2
    if kind == "redis":
        with Connection(request.getfixturevalue("redis_url")) as connection:
            connection.default_channel.client.delete(here.queue, f"_kombu.binding.{here.queue}")
