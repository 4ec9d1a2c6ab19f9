"""``emq-compat events``: what happens in the cluster, on a screen, as lines, or for a camera."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

import click

from emq_compat.cli.as_json import json_option
from emq_compat.cli.background import go_to_background, started
from emq_compat.cli.connection import Connection, talks_to_broker
from emq_compat.cli.context import root_context
from emq_compat.cli.pid_file import pid_file
from emq_compat.shim.app import Celery
from emq_compat.shim.events.dumper import evdump
from emq_compat.shim.events.snapshot import evcam
from emq_compat.shim.surface.times import rate
from emq_compat.shim.symbols import symbol_by_name

__all__ = ["events"]


@click.command()
@click.option("-d", "--dump", is_flag=True, help="Write a line for each event.")
@click.option("-c", "--camera", metavar="CLASS", help="Have this camera (proj.cam:Camera) take pictures.")
@click.option(
    "-F",
    "--frequency",
    "--freq",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two pictures.",
)
@click.option(
    "-r",
    "--maxrate",
    metavar="RATE",
    callback=lambda context, option, written: _rate(written),
    help="At most so many pictures: 10/m.",
)
@click.option("-D", "--detach", is_flag=True, help="Run the camera in the background.")
@click.option("--pidfile", metavar="FILE", help="Keep the pid here, and a second one from starting.")
@click.option("-f", "--logfile", metavar="FILE", help="The camera's log. [default: stderr]")
@json_option("Write each event as a JSON object in a line.")
@talks_to_broker
def events(
    connection: Connection,
    dump: bool,
    camera: str | None,
    frequency: float,
    maxrate: str | None,
    detach: bool,
    pidfile: str | None,
    logfile: str | None,
    as_json: bool,
) -> None:
    """Show tasks and workers on this terminal as they change, by their events.

    Workers tell of tasks when they run with -E, or once `emq-compat control enable_events` has asked them to.
    Where there is no terminal, each event is written as a line.
    """
    if camera is None:
        for option, given in (("--maxrate", maxrate), ("--detach", detach), ("--logfile", logfile)):
            if given:
                raise click.UsageError(f"{option} is for a camera (-c)")
    elif dump or as_json:
        raise click.UsageError(f"{'--dump' if dump else '--json'} and --camera are two ways to run")
    files = [Path(name).absolute() if name else None for name in (pidfile, logfile)]
    if detach:
        go_to_background()
    # TERM ends it as Ctrl-C does: a terminal is put in order, a camera takes its last picture.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with connection.app() as app, pid_file(files[0]):
        if camera is not None:
            _run_camera(app, camera, frequency, maxrate, files[1])
        elif dump or as_json or not _terminal():
            evdump(app=app, out=sys.stdout, as_json=as_json)
        else:
            from emq_compat.shim.events.screen import evtop  # noqa: PLC0415 - curses isn't everywhere

            evtop(app=app, colours=not root_context().no_color)


def _run_camera(
    app: Celery, camera: str, frequency: float, maxrate: str | None, logfile: Path | None
) -> None:
    try:
        kind = symbol_by_name(camera)
    except (ImportError, AttributeError, ValueError) as exc:
        raise click.BadParameter(f"{camera!r} can't be imported: {exc}", param_hint="-c") from exc
    if not callable(kind):
        why = f"{camera!r} is no camera: name its class, as in proj.cam:Camera"
        raise click.BadParameter(why, param_hint="-c")
    started(logfile)
    level = logging.getLogger().getEffectiveLevel()
    file = None if logfile is None else str(logfile)
    evcam(kind, freq=frequency, maxrate=maxrate, loglevel=level, logfile=file, app=app)


def _rate(written: str | None) -> str | None:
    try:
        rate(written)
    except (ValueError, KeyError) as exc:
        raise click.BadParameter(f"{written!r} is no rate such as 10/m (/s, /m or /h)") from exc
    return written


def _terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
