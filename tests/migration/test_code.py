"""What code does with Celery's objects is found, and judged by the list."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.migration.trees import findings, found, write

pytestmark = [pytest.mark.unit]

APP = "from celery import Celery\napp = Celery('proj')\n"
TASKS = APP + "@app.task\ndef add(x, y): return x + y\n"


@pytest.mark.parametrize(
    ("line", "name", "status"),
    [
        ("add.delay(1, 2)", "delay", "supported"),
        ("add.apply_async((1, 2), countdown=3)", "apply_async(countdown=)", "supported"),
        ("add.apply_async((1, 2), producer=None)", "apply_async(producer=)", "different"),
        ("add.apply_async((1, 2), contdown=3)", "apply_async(contdown=)", "unsupported"),
        ("add.apply_async((1, 2), **how())", "apply_async(**…)", "not seen"),
        ("add.retry(countdown=1)", "retry(countdown=)", "supported"),
        ("add.s(1).set(queue='q')", "apply_async(queue=)", "supported"),
        ("(add.s(1) | add.s(2)).link_error(add.s())", "chain.link_error", "supported"),
        ("add.s(1).election()", "Signature.election", "unsupported"),
        ("add.start_strategy(None)", "start_strategy", "unsupported"),
        ("add.delay(1).get(timeout=3)", "AsyncResult.get(timeout=)", "supported"),
        ("add.delay(1).get(no_ack=True)", "AsyncResult.get(no_ack=)", "different"),
        ("r = add.delay(1)\nr.forget()", "AsyncResult.forget", "supported"),
        ("app.control.revoke('x', terminate=True)", "control.revoke(terminate=)", "supported"),
        ("app.control.election('x')", "control.election", "unsupported"),
        ("app.control.inspect().hello('x')", "inspect.hello", "unsupported"),
        ("i = app.control.inspect()\ni.active()", "inspect.active", "supported"),
        ("app.control.nonsense()", "control.nonsense", "not seen"),
        ("app.send_task('x', countdown=1)", "Celery.send_task(countdown=)", "supported"),
        ("app.setup_security()", "Celery.setup_security", "unsupported"),
        ("app.amqp.queues", "Celery.amqp.queues", "supported"),
        ("app.tasks['x'].apply_async(queue='q')", "apply_async(queue=)", "supported"),
        ("getattr(add, name)()", "getattr()", "not seen"),
        ("getattr(app.control, 'election')", "control.election", "unsupported"),
        ("hasattr(app.control, 'election')", "control.election", "unsupported"),
        ("unknown.delay(3)", "unknown.delay()", "not seen"),
        ("import importlib\nimportlib.import_module(name)", "import_module()", "not seen"),
        ("import importlib\nc = importlib.import_module('celery')", "import_module()", "not seen"),
        (
            "import celery\ncelery.signals.eventlet_pool_started.connect(f)",
            "celery.signals:eventlet_pool_started",
            "unsupported",
        ),
        ("__import__('celery.task')", "__import__()", "not seen"),
    ],
)
def test_calls_and_attributes(line: str, name: str, status: str, tmp_path: Path) -> None:
    """An attribute, an option or an argument has the status of its row."""
    write(tmp_path, {"a.py": TASKS + line + "\n"})
    assert status == found(tmp_path)[name]


@pytest.mark.parametrize(
    "source",
    [
        "@app.task({})\ndef t(self): ...",
        "t = app.task({})(f)",
        "from celery import shared_task\n@shared_task({})\ndef t(self): ...",
        "import celery\n@celery.shared_task({})\ndef t(self): ...",
        "from celery import current_app as c\n@c.task({})\ndef t(self): ...",
        "def make():\n    app = Celery('x')\n    return app\na = make()\n@a.task({})\ndef t(self): ...",
        "class MyApp(Celery): ...\nmine = MyApp()\n@mine.task({})\ndef t(self): ...",
        "def f(given: Celery):\n    @given.task({})\n    def t(self): ...",
        "x = flask.extensions['celery']\n@x.task({})\ndef t(self): ...",
        "class Site:\n    def __init__(self):\n        self.app = Celery('x')\n    def f(self):\n"
        "        @self.app.task({})\n        def t(self): ...",
    ],
)
def test_options_of_tasks(source: str, tmp_path: Path) -> None:
    """A task's options are judged wherever its app comes from."""
    write(tmp_path, {"a.py": APP + source.format("bind=True, acks_late=True, retry_on_worker_lost=True")})
    assert {"bind": "supported", "acks_late": "different", "retry_on_worker_lost": "unsupported"} == found(
        tmp_path, "task option"
    )


def test_bound_tasks_and_classes_of_tasks(tmp_path: Path) -> None:
    """`self` in a bound task and in a class of tasks is the task; elsewhere it is not."""
    source = """
        from celery import Task
        from proj import app

        class Base(Task):
            Strategy = "mine"
            own = 3
            def on_failure(self, *args): self.send_event("x")
            def apply_async(self, *args, **kwargs): return super().apply_async(*args, queue="q")

        @app.task(bind=True, base=Base)
        def one(self):
            self.request.delivery_info
            self.update_state(state="X")

        class Other:
            def run(self): self.update_state(state="Y", none=1)
        """
    write(tmp_path, {"a.py": source, "proj.py": APP})
    names = found(tmp_path)
    assert "different" == names["Strategy"]
    assert "unsupported" == names["send_event"]
    assert "supported" == names["delivery_info"] == names["update_state(state=)"] == names["on_failure"]
    assert "supported" == names["apply_async(queue=)"]
    assert "own" not in names
    assert 1 == sum(one.name == "update_state(state=)" for one in findings(tmp_path))


def test_names_are_followed_through_the_tree(tmp_path: Path) -> None:
    """A task that another module declares is known where it is imported, in all forms of import."""
    write(
        tmp_path,
        {
            "src/proj/__init__.py": "from .celery import app\n",
            "src/proj/celery.py": APP,
            "src/proj/tasks.py": "from proj import app\n@app.task\ndef add(): ...\n",
            "src/proj/views/a.py": "from proj.tasks import add\nadd.start_strategy()\n",
            "src/proj/views/b.py": "from ..tasks import add as plus\nplus.start_strategy()\n",
            "src/proj/views/c.py": "import proj.tasks\nproj.tasks.add.start_strategy()\n",
            "src/proj/views/d.py": "from proj import tasks as t\nt.add.start_strategy()\n",
            "src/proj/views/__init__.py": "",
        },
    )
    places = {one.path.name for one in findings(tmp_path) if one.name == "start_strategy"}
    # What stands in a.py and below names `.delay` and its kin, or Celery, somewhere.
    assert set() == places
    for name in "abcd":
        file = tmp_path / f"src/proj/views/{name}.py"
        file.write_text(file.read_text() + "# a task of Celery's\n")
    places = {one.path.name for one in findings(tmp_path) if one.name == "start_strategy"}
    assert {"a.py", "b.py", "c.py", "d.py"} == places


def test_fixtures(tmp_path: Path) -> None:
    """Fixtures of Celery's plugin are found in tests, and what a project's own fixtures give is known."""
    source = """
        import pytest

        @pytest.fixture
        def add(celery_app):
            @celery_app.task(bind=True)
            def add(self): ...
            return add

        def test_add(celery_worker, add):
            add.apply_async(queue="q")

        def not_a_test(celery_config): ...
        """
    write(tmp_path, {"test_a.py": source})
    assert {"celery_app", "celery_worker"} == set(found(tmp_path, "fixture"))
    assert "supported" == found(tmp_path)["apply_async(queue=)"]


def test_a_name_that_is_bound_again_by_itself(tmp_path: Path) -> None:
    """A class of tasks whose name is that of its base, at once or later, is a class of tasks."""
    source = """
        from celery import Task

        class Mine(Task):
            def run(self): self.send_event("x")

        class Task(Task):
            def run(self): self.start_strategy("x")

        Task = Mine
        """
    write(tmp_path, {"a.py": source})
    assert {"send_event", "start_strategy"} <= set(found(tmp_path, "task"))


def test_long_chains_of_calls(tmp_path: Path) -> None:
    """A chain of many calls takes no longer than its length."""
    write(tmp_path, {"a.py": APP + "x = objects" + ".filter(a=1).order_by('b')" * 100 + "\n"})
    start = time.perf_counter()
    findings(tmp_path)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "source",
    [
        "x = 1\n" * 3,
        "def f():\n    return f()\ncelery = f()\ncelery.delay()\n",
        "from a import x as x\nfrom celery import chain\nx.delay()\n",
        "import celery\ncelery = celery\ncelery.chain\n",
        "a = b\nb = a\na.delay()\n",
        "class A(A): ...\nA().delay()\n",
        "class A:\n    x = self.x\n    def f(self): self.x.delay()\n",
    ],
)
def test_circles_end(source: str, tmp_path: Path) -> None:
    """Names that stand for each other end nowhere, and the scan ends."""
    write(tmp_path, {"a.py": source})
    assert set() == {one.status for one in findings(tmp_path)} - {"not seen", "supported"}
