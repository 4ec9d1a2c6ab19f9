"""A Django project for tests: its files, and scripts that run in it.

Its database notes in a file who opens and closes connections: ``open|close|foreign PID THREAD``; a connection
that is closed in a process that didn't open it is ``foreign``.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_django_project"]

SETTINGS = """
import os

BASE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SECRET_KEY = "x"
USE_TZ = True
TIME_ZONE = "Europe/Oslo"
LANGUAGE_CODE = "en"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "shop.apps.ShopConfig"]
DATABASES = {{
    name: {{
        "ENGINE": "noting",
        "NAME": os.path.join(BASE, name + ".sqlite3"),
        "OPTIONS": {{"timeout": 20}},
    }}
    for name in ("default", "other")
}}
CACHES = {{"default": {{"BACKEND": "noting.cache.Cache"}}}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CELERY_BROKER_URL = {url!r}
CELERY_TASK_DEFAULT_QUEUE = os.environ.get("SHOP_QUEUE", "celery")
CELERY_WORKER_POOL_START_METHOD = os.environ.get("SHOP_START_METHOD", "fork")
if "SHOP_REUSE_MAX" in os.environ:
    CELERY_DB_REUSE_MAX = int(os.environ["SHOP_REUSE_MAX"])
"""

CELERY = """
import os

from emq_compat.celery_shim import Celery
from emq_compat.shim.signals import worker_before_create_process, worker_init

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")

app = Celery("proj")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@worker_before_create_process.connect
@worker_init.connect
def warm_up(**kwargs):
    from shop.models import Order

    Order.objects.count()
"""

APPS = """
from django.apps import AppConfig
from django.core import checks


class ShopConfig(AppConfig):
    name = "shop"


@checks.register
def look(app_configs, **kwargs):
    return [checks.Warning("the shop has no sign", id="shop.W001")]
"""

MODELS = """
from django.db import models


class Order(models.Model):
    number = models.CharField(max_length=40)
"""

TASKS = """
import asyncio
import os
import threading
import time

from asgiref.sync import sync_to_async
from django.core.cache import cache
from django.db import connection, connections, transaction
from emq_compat.celery_shim import shared_task

from shop.models import Order


@shared_task
def count():
    before = connections["default"].connection is not None
    return [before, Order.objects.count(), os.getpid(), threading.get_ident()]


@shared_task
def number(pk):
    return Order.objects.get(pk=pk).number


@shared_task
def meets(name):
    \"\"\"Return the connections of two runs that are there at the same time.\"\"\"
    Order.objects.count()
    _arrive(name)
    deadline = time.monotonic() + 20
    while not _both_are_there(name):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return id(connection.connection)


@shared_task
async def ameets(name):
    \"\"\"Return the threads of the ORM's calls of two such runs.\"\"\"
    thread = await sync_to_async(threading.get_ident)()
    _arrive(name)
    deadline = time.monotonic() + 20
    while not _both_are_there(name):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    return thread


def _arrive(name):
    open(os.path.join(os.environ["SHOP_FOLDER"], name), "w").close()


def _both_are_there(name):
    kind = name.partition("-")[0]
    return 2 == sum(one.partition("-")[0] == kind for one in os.listdir(os.environ["SHOP_FOLDER"]))


@shared_task
def order_and_tell(number, fails=False):
    try:
        with transaction.atomic():
            order = Order.objects.create(number=number)
            told = later.delay_on_commit(order.pk)
            if fails:
                raise ValueError(number)
    except ValueError:
        pass
    return told


@shared_task(queue="told")
def later(pk):
    return pk


@shared_task
async def acount():
    before = await Order.objects.acount()
    await Order.objects.acreate(number="async")
    threads = {await sync_to_async(threading.get_ident)() for _ in range(3)}
    return [before, await Order.objects.acount(), sorted(threads)]


@shared_task
def caches():
    cache.set("key", "plain")


@shared_task
async def acaches():
    await cache.aset("key", "coroutine")


@shared_task
async def unsafe():
    return Order.objects.count()


@shared_task
async def walks():
    numbers = []
    async for order in Order.objects.order_by("pk").aiterator(chunk_size=1):
        numbers.append(order.number)
        await asyncio.sleep(0.05)
    return len(numbers)


@shared_task
def says(text):
    return text
"""

CACHE = """
from django.core.cache.backends.locmem import LocMemCache

from noting.base import note


class Cache(LocMemCache):
    used = False

    def set(self, key, value, *args, **kwargs):
        self.used = True
        note("used-" + value)
        super().set(key, value, *args, **kwargs)

    def close(self):
        if self.used:
            self.used = False
            note("cleared")
"""

ENGINE = """
import os
import threading

from django.db.backends.sqlite3 import base
from django.db.backends.sqlite3.base import *


def note(what):
    fd = os.open(os.environ["SHOP_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{what} {os.getpid()} {threading.get_ident()}\\n".encode())
    os.close(fd)


class DatabaseWrapper(base.DatabaseWrapper):
    opened_in = None

    def get_new_connection(self, params):
        self.opened_in = os.getpid()
        note("open")
        return super().get_new_connection(params)

    def _close(self):
        note("close" if self.opened_in == os.getpid() else "foreign")
        super()._close()
"""


def write_django_project(folder: Path, url: str) -> dict[str, str]:
    """Write the project below ``folder``; return the environment of its processes."""
    meeting = folder / "meeting"
    meeting.mkdir()
    for name, text in (
        ("proj/__init__.py", "from proj.celery import app as celery_app\n"),
        ("proj/settings.py", SETTINGS.format(url=url)),
        ("proj/celery.py", CELERY),
        ("shop/__init__.py", ""),
        ("shop/apps.py", APPS),
        ("shop/models.py", MODELS),
        ("shop/tasks.py", TASKS),
        ("noting/__init__.py", ""),
        ("noting/base.py", ENGINE),
        ("noting/cache.py", CACHE),
    ):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return {
        "DJANGO_SETTINGS_MODULE": "proj.settings",
        "SHOP_FOLDER": str(meeting),
        "SHOP_NOTES": str(folder / "notes"),
    }
