"""What the commands that talk to a broker share: ``-A`` and ``-b``, and errors as one line."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

import emq_compat
from emq_compat.address import DEFAULT_URL, Address, is_kombu
from emq_compat.cli.telling import line_of
from emq_compat.client import Client
from emq_compat.errors import ConfigurationError, EmqError
from emq_compat.shim.app import Celery
from emq_compat.shim.current import given_app
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.find_app import AppNotFound, find_app, is_genuine, told
from emq_compat.upstream.factory import shown

if TYPE_CHECKING:
    from kombu.connection import Connection as KombuConnection

__all__ = ["Connection", "load_app", "one_line_errors", "talks_to_broker", "viewed"]


class Connection:
    """Which app and which broker a command was told of.

    Args:
        app: what ``-A`` says, or None.
        broker: what ``-b`` says, or None; it wins over the app's setting, and that over EMQ_BROKER_ADDR.

    Without an app the environment's CELERY_BROKER_URL, and settings that CELERY_CONFIG_MODULE names, count.
    """

    def __init__(self, app: str | None, broker: str | None) -> None:
        self.app_name = app or ""
        self._broker = broker or ""

    @functools.cached_property
    def url(self) -> str:
        """The broker's address; raises as ``find_app`` when the app is asked for it and can't be had."""
        if self._broker:
            return self._broker
        if self.app_name or given_app.get() is not None:
            return viewed(find_app(self.app_name)).broker_url
        if os.environ.get("CELERY_BROKER_URL") or os.environ.get("CELERY_CONFIG_MODULE"):
            return _nameless().broker_url
        return os.environ.get("EMQ_BROKER_ADDR") or DEFAULT_URL

    @property
    def shown(self) -> str:
        """The address without its password."""
        return shown(self.url)

    @property
    def stock(self) -> bool:
        """Whether that is a stock eventmq router; raises AddressError."""
        return Address.parse(self.url)[0].stock

    @property
    def over_kombu(self) -> bool:
        """Whether that is a broker which only kombu reaches: RabbitMQ, Redis …"""
        return is_kombu(self.url)

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A connection to the broker, closed at the block's end.

        Raises:
            ConfigurationError: it is one inside another process.
        """
        with Client(self.url) as client:
            if client.addresses[0].in_process:
                raise ConfigurationError(
                    f"{self.url} is a broker inside the process that uses it, out of a command's reach: "
                    "give -b emq://HOST"
                )
            yield client

    @contextmanager
    def app(self) -> Iterator[Celery]:
        """The app with its tasks, connected to the broker; a nameless one without ``-A``.

        Raises:
            AppNotFound: there is none, or importing its tasks failed.
        """
        if self.app_name or given_app.get() is not None:
            app = load_app(self.app_name)
        else:
            app = _nameless()
            if self._broker:  # wins over the environment's, which names the broker of its connections
                app.conf.update(broker_url=self._broker)
        if self.over_kombu:
            if self._broker:
                app.conf.update(broker_url=self._broker)
            yield app
            return
        with self.client() as app.client:
            yield app

    @contextmanager
    def kombu(self, timeout_s: float) -> Iterator[KombuConnection]:
        """A connection that a broker which only kombu reaches has accepted; closed at the block's end.

        Raises what its transport raises where it doesn't within ``timeout_s`` seconds, asked twice.
        """
        with self.app() as app, cast("KombuConnection", app.connection_for_read(self.url)) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0.2, timeout=timeout_s)
            yield connection


def _nameless() -> Celery:
    return Celery("emq-compat", set_as_current=False)


def load_app(written: str) -> Celery:
    """Return the app that ``-A`` names with its task modules imported.

    Raises:
        AppNotFound: there is none, or importing its tasks failed.
    """
    app = viewed(find_app(written))
    try:
        app.loader.import_default_modules()
        app.finalize()
    except Exception as exc:
        importing = getattr(app.loader, "importing", "")
        what = f" ({importing})" if importing else ""
        raise AppNotFound(f"-A {written}: importing its tasks failed{what}: {told(exc)}") from exc
    return app


def viewed(app: Celery) -> Celery:
    """Return what the commands look at: the app itself, or a view of a genuine one that has the same."""
    if not is_genuine(app):
        return app
    from emq_compat.genuine.view import AppView  # noqa: PLC0415 - it needs Celery

    return cast("Celery", AppView(app))


#: Files whose frames say nothing of the project: importing, and this package.
_NOT_THE_PROJECT = ("<frozen importlib", importlib.__file__, str(Path(emq_compat.__file__).parent))


@contextmanager
def one_line_errors(loglevel: str, where: Callable[[], str] = str) -> Iterator[None]:
    """Turn what went wrong into one line and the exit status 1; with ``debug`` the traceback comes, too.

    ``where`` returns the address of the broker that is talked to, for errors that don't name it.
    """
    try:
        yield
    except Exception as exc:
        line = line_of(exc)
        if line is None:
            raise
        if loglevel.lower() == "debug":
            traceback.print_exc()
        elif isinstance(exc, AppNotFound) and exc.__cause__ is not None:
            click.echo(_of_the_project(exc.__cause__), nl=False, err=True)
        if not isinstance(exc, (EmqError, ImproperlyConfigured)):
            line = line_of(exc, where())
        raise click.ClickException(line or "") from exc


def _of_the_project(exc: BaseException) -> str:
    """Return the traceback of an import that failed, from the project's first frame on; empty without one."""
    told = traceback.TracebackException.from_exception(exc)
    frames = 0
    part: traceback.TracebackException | None = told
    while part is not None:
        kept = [frame for frame in part.stack if not frame.filename.startswith(_NOT_THE_PROJECT)]
        part.stack = traceback.StackSummary.from_list(kept)
        frames += len(kept)
        part = part.__cause__ or part.__context__
    return "".join(told.format()) if frames else ""


def talks_to_broker(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``-A``, ``-b`` and ``-l``; the command's first argument is then a Connection.

    ``-A`` and ``-b`` may stand before the command's name, too, as Celery's command line has it.
    """

    @click.option(
        "-A", "--app", metavar="APP", help="The app, as Celery finds it: proj, proj.celery, proj:app."
    )
    @click.option("-b", "--broker", metavar="URL", help="The broker. [default: the app's, EMQ_BROKER_ADDR]")
    @click.option("-l", "--loglevel", default="warning", show_default=True, help="debug shows tracebacks.")
    @functools.wraps(command)
    def connected(app: str | None, broker: str | None, loglevel: str, **arguments: Any) -> None:
        before = click.get_current_context().find_root().params
        level = loglevel.upper()
        if level not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
            raise click.BadParameter(f"{loglevel!r} is none of debug, info, warning, error", param_hint="-l")
        logging.basicConfig(level=level, format="%(levelname)s: %(message)s")
        connection = Connection(app or before.get("app"), broker or before.get("broker"))
        with one_line_errors(loglevel, lambda: connection.shown):
            command(connection, **arguments)

    return connected
