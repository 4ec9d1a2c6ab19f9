"""``emq-compat top``: queues, workers, rates and failures on this terminal, live."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence

import click

from emq_compat.cli.as_json import json_option, tell
from emq_compat.cli.connection import Connection, talks_to_broker
from emq_compat.cli.context import root_context
from emq_compat.cli.report import hidden
from emq_compat.cli.top_lines import Line, screen
from emq_compat.cli.top_looks import Looks
from emq_compat.errors import BrokerRefused, ConfigurationError, EmqError, NotPermitted
from emq_compat.table import room

__all__ = ["top"]

#: Sections that are shown, and told as JSON.
_TOLD = ("broker", "verdict", "totals", "queues", "workers", "failures")
_COLOURS = {"ok": "green", "warn": "yellow", "bad": "red"}


@click.command()
@click.option(
    "-d",
    "--delay",
    "every_s",
    type=click.FloatRange(min=0.1, max=10),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks.",
)
@click.option("--once", is_flag=True, help="Print it once, after two looks, as text.")
@json_option("Print it once as one JSON object.")
@talks_to_broker
def top(connection: Connection, every_s: float, once: bool, as_json: bool) -> None:
    """Show queues, workers, rates and failures on this terminal, and whether all is well.

    The broker is asked one cheap question a second. Where there is no terminal, it is printed once. With keys
    the broker wants an admin's.
    """
    if connection.over_kombu or connection.stock:
        raise ConfigurationError(
            f"{hidden('', connection.url)} is no broker of emq-compat, whose state is shown here; "
            "`emq-compat status` shows the workers"
        )
    url = str(hidden("", connection.url))
    with connection.client() as client:
        looks = Looks(client, every_s)
        if once or as_json or not _terminal():
            _print_once(looks, url, every_s, as_json=as_json)
        else:
            _show(looks, url)


def _print_once(looks: Looks, url: str, every_s: float, *, as_json: bool) -> None:
    try:
        looks.look()
        time.sleep(every_s)
        looks.look()
    except BrokerRefused as exc:
        raise _refused(exc, url) from exc
    if as_json:
        tell({"url": url, **{name: looks.sections[name] for name in _TOLD}})
        return
    plain = root_context().no_color
    for line in screen(looks.sections, url, room()):
        # click leaves the colours out where there is no terminal.
        colour = None if plain else _COLOURS.get(line.shown)
        click.echo(line.text if colour is None else click.style(line.text, fg=colour))


def _show(looks: Looks, url: str) -> None:
    from emq_compat.cli.top_screen import show  # noqa: PLC0415 - curses isn't everywhere

    def lines(width: int, height: int) -> Sequence[Line]:
        if looks.failed is not None:
            raise looks.failed
        if not looks.sections:
            return [Line(f"Asking {url} …"[:width])]
        return screen(looks.sections, url, width, height)

    # TERM ends it as Ctrl-C does: the terminal is put in order.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    looks.begin()
    try:
        show(lines, {" ": looks.look_soon}, colours=not root_context().no_color)
    except BrokerRefused as exc:
        raise _refused(exc, url) from exc
    finally:
        looks.end()


def _refused(exc: BrokerRefused, url: str) -> EmqError:
    """Return what to say of a broker that doesn't tell."""
    if not isinstance(exc, NotPermitted) and "unknown" in str(exc):
        return ConfigurationError(f"the broker at {url} is older and can't be shown")
    return exc


def _terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
