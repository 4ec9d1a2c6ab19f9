"""Right, old and misspelt settings of a Django project under the namespace CELERY (case 31, its settings)."""

from __future__ import annotations

import pytest

from tests.site import Site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

SETTINGS = """
SECRET_KEY = "x"
USE_TZ = True
TIME_ZONE = "Europe/Oslo"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
CELERY_BROKER_URL = %r
CELERY_TASK_ROUTES = {"shop.tasks.*": {"queue": "shop"}}
CELERY_BEAT_SCHEDULE = {"often": {"task": "shop.tasks.state", "schedule": 60}}
CELERYBEAT_SCHEDULE = {"old": {}}
CELERY_TASK_ROUTS = {"x": "y"}
CELERY_BROKER_HEARTBEAT_CHECKRATE = 5
"""

APP = """
import os
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
from emq_compat.celery_shim import Celery

app = Celery("mysite")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
"""

TASKS = """
from emq_compat.celery_shim import shared_task


@shared_task
def email(pk):
    from django.contrib.auth.models import User
    return User.objects.get(pk=pk).email


@shared_task(bind=True)
def state(self):
    from django.contrib.auth.models import User  # needs an app registry that is set up
    from django.db import connection
    connection.ensure_connection()
    conf = self.app.conf
    return [self.request.delivery_info["routing_key"], str(self.app.timezone), sorted(conf.beat_schedule)]
"""

CALL = """
import django
from mysite.celery import app
django.setup()
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import transaction
from shop.tasks import email, state

call_command("migrate", verbosity=0)
print(state.delay().get(timeout=20))
print(type(state).__mro__[1].__name__)


def waiting():
    return {row["name"]: row["waiting"] for row in app.client.ask("queues")}.get("kept", 0)


def add(name):
    return User.objects.create(username=name, email=name + "@example.com").pk


with transaction.atomic():
    with transaction.atomic():
        pk = add("inner")
        print(email.delay_on_commit(pk))
        print(email.apply_async_on_commit((pk,), queue="kept"))
    print("inner committed", waiting())
print("outer committed", waiting())

for rolled_back in ("inner", "outer"):
    try:
        with transaction.atomic():
            try:
                with transaction.atomic():
                    email.apply_async_on_commit((pk,), queue="never")
                    if rolled_back == "inner":
                        raise ValueError
            except ValueError:
                print("rolled back the inner")
            if rolled_back == "outer":
                raise LookupError
    except LookupError:
        print("rolled back the outer")

email.apply_async_on_commit((pk,), queue="kept")
print("no transaction", waiting())
with transaction.atomic():
    pk = add("row")
    early = email.delay(pk)
    assert "DoesNotExist" == type(early.get(timeout=20, propagate=False)).__name__
    sent = []
    transaction.on_commit(lambda: sent.append(email.delay(pk)))
print(sent[0].get(timeout=20))
app.close()
"""

SAID = [
    "['shop', 'Europe/Oslo', ['often']]",
    "DjangoTask",
    "None",
    "None",
    "inner committed 0",
    "outer committed 1",
    "rolled back the inner",
    "rolled back the outer",
    "no transaction 2",
    "row@example.com",
]


def test_a_django_project_s_settings(site: Site) -> None:
    """Right spellings work, the old one is said to be old, the misspelt unknown; on_commit waits."""
    pytest.importorskip("django")
    site.start_broker()
    for name, text in (
        ("mysite/__init__.py", "from mysite.celery import app\n"),
        ("mysite/settings.py", SETTINGS % site.url),
        ("mysite/celery.py", APP),
        ("shop/__init__.py", ""),
        ("shop/tasks.py", TASKS),
        ("call.py", CALL),
    ):
        path = site.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    worker = site.procs.emq(
        "worker", "-A", "mysite", "-c", "1", "-Q", "shop", cwd=site.folder, ready="is ready"
    )

    log = worker.output()
    assert "unknown setting CELERYBEAT_SCHEDULE: the old name of CELERY_BEAT_SCHEDULE" in log
    assert "unknown setting CELERY_TASK_ROUTS: is CELERY_TASK_ROUTES meant?" in log
    assert "setting broker_heartbeat_checkrate has no effect" in log
    assert "setting CELERY_TASK_ROUTES" not in log
    assert "unknown setting CELERY_BEAT_SCHEDULE" not in log
    call = site.procs.python("call.py", cwd=site.folder)
    assert call.wait() == 0, call.tail()
    assert SAID == call.output().splitlines()
    assert 0 == site.queue("never")["waiting"]
