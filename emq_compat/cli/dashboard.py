"""``emq-compat dashboard``: a page that shows the broker's queues, workers and failures."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click

from emq_compat.cli.connection import Connection, talks_to_broker
from emq_compat.cli.report import hidden
from emq_compat.cli.telling import line_of
from emq_compat.client import Client
from emq_compat.errors import BrokerRefused, ConfigurationError, JournalUnwritable, OperationalError

if TYPE_CHECKING:
    from uvicorn import Server

__all__ = ["dashboard"]

_TOKEN = "EMQ_DASHBOARD_TOKEN"  # noqa: S105 - the name of a variable
_MISSING = "the dashboard needs starlette and uvicorn: pip install 'emq-compat[dashboard]'"


@click.command()
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default="127.0.0.1:8420",
    show_default=True,
    help="Where; another address than this machine's own needs a token.",
)
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help=f"Its first line opens the page. [default: {_TOKEN}, else none]",
)
@click.option(
    "--allow-host", "names", multiple=True, metavar="NAME", help="A further name that it is asked for by."
)
@click.option("--show-args", is_flag=True, help="Show arguments and results of tasks.")
@click.option("--read-only", is_flag=True, help="Show only: nothing can be changed from the page.")
@talks_to_broker
def dashboard(
    connection: Connection,
    listen: str,
    token_file: Path | None,
    names: tuple[str, ...],
    show_args: bool,
    read_only: bool,
) -> None:
    """Serve a page with queues, workers, failures, dead letters and schedules, and act on them.

    It is a process of its own, which asks the broker once a second while somebody looks. With keys the broker
    wants an admin's.
    """
    try:
        from emq_compat.monitor.dashboard.access import Access  # noqa: PLC0415 - an extra
        from emq_compat.monitor.dashboard.serve import server  # noqa: PLC0415 - an extra
        from emq_compat.monitor.dashboard.web import Shown  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as exc:
        if exc.name not in ("starlette", "uvicorn", "anyio"):
            raise
        raise click.ClickException(_MISSING) from exc
    if connection.over_kombu or connection.stock:
        raise ConfigurationError(
            f"{hidden('', connection.url)} is no broker of emq-compat, whose state the dashboard shows. "
            "For RabbitMQ and Redis there is Flower: emq-compat -A proj flower"
        )
    host, port = _address(listen)
    access = Access(host, _token(token_file), names)
    logging.getLogger("emq_compat.dashboard").setLevel(logging.INFO)
    with connection.client() as client, _listening(host, port) as listener:
        _try(client, connection.url)
        shown = Shown(url=str(hidden("", connection.url)), args=show_args, read_only=read_only)
        at = listener.getsockname()[1]
        run: Server = server(client, access, shown)

        def end(*_: object) -> None:
            run.should_exit = True

        # uvicorn raises what it was ended by once more, after its end: then it comes here, and means nothing.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, end)
        click.echo(f"The dashboard of {shown.url} is at http://{f'[{host}]' if ':' in host else host}:{at}/")
        run.run(sockets=[listener])


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise click.UsageError(f"--listen takes HOST:PORT, such as 127.0.0.1:8420, not {listen!r}")
    return host.strip("[]"), int(port)


def _token(file: Path | None) -> str:
    if file is None:
        return os.environ.get(_TOKEN, "").strip()
    lines = file.read_text().strip().splitlines()
    if not lines:
        raise ConfigurationError(f"the file {file} holds no token")
    return lines[0].strip()


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise OperationalError(
                f"--listen {host}:{port}: the address is in use; is it another dashboard? Give another "
                "port, or 0 for a free one"
            ) from exc
        raise OperationalError(f"--listen {host}:{port}: {exc.strerror or exc}") from exc


def _try(client: Client, url: str) -> None:
    """Say at once what would keep the page empty; a broker that is away may come."""
    try:
        client.ask("overview", timeout_s=2.0)
    except JournalUnwritable as exc:
        click.echo(f"{exc}; the page says so until then.", err=True)
    except BrokerRefused as exc:
        if "unknown" in str(exc):
            raise ConfigurationError(f"the broker at {hidden('', url)} is older and can't be shown") from exc
        raise
    except OperationalError as exc:
        click.echo(f"{line_of(exc)}; the page says so until it does.", err=True)
