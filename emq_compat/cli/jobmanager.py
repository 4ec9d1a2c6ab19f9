"""``emq-compat jobmanager``: eventmq's job manager, which runs the functions that a site allows."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from emq_compat.address import Address
from emq_compat.cli.connection import one_line_errors
from emq_compat.cli.node_name import file_name, node_name
from emq_compat.cli.pid_file import pid_file
from emq_compat.cli.worker_log import log_level, open_log
from emq_compat.jobmanager import JobManager
from emq_compat.json_lines import VARIABLE
from emq_compat.manager.messages import workers_address
from emq_compat.manager.settings import EventmqSettings, read_settings
from emq_compat.pool.factory import checked_name

if TYPE_CHECKING:
    from emq_compat.monitor.worker import WorkerMonitor

__all__ = ["jobmanager"]

_FORMAT = "[%(asctime)s: %(levelname)s/jobmanager] %(message)s"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-b",
    "--broker",
    metavar="URL",
    help="The broker, or the workers' endpoint of a router: tcp://HOST:47290. [default: WORKER_ADDR of the "
    "settings, EMQ_BROKER_ADDR]",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="PATTERN",
    help="Functions that may run: 'pkg.*', 'pkg.mod.function'; may be repeated. Nothing else runs.",
)
@click.option("-Q", "--queues", metavar="NAMES", help="Listen on these, joined by commas. [default: QUEUES]")
@click.option(
    "-c", "--concurrency", type=click.IntRange(min=1), help="Jobs at once. [default: CONCURRENT_JOBS]"
)
@click.option("-P", "--pool", default="prefork", show_default=True, help="prefork, threads, solo, asyncio.")
@click.option("-n", "--name", metavar="NAME", help="Its name; %h, %n, %d: this host. [default: a new id]")
@click.option("--config", type=click.Path(dir_okay=False), help="eventmq's settings. [/etc/eventmq.conf]")
@click.option("-f", "--logfile", metavar="FILE", help="Log here. [default: stderr]")
@click.option(
    "--log-format",
    type=click.Choice(("text", "json")),
    envvar=VARIABLE,
    help="json: an object a line. [default: text]",
)
@click.option(
    "--http",
    metavar="[HOST:]PORT",
    help="Serve /live, /ready and /metrics there; without a host for this machine alone.",
)
@click.option("--pidfile", metavar="FILE", help="Keep the pid here, and a second one from starting.")
@click.option(
    "-l", "--loglevel", callback=log_level, default="info", show_default=True, help="debug … critical."
)
@click.pass_context
def jobmanager(
    context: click.Context,
    broker: str | None,
    allow: tuple[str, ...],
    queues: str | None,
    concurrency: int | None,
    pool: str,
    name: str | None,
    config: str | None,
    logfile: str | None,
    log_format: str | None,
    http: str | None,
    pidfile: str | None,
    loglevel: str,
) -> None:
    """Run an eventmq job manager.

    It has eventmq's settings: the sections global and jobmanager of /etc/eventmq.conf (or of what
    EVENTMQ_CONFIG_FILE names), and EVENTMQ_* in the environment. HUP reads them again; TERM, INT and QUIT
    end it: what runs is finished, the rest given back; a second one ends it at once.
    """
    with one_line_errors(loglevel):
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        if config is not None:
            os.environ["EVENTMQ_CONFIG_FILE"] = config
        settings = read_settings(os.environ)
        shown = node_name(name) if name else ""
        open_log(loglevel, _path(logfile, shown), _FORMAT, json=log_format == "json")
        monitor = _monitor(http)

        def serve() -> None:
            if monitor is not None:
                monitor.start(manager)

        manager = JobManager(
            shown or None,
            [queue.strip() for queue in (queues or "").split(",") if queue.strip()],
            concurrent_jobs=concurrency,
            pool=checked_name(pool),
            addresses=_addresses(broker or context.find_root().params.get("broker"), settings, os.environ),
            allow=allow,
            settings=settings,
            kill_grace_period=settings.kill_grace_period,
            after_fork=serve,
        )
        with pid_file(_path(pidfile, shown)), ExitStack() as stack:
            if monitor is not None:
                stack.callback(monitor.stop)
            status = manager.start()
    sys.exit(status)


def _monitor(http: str | None) -> WorkerMonitor | None:
    if http is None:
        return None
    from emq_compat.monitor.worker import WorkerMonitor  # noqa: PLC0415 - a web server, for those who want it

    return WorkerMonitor(http)


def _addresses(
    written: str | None, settings: EventmqSettings, environ: Mapping[str, str]
) -> tuple[Address, ...] | None:
    """Return what -b says, else EMQ_BROKER_ADDR; None: eventmq's settings name the broker."""
    if not written:
        if settings.worker_addr != EventmqSettings().worker_addr or not environ.get("EMQ_BROKER_ADDR"):
            return None
        return Address.parse(environ["EMQ_BROKER_ADDR"])
    parts = [part.strip() for part in written.split(";") if part.strip()]
    return tuple(address for part in parts for address in workers_address(part))


def _path(written: str | None, name: str) -> Path | None:
    return Path(file_name(written, name)).absolute() if written else None
