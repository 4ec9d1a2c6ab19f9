"""A Django project without a broker: what is published when, eager tasks in tests, settings, connections."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cases.django_project import write_django_project
from tests.processes import Procs

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.integration]

#: What each script begins with: the app publishes into ``client``; ``work()`` runs what was published.
BEGINNING = """
import json, os, sys, warnings

warnings.simplefilter("error")
import django

django.setup()
from django.conf import settings
from django.db import connection, connections, transaction
from django.test import TestCase, TransactionTestCase, override_settings
from emq_compat.shim.program import ShimProgram
from proj.celery import app
from shop import tasks
from shop.models import Order
from tests.shim.recorder import Recorder, Worker

app.client = client = Recorder()


def published():
    names = [message.headers.task.rpartition(".")[2] for message in client.published]
    client.published.clear()
    return names


def tell(*what):
    print("told:", json.dumps(what if len(what) > 1 else what[0]))
"""

Script = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The project's folder, its tables made, and the environment of its processes."""
    folder = tmp_path_factory.mktemp("project")
    environment = write_django_project(folder, "emq://127.0.0.1:1")
    make = "import django; django.setup(); from django.core.management import call_command as call\n"
    make += "for name in 'default', 'other': call('migrate', run_syncdb=True, verbosity=0, database=name)"
    env = {**os.environ, **environment}
    subprocess.run((sys.executable, "-c", make), cwd=folder, env=env, check=True, timeout=100)
    return folder, environment


@pytest.fixture
def script(tmp_path: Path, procs: Procs, project: tuple[Path, dict[str, str]]) -> Script:
    """A function that runs Python text in the project, and returns what it tells: JSON, one value a line."""
    made, environment = project
    folder = tmp_path / "site"
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("notes"))

    def run(text: str, **more: str) -> list[Any]:
        (folder / "script.py").write_text(BEGINNING + text)
        own = {"SHOP_NOTES": str(folder / "notes"), "PYTHONPATH": str(ROOT)}
        proc = procs.python("script.py", cwd=folder, env={**environment, **own, **more})
        assert 0 == proc.wait(60), proc.tail()
        lines = proc.output().splitlines()
        return [json.loads(line.removeprefix("told:")) for line in lines if line.startswith("told:")]

    return run


def test_what_is_published_follows_the_commit(script: Script) -> None:
    """Each of the ways to publish on commit waits for the outermost commit of its database."""
    told = script(
        """
with transaction.atomic():
    with transaction.atomic():
        told = [tasks.later.delay_on_commit(1), tasks.later.apply_async_on_commit((1,), countdown=60)]
        transaction.on_commit(lambda: tasks.says.delay("lambda"))
        transaction.on_commit(tasks.count.delay)
    tell(told)
    tell(published())
tell(published())

for inner, outer in ((True, False), (False, True)):
    try:
        with transaction.atomic():
            tasks.number.delay_on_commit(1)
            try:
                with transaction.atomic():
                    tasks.later.delay_on_commit(1)
                    if inner:
                        raise ValueError
            except ValueError:
                pass
            if outer:
                raise LookupError
    except LookupError:
        pass
    tell(published())

with transaction.atomic(using="other"):
    tasks.later.apply_async_on_commit((1,), using="other")
    tasks.later.apply_async_on_commit(args=(1,), kwargs={}, using="default")
    tell(len(published()))
tell(published())

tasks.later.delay_on_commit(1)
tell(published())
"""
    )
    every = ["later", "later", "says", "count"]
    assert [[None, None], [], every, ["number"], [], 1, ["later"], ["later"]] == told


def test_eager_tasks_run_in_a_test_s_transaction(script: Script) -> None:
    """override_settings makes tasks eager, plain and async ones; they see a test's rows, and end with it."""
    told = script(
        """
import asyncio, unittest
from asgiref.sync import sync_to_async


class Eager(TestCase):
    @override_settings(CELERY_TASK_ALWAYS_EAGER=True)
    def test_eager(self):
        Order.objects.create(number="mine")
        before = connection.connection
        tell([tasks.count.delay().get()[1], tasks.acount.delay().get()[:2], connection.connection is before])

    def test_not_eager(self):
        tasks.count.delay()
        tell(published())

    @override_settings(CELERY_TASK_ALWAYS_EAGER=True)
    async def test_in_a_loop(self):
        await Order.objects.acreate(number="mine")
        plain, coroutine = await tasks.count.adelay(), await tasks.acount.adelay()
        tell([plain.get()[1], coroutine.get()[:2]])

    @override_settings(CELERY_TASK_ALWAYS_EAGER=True, CELERY_TASK_EAGER_PROPAGATES=True)
    def test_on_commit(self):
        with self.captureOnCommitCallbacks(execute=True) as calls:
            order = Order.objects.create(number="captured")
            tasks.later.delay_on_commit(order.pk)
        tell(len(calls))


from django.test.runner import DiscoverRunner

runner = DiscoverRunner(verbosity=0)
runner.setup_test_environment()
old = runner.setup_databases()
suite = unittest.defaultTestLoader.loadTestsFromTestCase(Eager)
failed = runner.run_suite(suite)
runner.teardown_databases(old)
runner.teardown_test_environment()
if failed.failures or failed.errors:
    sys.exit(str(failed.failures + failed.errors))
tell(app.conf.task_always_eager)
"""
    )
    assert [[1, [1, 2], True], [1, [1, 2]], ["count"], 1, False] == told


def test_settings_that_a_test_changes(script: Script) -> None:
    """override_settings counts for all settings of the namespace, and for TIME_ZONE; code's own stay."""
    told = script(
        """
app.conf.task_default_priority = 3
tell(str(app.timezone), app.conf.task_default_queue)
with override_settings(TIME_ZONE="Asia/Tokyo", CELERY_TASK_DEFAULT_QUEUE="changed"):
    tell(str(app.timezone), app.conf.task_default_queue, app.conf.task_default_priority)
    tasks.says.delay("x")
    tell(client.last.queue)
with override_settings(CELERY_TIMEZONE="Europe/Paris"):
    tell(str(app.timezone))
tell(str(app.timezone), app.conf.task_default_queue)
"""
    )
    assert [
        ["Europe/Oslo", "celery"],
        ["Asia/Tokyo", "changed", 3],
        "changed",
        "Europe/Paris",
        ["Europe/Oslo", "celery"],
    ] == told


def test_settings_that_change_where_an_app_reads_none(script: Script) -> None:
    """override_settings is no error where the current app is one that nobody made, without a celeryconfig."""
    told = script(
        """
from emq_compat.celery_shim import Celery
made = Celery(set_as_current=False)
made.config_from_object("celeryconfig", silent=True)
tell(made.conf.task_default_queue)
with override_settings(TIME_ZONE="Asia/Tokyo", ANY_OTHER=1):
    tell(made.conf.task_default_queue)
"""
    )
    assert ["celery", "celery"] == told


WORK = """
program = ShimProgram(app)
program.worker_init()
"""

RUN = """
worker = Worker(program, client)


def work(task, *args):
    task.delay(*args)
    worker.run(client.last)
    return connection.connection is not None
"""


def test_connections_serve_as_many_tasks_as_are_told(script: Script) -> None:
    """CELERY_DB_REUSE_MAX keeps a connection for so many tasks; it is no unknown setting."""
    text = f"{WORK}{RUN}tell(app.problems())\nconnection.close()\ntell([work(tasks.count) for _ in range(5)])"
    text += "\ntell(open(os.environ['SHOP_NOTES']).read().count('open'))"
    problems, kept, opened = script(text, SHOP_REUSE_MAX="2")
    assert ["?: (shop.W001) the shop has no sign"] == problems
    assert 5 * [True] == kept
    # For the receiver of worker_init, and for tasks 1 and 2, 3 and 4, 5.
    assert 4 == opened


def test_in_a_transaction_nothing_is_closed(script: Script) -> None:
    """A connection that is inside of atomic around a task stays open."""
    text = f"""{WORK}{RUN}
with transaction.atomic():
    Order.objects.create(number="x")
    tell(work(tasks.count))
tell(Order.objects.count())
tell(work(tasks.count))
"""
    assert [True, 1, False] == script(text)


def test_checks_can_be_skipped(script: Script) -> None:
    """CELERY_SKIP_CHECKS in the environment keeps Django's system checks from being run."""
    assert [[]] == script(f"{WORK}tell(app.problems())", CELERY_SKIP_CHECKS="1")


def test_silenced_checks_are_not_told(script: Script) -> None:
    """SILENCED_SYSTEM_CHECKS holds here, too."""
    text = "settings.SILENCED_SYSTEM_CHECKS = ['shop.W001']"
    assert [[]] == script(f"{text}{WORK}tell(app.problems())")


@pytest.mark.parametrize("pool", ["threads", "child"])
def test_pools_of_connections(pool: str, script: Script) -> None:
    """Django's own pool of connections is closed before anything is forked, and around a child's tasks."""
    text = f"""
from emq_compat.shim.django_connections import Connections

calls = []


class Wrapper:
    alias = "default"
    in_atomic_block = False
    pool = object()
    _connection_pools = {{"default": pool}}

    def close(self):
        calls.append("close")

    def close_pool(self):
        calls.append("pool")


Connections._open = lambda self: [wrapper]
wrapper = Wrapper()
{WORK}{RUN}
tell(calls[:])
calls.clear()
if {pool!r} == "child":
    app.fixup_objects[0]._parent = 1
    connections["default"]
    program.child_init()
    tell(calls[:], Wrapper._connection_pools)
    Connections._open = lambda self: [wrapper]
else:
    program.child_init()
work(tasks.says, 'x')
tell(calls)
"""
    told = script(text)
    assert ["close", "pool"] == told[0]
    if pool == "child":
        assert [[], {}] == told[1]
    assert (2 * ["close", "pool"] if pool == "child" else 2 * ["close"]) == told[-1]


@pytest.mark.parametrize("namespace", ["", "CELERY"])
def test_old_settings_in_capitals(namespace: str, script: Script) -> None:
    """Celery 3's names work, with and without the namespace."""
    source = "namespace='CELERY'" if namespace else ""
    text = f"""
from emq_compat.celery_shim import Celery

settings.CELERY_DEFAULT_QUEUE = "old"
settings.CELERYD_CONCURRENCY = 7
del settings.CELERY_TASK_DEFAULT_QUEUE, settings.CELERY_WORKER_POOL_START_METHOD
other = Celery("other", set_as_current=False)
other.config_from_object("django.conf:settings", {source})
tell(other.conf.task_default_queue, other.conf.worker_concurrency, str(other.timezone))
"""
    assert [["old", 7, "Europe/Oslo"]] == script(text)


def test_a_missing_django_is_told(app: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """DJANGO_SETTINGS_MODULE without Django is a warning, and the app works."""
    from emq_compat.celery_shim import Celery
    from emq_compat.shim import django
    from emq_compat.shim.exceptions import FixupWarning

    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "nowhere")
    monkeypatch.setattr(django.importlib.util, "find_spec", lambda name: None)
    with pytest.warns(FixupWarning, match="Django isn't installed"):
        assert [] == Celery("proj").fixup_objects


def test_a_worker_in_a_test_s_process(script: Script) -> None:
    """start_worker and memory:// in a TransactionTestCase: tasks in its threads see what is committed."""
    told = script(
        """
import unittest
from emq_compat.testing.worker import start_worker


@override_settings(CELERY_BROKER_URL="memory://")
class Real(TransactionTestCase):
    databases = {"default", "other"}

    def test_real(self):
        app.client = None
        with start_worker(app, perform_ping_check=False):
            Order.objects.create(number="first")
            with transaction.atomic():
                Order.objects.create(number="second")
                tasks.later.delay_on_commit(1)
            tell(tasks.count.delay().get(timeout=30)[1], tasks.acount.delay().get(timeout=30)[:2])
        tell(Order.objects.count())


from django.test.runner import DiscoverRunner

runner = DiscoverRunner(verbosity=0)
runner.setup_test_environment()
old = runner.setup_databases()
failed = runner.run_suite(unittest.defaultTestLoader.loadTestsFromTestCase(Real))
runner.teardown_databases(old)
runner.teardown_test_environment()
if failed.failures or failed.errors:
    sys.exit(str(failed.failures + failed.errors))
"""
    )
    assert [[2, [2, 3]], 3] == told
