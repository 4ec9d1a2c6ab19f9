"""``emq-compat dead``: the messages that were put aside, for an operator to decide."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from emq_compat.cli.as_json import json_option, tell
from emq_compat.cli.connection import Connection, talks_to_broker
from emq_compat.cli.progress import progress
from emq_compat.client import Client
from emq_compat.table import ids, names, printable, table, whole
from emq_compat.words import amount

__all__ = ["dead"]

_PAGE = 1000


@click.group()
def dead() -> None:
    """Show, requeue and drop dead letters: messages that can't be run, or were lost too often."""


@dead.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="How many at most.")
@click.option(
    "--after", type=click.IntRange(min=0), default=0, metavar="KEY", help="Only those behind this key."
)
@json_option("Print them as one JSON array.")
@talks_to_broker
def list_(connection: Connection, limit: int, after: int, as_json: bool) -> None:
    """List dead letters, oldest first."""
    rows: list[dict[str, Any]] = []
    with connection.client() as client:
        total = client.ask("stats")["dead"]
        while len(rows) < limit:
            page = client.ask("dead_list", limit=min(_PAGE, limit - len(rows)), after=after)
            if not page:
                break
            rows += page
            after = page[-1]["key"]
    if as_json:
        tell(rows)
        return
    if not rows:
        click.echo("No dead letters." if not total else "No more dead letters.")
        return
    lines = [
        (row["key"], _when(row["at"]), row["queue"], row["task"] or "-", row["task_id"] or "-", row["reason"])
        for row in rows
    ]
    click.echo(table(("key", whole("since"), names("queue"), names("task"), ids("id"), "reason"), lines))
    if len(rows) == limit and limit < total:
        click.echo(f"There are {total:,} in all; more: --after {after}", err=True)


@dead.command("show")
@click.argument("key", type=click.IntRange(min=0))
@json_option()
@talks_to_broker
def show(connection: Connection, key: int, as_json: bool) -> None:
    """Show one dead letter with its headers and payload."""
    with connection.client() as client:
        letter = client.ask("dead_show", key=key)
    if as_json:
        tell(letter)
        return
    letter["at"] = _when(letter["at"])
    width = max(map(len, letter))
    for member, value in letter.items():
        click.echo(f"{member.ljust(width)}  {printable(str(value))}")


@dead.command("requeue")
@click.argument("keys", type=click.IntRange(min=0), nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them.")
@json_option("Print how many as a JSON object.")
@talks_to_broker
def requeue(connection: Connection, keys: tuple[int, ...], every: bool, as_json: bool) -> None:
    """Put dead letters back into their queues, to be run again."""
    with connection.client() as client:
        _need_keys(client, keys, every)
        done = _each(client, "dead_requeue", "Putting back", keys)
    if as_json:
        tell({"requeued": done})
    else:
        click.echo(f"Put back {amount(done, 'message')}.")


@dead.command("drop")
@click.argument("keys", type=click.IntRange(min=0), nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them.")
@click.option("-f", "--force", is_flag=True, help="Don't ask first.")
@json_option("Print how many as a JSON object.")
@talks_to_broker
def drop(connection: Connection, keys: tuple[int, ...], every: bool, force: bool, as_json: bool) -> None:
    """Drop dead letters for good."""
    with connection.client() as client:
        _need_keys(client, keys, every)
        total = client.ask("stats")["dead"] if every else len(set(keys))
        if total and not force:
            click.confirm(f"Drop {amount(total, 'dead letter')} for good?", abort=True, err=True)
        done = _each(client, "dead_drop", "Dropping", keys)
    if as_json:
        tell({"dropped": done})
    else:
        click.echo(f"Dropped {amount(done, 'dead letter')}.")


def _each(client: Client, verb: str, label: str, keys: tuple[int, ...]) -> int:
    """Have the broker do this to these dead letters, or to all; returns to how many it did.

    All are done by the page, so that others are served in between: those that are there now, not what comes
    to lie there meanwhile, of what is put back here too.
    """
    if keys:
        return int(client.ask(verb, keys=list(keys)))
    done, after = 0, 0
    left = total = client.ask("stats")["dead"]
    with progress(label, total) as tell:
        while left > 0:
            page = [row["key"] for row in client.ask("dead_list", limit=min(_PAGE, left), after=after)]
            if not page:
                break
            done += client.ask(verb, keys=page)
            after = page[-1]
            left -= len(page)
            tell(len(page))
    return done


def _need_keys(client: Client, keys: tuple[int, ...], every: bool) -> None:
    """Refuse a call that names none, or one that isn't there: nothing is done by halves."""
    if every == bool(keys):
        raise click.UsageError("name keys (of `dead list`), or give --all")
    for key in keys:
        client.ask("dead_show", key=key)


def _when(unix_time: float) -> str:
    return datetime.fromtimestamp(unix_time).astimezone().isoformat(sep=" ", timespec="seconds")
