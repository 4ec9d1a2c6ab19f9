"""``emq-compat list bindings``: which names lead to which queue."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator

import click

from emq_compat.cli.connection import Connection, talks_to_broker
from emq_compat.cli.table import printable
from emq_compat.shim.app import Celery

__all__ = ["list"]

_FORM = "{:<28} {:<28} {}"


@click.group()
def list() -> None:  # noqa: A001 - the command's name
    """List what is known to the app and its broker."""


@list.command()
@click.option("-j", "--json", "as_json", is_flag=True, help="Print them as one JSON array.")
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
        click.echo(json.dumps(told, ensure_ascii=False))
        return
    for row in (("Queue", "Exchange", "Routing Key"), ("-" * 16,) * 3, *found):
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
