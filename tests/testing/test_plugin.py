"""The pytest plugin, in test suites of its own: each runs in a process, with warnings as errors."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.integration

#: A suite's conftest.py as a project that drops Celery has it.
_INSTALLED = """
from emq_compat.celery_shim import install
install(force=True)
pytest_plugins = ["celery.contrib.pytest"]
"""


class Suite:
    """A project's test suite."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self._pytester = pytester

    def run(self, tests: str, *options: str, conftest: str = "", **outcomes: int) -> pytest.RunResult:
        """Write and run it with the plugin; ``outcomes`` are those expected, one pass by default."""
        self._pytester.makeconftest(conftest)
        self._pytester.makepyfile(tests)
        plugin = () if conftest is _INSTALLED else ("-p", "emq_compat.testing")
        argv = (*plugin, "-W", "error", "-p", "no:cacheprovider", *options)
        result = self._pytester.runpytest_subprocess(*argv)
        result.assert_outcomes(**(outcomes or {"passed": 1}))
        return result


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    for variable in ("EMQ_BROKER_ADDR", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "NO_WORKER"):
        monkeypatch.delenv(variable, raising=False)
    return Suite(pytester)


def test_an_app_and_its_worker(suite: Suite) -> None:
    """Celery's own example: tasks declared in the test run in the worker; afterwards no thread is left."""
    suite.run(
        """
        import threading

        def test_multiply(celery_app, celery_worker):
            @celery_app.task
            def mul(x, y):
                return x * y

            celery_worker.reload()
            assert 16 == mul.delay(4, 4).get(timeout=10)
            assert threading.active_count() > 1

        def test_afterwards():
            assert 1 == threading.active_count()
        """,
        passed=2,
    )


def test_celerys_names_after_install(suite: Suite) -> None:
    """After install() the plugin is there as celery.contrib.pytest, beside celery.contrib.testing."""
    suite.run(
        """
        from celery import shared_task
        from celery.contrib.testing.worker import TestWorkController, start_worker

        @shared_task
        def add(x, y):
            return x + y

        def test_add(celery_session_app, celery_session_worker):
            assert isinstance(celery_session_worker, TestWorkController)
            assert 5 == add.delay(2, 3).get(timeout=10)

        def test_once_more(celery_session_worker):
            assert 7 == add.delay(3, 4).get(timeout=10)
        """,
        conftest=_INSTALLED,
        passed=2,
    )


def test_a_test_meets_nothing_of_another(suite: Suite) -> None:
    """What a test leaves in its broker doesn't run in the next one."""
    suite.run(
        """
        import pytest
        from emq_compat.celery_shim import shared_task

        ran = []

        @shared_task
        def note(what):
            ran.append(what)

        def test_first(celery_app, depends_on_current_app):
            note.delay("first")
            note.apply_async(("later",), countdown=0.01)

        def test_second(celery_app, celery_worker):
            note.delay("second").get(timeout=10)
            assert ["second"] == ran

        def test_third(celery_session_worker):
            note.delay("third").get(timeout=10)
            assert ["second", "third"] == ran
        """,
        passed=3,
    )


def test_what_a_project_overrides(suite: Suite, pytester: pytest.Pytester) -> None:
    """Settings, arguments of app and worker, includes and class tasks come from fixtures of the project."""
    pytester.makepyfile(
        included="""
        from emq_compat.celery_shim import shared_task

        @shared_task
        def name():
            return __name__
        """
    )
    suite.run(
        """
        import pytest
        from emq_compat.celery_shim import Task
        from emq_compat.shim.current import get_app

        class Double(Task):
            name = "double"
            def run(self, x):
                return 2 * x

        @pytest.fixture(scope="session")
        def celery_config():
            return {"task_default_queue": "mine", "result_extended": True}

        @pytest.fixture(scope="session")
        def celery_parameters():
            return {"strict_typing": False}

        @pytest.fixture(scope="session")
        def celery_worker_parameters():
            return {"queues": ("mine", "high"), "hostname": "w@here", "perform_ping_check": True}

        @pytest.fixture(scope="session")
        def celery_worker_pool():
            return "threads"

        @pytest.fixture(scope="session")
        def celery_includes():
            return ["included"]

        @pytest.fixture(scope="session")
        def celery_class_tasks():
            return [Double]

        @pytest.mark.celery(task_default_queue="high", task_time_limit=60)
        def test_function(celery_app, celery_worker):
            assert not celery_app.strict_typing
            conf = celery_app.conf
            assert ("high", True, 60) == (conf.task_default_queue, conf.result_extended, conf.task_time_limit)
            assert "w@here" == celery_worker.hostname
            inspect = celery_app.control.inspect()
            assert ["mine", "high"] == [queue["name"] for queue in inspect.active_queues()["w@here"]]
            assert "threads" in inspect.stats()["w@here"]["pool"]["implementation"].lower()
            assert "included" == celery_app.tasks["included.name"].delay().get(timeout=10)

        def test_session(celery_session_app, celery_session_worker):
            assert get_app() is celery_session_app
            assert 42 == celery_session_app.tasks["double"].delay(21).get(timeout=10)
        """,
        passed=2,
    )


def test_the_trap(suite: Suite) -> None:
    """With use_celery_app_trap what asks for the current app fails, and what names its app works."""
    suite.run(
        """
        import pytest
        from emq_compat.celery_shim import current_app, shared_task

        @shared_task
        def add(x, y):
            return x + y

        @pytest.fixture(scope="session")
        def use_celery_app_trap():
            return True

        def test_trapped(celery_app):
            with pytest.raises(RuntimeError, match="current app"):
                current_app.conf
            with pytest.raises(RuntimeError, match="current app"):
                add.delay(1, 1)
            assert celery_app.conf.task_default_queue == "celery"

        def test_free():
            assert current_app.conf.task_default_queue == "celery"
        """,
        passed=2,
    )


def test_no_worker(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """With NO_WORKER in the environment the fixtures start none: another one is there."""
    monkeypatch.setenv("NO_WORKER", "1")
    suite.run(
        """
        def test_it(celery_app, celery_worker):
            assert celery_worker is None
            assert not celery_app.control.inspect(timeout=0.1).ping()
        """
    )


def test_a_task_that_does_not_end(suite: Suite) -> None:
    """A worker whose task outlasts shutdown_timeout fails its test with the task's name."""
    result = suite.run(
        """
        import threading
        import pytest

        @pytest.fixture(scope="session")
        def celery_worker_parameters():
            return {"shutdown_timeout": 0.2}

        def test_it(celery_app, celery_worker):
            begun, end = threading.Event(), threading.Event()

            @celery_app.task(name="endless")
            def endless():
                begun.set()
                end.wait(0.7)

            endless.delay()
            assert begun.wait(10)
        """,
        passed=1,
        errors=1,
    )
    result.stdout.fnmatch_lines(["*RuntimeError: the worker gen*endless was running*shutdown_timeout*"])


def test_a_module_that_cant_be_imported(suite: Suite) -> None:
    """What an include raises is the fixture's error, and nothing hangs."""
    result = suite.run(
        """
        import pytest

        @pytest.fixture(scope="session")
        def celery_includes():
            return ["no.such.module"]

        def test_it(celery_app, celery_worker):
            pass
        """,
        errors=1,
    )
    result.stdout.fnmatch_lines(["*ModuleNotFoundError: No module named 'no'*"])


def test_sessions_that_use_nothing_load_nothing(suite: Suite) -> None:
    """A suite with the plugin loaded that asks for no fixture of it doesn't import the shim, nor ZeroMQ."""
    suite.run(
        """
        import sys

        def test_it(pytestconfig):
            loaded = [name for name in sys.modules if name.startswith(("emq_compat.", "zmq", "kombu"))]
            assert ["emq_compat.testing", "emq_compat.testing.plugin"] == loaded
            assert any(line.startswith("celery(") for line in pytestconfig.getini("markers"))
        """
    )


def test_installing_the_package_loads_no_plugin(pytester: pytest.Pytester) -> None:
    """Where nobody asks for the plugin its fixtures aren't there: a genuine Celery's would be shadowed."""
    result = pytester.runpytest_subprocess("--fixtures", "-p", "no:cacheprovider")
    result.stdout.no_fnmatch_line("*celery*")


def test_results_that_only_pickle_carries(suite: Suite) -> None:
    """With result_serializer pickle a task's result and its progress may be what JSON can't hold."""
    suite.run(
        """
        import time
        import pytest

        @pytest.mark.celery(
            task_serializer="pickle", result_serializer="pickle", accept_content=["pickle", "json"]
        )
        @pytest.mark.parametrize("backend", ["cache+memory://", "emq://"])
        def test_sets(celery_app, celery_worker, backend):
            celery_app.conf.result_backend = backend

            @celery_app.task(bind=True)
            def members(self, given):
                self.update_state(state="PROGRESS", meta={1: given})
                told = self.AsyncResult(self.request.id)
                end = time.monotonic() + 10
                while told.info is None and time.monotonic() < end:  # over emq:// the worker tells it
                    time.sleep(0.01)
                assert {1: given} == told.info
                return {given}

            assert {frozenset([1])} == members.delay(frozenset([1])).get(timeout=30)
        """,
        passed=2,
    )
