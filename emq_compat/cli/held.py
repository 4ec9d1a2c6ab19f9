"""``emq-compat held``: which keys are held, what waits for them, and why a task waits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from emq_compat.cli.as_json import json_option, tell
from emq_compat.cli.connection import Connection, talks_to_broker
from emq_compat.table import ids, names, printable, table, whole
from emq_compat.words import amount, duration

__all__ = ["held"]


@click.command()
@click.argument("task_ids", nargs=-1, metavar="[TASK_ID]...")
@click.option("--release", metavar="KEY", help="Free this unique key, whoever holds it.")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(1, 10_000),
    default=50,
    show_default=True,
    metavar="N",
    help="Rows of each kind.",
)
@json_option()
@talks_to_broker
def held(
    connection: Connection, task_ids: tuple[str, ...], release: str | None, limit: int, as_json: bool
) -> None:
    """Show unique keys with who holds them, what is parked for a concurrency key or a shared rate, and
    chords' bodies that wait for parts, the longest silent first.

    With task ids: where the message of each is, and what it waits for.
    """
    if release is not None and task_ids:
        raise click.UsageError("--release takes no task ids")
    with connection.client() as client:
        if release is not None:
            if not client.ask("release_key", key=release):
                raise click.ClickException(f"nobody holds the key {printable(release)!r}")
            if as_json:
                tell({"released": release})
            else:
                click.echo(f"The key {printable(release)!r} is free.")
            return
        if task_ids:
            why = client.ask("why", ids=list(task_ids))
            if as_json:
                tell(why)
            else:
                click.echo("\n".join(f"{printable(one)}: {printable(text)}" for one, text in why.items()))
            return
        keys = client.ask("keys", limit=limit)
        total = client.ask("stats")["unique_keys"]
    if as_json:
        tell(keys)
    else:
        click.echo(_text(keys, total))


def _text(keys: Mapping[str, Any], total: int) -> str:
    unique, gates = keys["unique"], keys["gates"]
    parts = [f"{amount(total, 'unique key')} held, {amount(keys['parked'], 'message')} parked."]
    if unique:
        holders = [
            (
                row["key"],
                row["holder"],
                "until its end" if row["left_s"] is None else duration(row["left_s"]),
                row["followers"],
            )
            for row in unique
        ]
        parts.append(table((names("unique key"), ids("holder"), whole("at most"), "followers"), holders))
        if total > len(unique):
            parts[-1] += f"\nand {total - len(unique):,} more"
    if gates:
        rows = [
            (
                row["key"],
                f"{row['kind']} of a {row['of']}",
                row["running"],
                row["parked"],
                "" if row["opens_s"] is None else duration(row["opens_s"]),
            )
            for row in gates
        ]
        parts.append(table((names("key"), "kind", "running", "parked", whole("opens in")), rows))
    if keys["chords"]:
        bodies = [
            (row["body"], f"{row['ended']} of {row['parts']}", duration(row["silent_s"]) + " ago")
            for row in keys["chords"]
        ]
        parts.append(table((ids("chord's body"), whole("parts ended"), "last heard of"), bodies))
    return "\n\n".join(parts)
