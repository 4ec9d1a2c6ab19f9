"""``emq-compat schedules``: what beats send, and when they sent it last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from emq_compat.cli.as_json import json_option, tell
from emq_compat.cli.connection import Connection, talks_to_broker
from emq_compat.table import names, printable, table, whole
from emq_compat.words import amount, duration

__all__ = ["schedules"]


@click.command()
@json_option("Print them as one JSON array.")
@click.option(
    "--forget", metavar="SCHEDULE", help="Forget a schedule that no beat runs any more, with all its entries."
)
@talks_to_broker
def schedules(connection: Connection, as_json: bool, forget: str | None) -> None:
    """Show the entries that the broker keeps for beats, and their last runs."""
    with connection.client() as client:
        if forget is not None:
            count = client.ask("periodic_forget", schedule=forget)
            if not count:
                raise click.ClickException(f"there is no schedule {forget!r}")
            if as_json:
                tell({"schedule": forget, "forgotten": count})
            else:
                click.echo(f"{amount(count, 'entry', 'entries')} of {printable(forget)} forgotten.")
            return
        rows = client.ask("periodic")
    if as_json:
        tell(rows)
    else:
        click.echo(_text(rows))


def _text(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "No beat has been started on this broker."
    return table(
        (names("schedule"), names("entry"), names("task"), "when", "runs", whole("last run")),
        [[*(row[text] for text in _TEXTS), row["total"], _last(row)] for row in rows],
    )


_TEXTS = ("schedule", "name", "task", "shown")


def _last(row: Mapping[str, Any]) -> str:
    if not row["total"]:
        return "none yet"
    at = datetime.fromtimestamp(row["last_run_at"]).astimezone()
    return f"{at:%Y-%m-%d %H:%M:%S}, {duration(row['age_s'])} ago"
