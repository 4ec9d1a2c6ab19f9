"""``emq-compat control``: has workers change something."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from emq_compat.cli.connection import Connection, talks_to_broker
from emq_compat.cli.remote import ask, list_option, reply_options
from emq_compat.shim.app import Celery

__all__ = ["control"]


@click.command()
@click.argument("command")
@click.argument("arguments", nargs=-1)
@list_option("control")
@reply_options
@talks_to_broker
def control(
    connection: Connection,
    command: str,
    arguments: tuple[str, ...],
    timeout: float,
    destination: list[str] | None,
    as_json: bool,
) -> None:
    """Have the workers, or those of --destination, do something: revoke, rate_limit, pool_grow, shutdown …

    Ends with 69 when no node has replied in time.
    """

    def request(app: Celery, name: str, given: Mapping[str, Any], told: Callable[[Any], None] | None) -> Any:
        return app.control.broadcast(
            name, arguments=given, destination=destination, timeout=timeout, callback=told, reply=True
        )

    ask(connection, "control", command, arguments, request, as_json=as_json)
