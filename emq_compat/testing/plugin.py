"""The pytest plugin: the fixtures of ``celery.contrib.pytest``, under Celery's names and contracts.

Loaded by ``-p emq_compat.testing`` or ``pytest_plugins = ["emq_compat.testing"]``; after
``celery_shim.install()`` by ``celery.contrib.pytest``, too. The shim itself is imported when a test first
asks for an app.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery
    from emq_compat.testing.broker import MemoryBroker
    from emq_compat.testing.worker import TestWorkController

__all__ = [
    "NO_WORKER",
    "celery_app",
    "celery_class_tasks",
    "celery_config",
    "celery_enable_logging",
    "celery_includes",
    "celery_parameters",
    "celery_session_app",
    "celery_session_worker",
    "celery_worker",
    "celery_worker_parameters",
    "celery_worker_pool",
    "depends_on_current_app",
    "emq_memory_broker",
    "pytest_configure",
    "use_celery_app_trap",
]

#: With this environment variable the fixtures start no worker.
NO_WORKER = os.environ.get("NO_WORKER")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark ``celery``."""
    config.addinivalue_line("markers", "celery(**settings): settings of the app in this test")


# What a project overrides in its conftest.py.


@pytest.fixture(scope="session")
def celery_config() -> Mapping[str, Any]:
    """Settings of the app of ``celery_app`` and ``celery_session_app``; to be overridden."""
    return {}


@pytest.fixture(scope="session")
def celery_parameters() -> Mapping[str, Any]:
    """Further arguments of Celery() for that app; to be overridden."""
    return {}


@pytest.fixture(scope="session")
def celery_worker_parameters() -> Mapping[str, Any]:
    """Further arguments of start_worker, such as ``queues``; to be overridden."""
    return {}


@pytest.fixture(scope="session")
def celery_worker_pool() -> str:
    """The worker's pool: ``solo``, ``threads`` or ``asyncio``; to be overridden."""
    return "solo"


@pytest.fixture(scope="session")
def celery_includes() -> Sequence[str]:
    """Modules that are imported before a worker starts; to be overridden."""
    return ()


@pytest.fixture(scope="session")
def celery_class_tasks() -> Sequence[Any]:
    """Task classes, or instances, that ``celery_session_worker`` registers; to be overridden."""
    return []


@pytest.fixture(scope="session")
def celery_enable_logging() -> bool:
    """Whether the worker sets logging up as it does outside of tests; to be overridden."""
    return False


@pytest.fixture(scope="session")
def use_celery_app_trap() -> bool:
    """Whether using the current app, and not one by name, is an error; to be overridden."""
    return False


# What tests use.


@pytest.fixture
def celery_app(
    request: pytest.FixtureRequest,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
    celery_enable_logging: bool,
    use_celery_app_trap: bool,
) -> Iterator[Celery]:
    """An app of this test's own, which isn't current; its broker, unless told another, is in memory."""
    config = _with_mark(request, celery_config)
    with _test_app(config, celery_parameters, celery_enable_logging, use_celery_app_trap) as app:
        yield app


@pytest.fixture
def celery_worker(
    celery_app: Celery,
    celery_includes: Sequence[str],
    celery_worker_pool: Any,
    celery_worker_parameters: Mapping[str, Any],
) -> Iterator[TestWorkController | None]:
    """A worker of ``celery_app`` in a thread, which has ended when the test has."""
    yield from _worker(celery_app, celery_includes, (), celery_worker_pool, celery_worker_parameters)


@pytest.fixture(scope="session")
def celery_session_app(
    request: pytest.FixtureRequest,
    celery_config: Mapping[str, Any],
    celery_parameters: Mapping[str, Any],
    celery_enable_logging: bool,
    use_celery_app_trap: bool,
) -> Iterator[Celery]:
    """An app for the whole session; the current and default one, unless the trap is in use."""
    config = _with_mark(request, celery_config)
    with _test_app(config, celery_parameters, celery_enable_logging, use_celery_app_trap) as app:
        if not use_celery_app_trap:
            app.set_default()
            app.set_current()
        yield app


@pytest.fixture(scope="session")
def celery_session_worker(
    celery_session_app: Celery,
    celery_includes: Sequence[str],
    celery_class_tasks: Sequence[Any],
    celery_worker_pool: Any,
    celery_worker_parameters: Mapping[str, Any],
) -> Iterator[TestWorkController | None]:
    """A worker of ``celery_session_app`` that runs until the session ends."""
    yield from _worker(
        celery_session_app, celery_includes, celery_class_tasks, celery_worker_pool, celery_worker_parameters
    )


@pytest.fixture
def depends_on_current_app(celery_app: Celery) -> None:
    """Makes ``celery_app`` the current app."""
    celery_app.set_current()


@pytest.fixture
def emq_memory_broker() -> Iterator[MemoryBroker]:
    """The broker of ``memory://``, emptied at the test's end; its ``advance`` makes what has an ETA due."""
    from emq_compat.testing.broker import memory_broker  # noqa: PLC0415 - as in _test_app

    with memory_broker() as broker:
        yield broker


def _with_mark(request: pytest.FixtureRequest, config: Mapping[str, Any]) -> dict[str, Any]:
    mark = request.node.get_closest_marker("celery")
    return {**config, **(mark.kwargs if mark else {})}


@contextmanager
def _test_app(
    config: Mapping[str, Any], parameters: Mapping[str, Any], enable_logging: bool, use_trap: bool
) -> Iterator[Celery]:
    # Imported here: a session that asks for no app doesn't pay for the shim.
    from emq_compat.testing.app import TestApp, setup_default_app  # noqa: PLC0415
    from emq_compat.testing.broker import memory_broker  # noqa: PLC0415

    app = TestApp(set_as_current=False, enable_logging=enable_logging, config=config, **parameters)
    with memory_broker(), setup_default_app(app, use_trap=use_trap):
        yield app


def _worker(
    app: Celery,
    includes: Sequence[str],
    class_tasks: Sequence[Any],
    pool: Any,
    parameters: Mapping[str, Any],
) -> Iterator[TestWorkController | None]:
    from emq_compat.testing.worker import start_worker  # noqa: PLC0415 - as above

    if NO_WORKER:
        yield None
        return
    for module in includes:
        app.loader.import_task_module(module)
    for task in class_tasks:
        app.register_task(task)
    with start_worker(app, pool=pool, **parameters) as worker:
        yield worker
