"""``emq-compat queue``: pause queues, and let them go on."""

from __future__ import annotations

import click

from emq_compat.cli.connection import Connection, talks_to_broker
from emq_compat.cli.table import printable
from emq_compat.words import amount

__all__ = ["queue"]


@click.group()
def queue() -> None:
    """Pause queues, and let them go on."""


@queue.command()
@click.argument("names", nargs=-1, required=True, metavar="QUEUE...")
@talks_to_broker
def pause(connection: Connection, names: tuple[str, ...]) -> None:
    """Hand out nothing of these queues until they are resumed, also after the broker's restart.

    What is published meanwhile is taken in and waits; what workers hold already goes on.
    """
    _set(connection, names, "pause_queue")


@queue.command()
@click.argument("names", nargs=-1, required=True, metavar="QUEUE...")
@talks_to_broker
def resume(connection: Connection, names: tuple[str, ...]) -> None:
    """Hand out again what waits in these queues."""
    _set(connection, names, "resume_queue")


def _set(connection: Connection, names: tuple[str, ...], verb: str) -> None:
    with connection.client() as client:
        known = {row["name"]: row for row in client.ask("queues")}
        if unknown := [name for name in names if name not in known]:
            there = ", ".join(sorted(map(printable, known))) or "none"
            raise click.ClickException(f"there is no queue {unknown[0]!r}; there are: {there}")
        paused = verb == "pause_queue"
        for name in dict.fromkeys(names):
            changed = client.ask(verb, queue=name)
            already = "" if changed else " already" if paused else ", as before"
            waits = amount(known[name]["waiting"], "message")
            click.echo(f"{printable(name)} {'is paused' if paused else 'goes on'}{already}; {waits} waiting.")
