"""``emq-compat list bindings``: which names lead to which queue."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import click

from emq_compat.cli.as_json import json_option, tell
from emq_compat.cli.connection import Connection, talks_to_broker
from emq_compat.shim.app import Celery
from emq_compat.table import UNCUT, names, printable, room, table

__all__ = ["list"]

#: What Celery prints, and programs read; a terminal may have less room.
_FORM = "{:<28} {:<28} {}"
_HEADS = ("Queue", "Exchange", "Routing Key")


@click.group()
def list() -> None:  # noqa: A001 - the command's name
    """List what is known to the app and its broker."""


@list.command()
@json_option("Print them as one JSON array.")
@talks_to_broker
def bindings(connection: Connection, as_json: bool) -> None:
    """List the queues, each with the exchange and the key by which the app's routes find it.

    The broker has queues only: exchanges and keys are names that the app's settings give them. A queue is
    always found by its own name, too.
    """
    with connection.app() as app:
        known = [str(queue["name"]) for queue in app.client.ask("queues")]
        found = [*_bindings(app, known)]
    if as_json:
        told = [dict(zip(("queue", "exchange", "routing_key"), row, strict=True)) for row in found]
        tell(told)
    elif room() < UNCUT:
        click.echo(table([*map(names, _HEADS)], found, right=()))
    else:
        for row in (_HEADS, ("-" * 16,) * 3, *found):
            click.echo(_FORM.format(*map(printable, row)).rstrip())


def _bindings(app: Celery, known: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """Yield queue, exchange and key: of the app's queues, then of those that only the broker knows."""
    queues = app.amqp.queues
    for name in sorted(queues):
        queue = queues[name]
        exchange = getattr(queue.exchange, "name", queue.exchange) or ""
        yield name, str(exchange), str(queue.routing_key or name)
    for name in sorted({*known} - {*queues}):
        yield name, "", name
