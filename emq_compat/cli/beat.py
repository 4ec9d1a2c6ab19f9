"""``emq-compat beat``: publishes an app's periodic tasks when they are due; Celery's beat's options."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emq_compat.cli.background import go_to_background, started
from emq_compat.cli.connection import load_app, one_line_errors
from emq_compat.cli.node_name import file_name, node_name
from emq_compat.cli.pid_file import pid_file
from emq_compat.cli.worker_log import log_level
from emq_compat.errors import ConfigurationError
from emq_compat.json_lines import VARIABLE
from emq_compat.shim.beat.watch import BeatWatch
from emq_compat.shim.current import given_app
from emq_compat.shim.find_app import find_app, is_genuine

if TYPE_CHECKING:
    from emq_compat.monitor.beat import BeatMonitor

__all__ = ["beat"]

logger = logging.getLogger("celery.beat")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-A", "--app", "app_name", metavar="APP", help="The app: proj, proj.celery, proj:app.")
@click.option("-b", "--broker", metavar="URL", help="The broker. [default: the app's, EMQ_BROKER_ADDR]")
@click.option(
    "-l", "--loglevel", callback=log_level, default="warning", show_default=True, help="debug … critical."
)
@click.option(
    "-s",
    "--schedule",
    metavar="NAME",
    help="Which of an app's schedules in the broker this is; of a scheduler with a file, the file.",
)
@click.option(
    "-S", "--scheduler", metavar="CLASS", help="The scheduler: pkg.mod:Class, or the name of an entry point."
)
@click.option(
    "--max-interval", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="The longest sleep."
)
@click.option("-f", "--logfile", metavar="FILE", help="Log here; %n, %h, %p: of the name. [default: stderr]")
@click.option(
    "--log-format",
    type=click.Choice(("text", "json")),
    envvar=VARIABLE,
    help="json: an object a line, and no banner. [default: text]",
)
@click.option("--pidfile", metavar="FILE", help="Keep the pid here, and a second beat from starting.")
@click.option("-D", "--detach", is_flag=True, help="Run in the background.")
@click.option(
    "-n",
    "--hostname",
    metavar="NAME",
    default="celerybeat@%h",
    show_default=True,
    help="Its node name, which its files may have in theirs.",
)
@click.option(
    "--enable-remote-control/--no-enable-remote-control",
    "remote_control",
    default=None,
    help="Answer `inspect ping`, so that it can be watched over. [default: beat_enable_remote_control]",
)
@click.option(
    "--http", metavar="[HOST:]PORT", help="Serve /live, /ready and /metrics there. Port 0: a free one."
)
@click.option("-q", "--quiet", is_flag=True, help="No banner.")
@click.option("--embedded", is_flag=True, hidden=True)
@click.pass_context
def beat(context: click.Context, /, app_name: str | None, broker: str | None, **options: Any) -> None:
    """Publish an app's periodic tasks when they are due, until TERM or Ctrl-C.

    Any number of beats may run for one app: the broker lets one of them send each run, or one of them leads.
    """
    before = context.find_root().params
    app_name = app_name or before.get("app")
    broker = broker or before.get("broker")
    if not app_name and given_app.get() is None:
        raise click.UsageError("beat needs the app: -A proj")
    if options["log_format"] == "json":
        os.environ[VARIABLE] = "json"
        options["quiet"] = True
    if options["detach"]:
        go_to_background()
    with one_line_errors(options["loglevel"]):
        _run(app_name or "", broker, options)


def _run(app_name: str, broker: str | None, options: dict[str, Any]) -> None:
    app: Any = find_app(app_name)
    genuine = is_genuine(app)
    if not genuine:
        app = load_app(app_name)
        app.conf.settle()
    if broker:
        app.conf.update(broker_url=broker, broker_write_url=None, broker_read_url=None)
    node = node_name(options["hostname"])
    log, pid = (
        Path(file_name(options[name], node)).absolute() if options[name] else None
        for name in ("logfile", "pidfile")
    )
    watch = BeatWatch()
    monitor = _monitor(options["http"], node, app, watch)

    def ready() -> None:
        if monitor is not None:
            logger.info("health and metrics: http://%s/live, /ready, /metrics", monitor.address)
        started(log)

    program = _program_of(app, genuine=genuine)(
        loglevel=options["loglevel"],
        logfile=None if log is None else str(log),
        schedule=options["schedule"],
        scheduler=options["scheduler"],
        max_interval=options["max_interval"],
        quiet=options["quiet"],
        remote_control=False if options["embedded"] else options["remote_control"],
        hostname=node,
        embedded=options["embedded"],
        ready=ready,
        watch=watch,
        no_color=True if os.environ.get("NO_COLOR") else None,
    )
    with pid_file(pid), ExitStack() as stack:
        if monitor is not None:
            stack.callback(monitor.stop)
            monitor.start()
            if not options["quiet"]:
                click.echo(f"health and metrics: http://{monitor.address}/live, /ready, /metrics")
        try:
            program.run()
        except OSError as exc:
            raise ConfigurationError(f"{exc.filename or 'beat'}: {exc.strerror or exc}") from exc


def _monitor(http: str | None, node: str, app: Any, watch: BeatWatch) -> BeatMonitor | None:
    """Return what tells of the beat at this address; None: nothing does.

    Raises:
        ConfigurationError: it is no address, or can't be listened at.
    """
    if http is None:
        return None
    from emq_compat.monitor.beat import BeatMonitor, question_for  # noqa: PLC0415 - a web server, for those who want it

    return BeatMonitor(http, node, watch, question_for(app))


def _program_of(app: Any, *, genuine: bool) -> Callable[..., Any]:
    """Return what makes the program of an app's beat."""
    if not genuine:
        return app.Beat  # type: ignore[no-any-return]
    from emq_compat.genuine.beat import LedBeat  # noqa: PLC0415 - the package celery is there

    return partial(LedBeat, app=app)
