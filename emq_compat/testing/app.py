"""``celery.contrib.testing.app``: apps for tests, and a guard against tests that lean on the current app."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from emq_compat.shim import current
from emq_compat.shim.app import Celery
from emq_compat.shim.log import Logging

__all__ = ["DEFAULT_TEST_CONFIG", "TestApp", "Trap", "UnitLogging", "set_trap", "setup_default_app"]

#: Settings of TestApp: broker and results in this process's memory.
DEFAULT_TEST_CONFIG: dict[str, Any] = {
    "worker_hijack_root_logger": False,
    "worker_log_color": False,
    "accept_content": ["json"],
    "enable_utc": True,
    "timezone": "UTC",
    "broker_url": "memory://",
    "result_backend": "cache+memory://",
}


class Trap:
    """Stands for an app, and raises RuntimeError whatever it is asked."""

    def __getattr__(self, name: str) -> NoReturn:
        raise RuntimeError(f"the test depends on the current app: it was asked for {name!r}")


class UnitLogging(Logging):
    """Leaves a test's logging alone."""

    @property
    def already_setup(self) -> bool:
        """Say that there is nothing to set up."""
        return True

    @already_setup.setter
    def already_setup(self, done: bool) -> None:
        """Nothing: the process's logging isn't this one's."""


def TestApp(  # noqa: N802 - Celery's name
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    enable_logging: bool = False,
    set_as_current: bool = False,
    log: Any = UnitLogging,
    backend: str | None = None,
    broker: str | None = None,
    **kwargs: Any,
) -> Celery:
    """Return an app with DEFAULT_TEST_CONFIG and ``config`` as defaults, which isn't the current one.

    Args:
        enable_logging: set logging up as a worker does; otherwise ``log`` is the class of ``app.log``.
        kwargs: further arguments of Celery().
    """
    app = Celery(
        name or "celery.tests",
        set_as_current=set_as_current,
        log=None if enable_logging else log,
        backend=backend,
        broker=broker,
        **kwargs,
    )
    app.add_defaults({**DEFAULT_TEST_CONFIG, **(config or {})})
    return app


@contextmanager
def set_trap(app: Celery) -> Iterator[None]:
    """Have every use of the current app during the block raise RuntimeError."""
    with current.restored():
        current.trap(Trap())
        yield


@contextmanager
def setup_default_app(app: Celery, use_trap: bool = False) -> Iterator[None]:
    """Put the current and the default app back after the block, and close ``app``, unless it was current.

    ``use_trap``: as ``set_trap`` during the block.
    """
    before = current.app_or_none()
    try:
        with current.restored():
            if use_trap:
                with set_trap(app):
                    yield
            else:
                yield
    finally:
        if app is not before:
            app.close()
        app.backend = None  # a thread of its may hold connections
