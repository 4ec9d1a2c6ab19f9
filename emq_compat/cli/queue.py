"""``emq-compat queue``: pause queues, and let them go on."""

from __future__ import annotations

import click

from emq_compat.cli.as_json import json_option, tell
from emq_compat.cli.connection import Connection, talks_to_broker
from emq_compat.table import printable
from emq_compat.words import amount

__all__ = ["queue"]


@click.group()
def queue() -> None:
    """Pause queues, and let them go on."""


@queue.command()
@click.argument("names", nargs=-1, required=True, metavar="QUEUE...")
@json_option("Print them as one JSON array.")
@talks_to_broker
def pause(connection: Connection, names: tuple[str, ...], as_json: bool) -> None:
    """Hand out nothing of these queues until they are resumed, also after the broker's restart.

    What is published meanwhile is taken in and waits; what workers hold already goes on.
    """
    _set(connection, names, "pause_queue", as_json=as_json)


@queue.command()
@click.argument("names", nargs=-1, required=True, metavar="QUEUE...")
@json_option("Print them as one JSON array.")
@talks_to_broker
def resume(connection: Connection, names: tuple[str, ...], as_json: bool) -> None:
    """Hand out again what waits in these queues."""
    _set(connection, names, "resume_queue", as_json=as_json)


def _set(connection: Connection, names: tuple[str, ...], verb: str, *, as_json: bool) -> None:
    with connection.client() as client:
        known = {row["name"]: row for row in client.ask("queues")}
        if unknown := [name for name in names if name not in known]:
            there = ", ".join(sorted(map(printable, known))) or "none"
            raise click.ClickException(f"there is no queue {unknown[0]!r}; there are: {there}")
        paused = verb == "pause_queue"
        told: list[dict[str, object]] = []
        for name in dict.fromkeys(names):
            changed = client.ask(verb, queue=name)
            if as_json:
                waiting = known[name]["waiting"]
                told.append({"queue": name, "paused": paused, "changed": changed, "waiting": waiting})
                continue
            already = "" if changed else " already" if paused else ", as before"
            waits = amount(known[name]["waiting"], "message")
            click.echo(f"{printable(name)} {'is paused' if paused else 'goes on'}{already}; {waits} waiting.")
    if as_json:
        tell(told)
