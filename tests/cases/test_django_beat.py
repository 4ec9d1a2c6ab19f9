"""django-celery-beat on the shim: its scheduler, with entries in the project's database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.site import Site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

SETTINGS = """
SECRET_KEY = "x"
USE_TZ = True
TIME_ZONE = "Europe/Berlin"
INSTALLED_APPS = ["django.contrib.contenttypes", "django_celery_beat"]
DATABASES = {{
    "default": {{
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": {folder!r} + "/db.sqlite3",
        "OPTIONS": {{"timeout": 20, "transaction_mode": "IMMEDIATE"}},
    }}
}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CELERY_BROKER_URL = {url!r}
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
CELERY_BEAT_SCHEDULE = {{"settings": {{"task": "proj.run", "schedule": 1.0, "args": ("settings",)}}}}
"""

PROJECT = """
from emq_compat import celery_shim

celery_shim.install()

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")
app = Celery("proj")
app.config_from_object("django.conf:settings", namespace="CELERY")


@app.task
def run(mark):
    with open({runs!r}, "a") as file:
        file.write(f"run {{mark}}\\n")
"""

ADD = """
import proj, django
django.setup()
from datetime import timedelta
from django.utils import timezone
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask

def add(name, **schedule):
    PeriodicTask.objects.create(name=name, task="proj.run", args=f'["{name}"]', **schedule)

second = IntervalSchedule.objects.create(every=1, period="seconds")
add("added", interval=second)
add("off", interval=second, enabled=False)
new_year = CrontabSchedule.objects.create(minute="0", hour="0", day_of_month="1", month_of_year="1")
add("yearly", crontab=new_year)
add("clocked", clocked=ClockedSchedule.objects.create(clocked_time=timezone.now()), one_off=True)
"""

TOLD = """
import proj, django
django.setup()
from django_celery_beat.models import PeriodicTask
for one in PeriodicTask.objects.all():
    print(one.name, one.total_run_count, one.last_run_at is not None)
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with django-celery-beat, which pip can't install for good: it requires Celery."""
    folder = tmp_path_factory.mktemp("package")
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder)
    wanted = ("django-celery-beat>=2.8", "cron-descriptor<2", "django-timezone-field", "python-crontab")
    got = subprocess.run((*pip, *wanted), capture_output=True, text=True, check=False, timeout=100)
    if got.returncode != 0:
        missing = f"django-celery-beat can't be installed: {got.stderr[-300:]}"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return folder


def test_entries_of_the_database_are_sent(site: Site, package: Path) -> None:
    """Those of the settings, and those that are added while beat runs; last runs and counts are written."""
    site.start_broker()
    folder = site.folder / "proj"
    folder.mkdir()
    runs = site.folder / "runs"
    (folder / "__init__.py").write_text(PROJECT.format(runs=str(runs)))
    (folder / "settings.py").write_text(SETTINGS.format(folder=str(site.folder), url=site.url))
    options: dict[str, Any] = {
        "cwd": site.folder,
        "env": {"PYTHONPATH": str(package), "DJANGO_SETTINGS_MODULE": "proj.settings"},
    }

    def python(text: str) -> str:
        done = site.procs.python("-c", text, **options)
        assert 0 == done.wait(60), done.tail()
        return done.output()

    make = "import proj, django; django.setup(); from django.core.management import call_command as call; "
    python(f"{make}call('migrate', verbosity=0)")
    worker = ("worker", "-A", "proj", "-P", "threads", "-c", "2")
    site.procs.emq(*worker, ready="is ready", timeout_s=60, **options)
    beat = site.procs.emq("beat", "-A", "proj", "-l", "info", ready="Starting", timeout_s=60, **options)
    site.wait_runs("run settings", 2)
    python(ADD)
    site.wait_runs("run added", 2)
    site.wait_runs("run clocked")
    beat.send_signal(signal.SIGTERM)
    assert 0 == beat.popen.wait(30), beat.tail()
    told = dict(line.split(maxsplit=1) for line in python(TOLD).splitlines())
    assert ("1 True", "0 False", "0 False") == (told["clocked"], told["off"], told["yearly"])
    assert int(told["added"].split()[0]) >= 2
    assert [0, 0, 1] == [site.count(f"run {mark}") for mark in ("off", "yearly", "clocked")]
