"""``emq-compat inspect``: asks workers what they do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from emq_compat.cli.connection import Connection, talks_to_broker
from emq_compat.cli.context import root_context
from emq_compat.cli.remote import ask, list_option, reply_options
from emq_compat.shim.app import Celery
from emq_compat.words import amount

__all__ = ["inspect"]


@click.command()
@click.argument("command")
@click.argument("arguments", nargs=-1)
@list_option("inspect")
@reply_options
@talks_to_broker
def inspect(
    connection: Connection,
    command: str,
    arguments: tuple[str, ...],
    timeout: float,
    destination: list[str] | None,
    as_json: bool,
) -> None:
    """Ask the workers, or those of --destination, what they do: active, reserved, scheduled, stats …

    Ends with 69 when no node has replied in time.
    """

    def request(app: Celery, name: str, given: Mapping[str, Any], told: Callable[[Any], None] | None) -> Any:
        inspection = app.control.inspect(destination=destination, timeout=timeout, callback=told)
        return inspection._request(name, **given)

    replies = ask(connection, "inspect", command, arguments, request, as_json=as_json)
    context = root_context()
    if not as_json and not context.quiet:
        context.echo(f"\n{amount(len(replies), 'node')} online.")
