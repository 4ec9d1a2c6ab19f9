"""``emq-compat purge``: drop the messages that wait in queues."""

from __future__ import annotations

import click

from emq_compat.cli.as_json import json_option, tell
from emq_compat.cli.connection import Connection, load_app, talks_to_broker
from emq_compat.cli.progress import progress
from emq_compat.shim.app import Celery
from emq_compat.table import printable
from emq_compat.words import amount

__all__ = ["purge"]


@click.command()
@click.option(
    "-Q", "--queues", metavar="NAMES", help="Queues, joined by commas. [default: the app's; else all]"
)
@click.option("-X", "--exclude-queues", metavar="NAMES", help="Leave these out.")
@click.option("-f", "--force", is_flag=True, help="Don't ask first.")
@json_option("Print how many of which queue as one JSON object.")
@talks_to_broker
def purge(
    connection: Connection, queues: str | None, exclude_queues: str | None, force: bool, as_json: bool
) -> None:
    """Drop all messages that wait in queues, those with an eta and those that await a chord included.

    What workers hold already is not touched. What a chord waits for ends as revoked. There is no way back.
    """
    with connection.client() as client:
        known = {
            queue["name"]: queue["waiting"] + queue["delayed"] + queue.get("held", 0) + queue.get("parked", 0)
            for queue in client.ask("queues")
        }
        wanted = _names(queues)
        unknown = [name for name in wanted if name not in known]
        if unknown:
            there = ", ".join(sorted(map(printable, known))) or "none"
            raise click.ClickException(f"there is no queue {unknown[0]!r}; there are: {there}")
        if not wanted and connection.app_name:
            wanted = _queues_of(load_app(connection.app_name))
        wanted = [name for name in wanted or sorted(known) if name not in _names(exclude_queues)]
        total = sum(known.get(name, 0) for name in wanted)
        if not total and not as_json:
            click.echo(f"Nothing waits in {_listed(wanted)}.")
            return
        if total and not force:
            click.confirm(
                f"Drop {amount(total, 'message')} of {_listed(wanted)} for good?", abort=True, err=True
            )
        dropped: dict[str, int] = {}
        with progress("Dropping", total) as done:
            for name in wanted:
                dropped[name] = client.ask("purge", queue=name)
                done(dropped[name])
    if as_json:
        tell({"dropped": dropped})
    else:
        click.echo(f"Dropped {amount(sum(dropped.values()), 'message')} of {_listed(wanted)}.")


def _queues_of(app: Celery) -> list[str]:
    """Return the queues that a worker of the app listens on, unless it is told others."""
    named = [queue if isinstance(queue, str) else str(queue.name) for queue in app.conf.task_queues or ()]
    return named or [str(app.conf.task_default_queue)]


def _names(written: str | None) -> list[str]:
    return [name.strip() for name in (written or "").split(",") if name.strip()]


def _listed(names: list[str]) -> str:
    return (
        f"the {'queue' if len(names) == 1 else 'queues'} {', '.join(map(printable, names))}"
        if names
        else "any queue"
    )
