"""``emq-compat migrate messages``: what waits in one broker, moved to another."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable

import click

from emq_compat.address import Address
from emq_compat.cli.as_json import json_option, tell
from emq_compat.cli.connection import one_line_errors
from emq_compat.cli.progress import progress
from emq_compat.client import Client
from emq_compat.errors import ConfigurationError
from emq_compat.table import printable
from emq_compat.transfer import Found, Transfer, left_by, transfer
from emq_compat.words import amount

__all__ = ["messages"]

#: Something that was to move has stayed.
EXIT_STAYED = 3


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source")
@click.argument("dest")
@click.option(
    "-Q",
    "--queues",
    metavar="NAMES",
    help="Only these, joined by commas; OLD:NEW gives one another name there. [default: all]",
)
@click.option("-T", "--tasks", metavar="NAMES", help="Only messages of these tasks, joined by commas.")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="Move so many messages.")
@json_option()
@click.option("-l", "--loglevel", default="warning", show_default=True, help="debug shows tracebacks.")
def messages(
    source: str,
    dest: str,
    queues: str | None,
    tasks: str | None,
    limit: int | None,
    as_json: bool,
    loglevel: str,
) -> None:
    """Move what waits in the broker SOURCE to the broker DEST; both are addresses (emq://HOST).

    What runs is finished where it is. A message is dropped in SOURCE once DEST has confirmed it; cut off at
    any point, call it again. Exits 3 where something has to stay: parts of chords, revoked tasks.
    """
    wanted = set(_names(tasks))
    with one_line_errors(loglevel), _client(source) as here, _client(dest) as there:
        pairs = _pairs(here, queues)
        known = {queue["name"]: queue["waiting"] + queue["delayed"] for queue in here.ask("queues")}
        stayed: Counter[str] = Counter()
        moved = 0
        told: list[dict[str, object]] = []
        for queue, to in pairs.items():
            left = None if limit is None else limit - moved
            with progress(printable(queue), known.get(queue, 0)) as looked_at:

                def chosen(found: Found, looked_at: Callable[[int], None] = looked_at) -> bool:
                    looked_at(1)
                    return not wanted or found.headers.task in wanted

                done = (
                    Transfer() if left == 0 else transfer(here, there, queue, to, choose=chosen, limit=left)
                )
            moved += done.moved
            stayed.update(done.stayed.values())
            told.append({"queue": queue, "to": to, "moved": done.moved, "stayed": len(done.stayed)})
            if not as_json and (done.moved or done.stayed):
                click.echo(_line(queue, to, done))
        if as_json:
            tell({"moved": moved, "stayed": dict(stayed), "queues": told})
        else:
            _sum_up(moved, stayed)
    if stayed:
        sys.exit(EXIT_STAYED)


def _sum_up(moved: int, stayed: Counter[str]) -> None:
    click.echo(f"{amount(moved, 'message')} moved" + (f", {stayed.total()} stayed:" if stayed else ""))
    for why, count in stayed.most_common():
        click.echo(f"  {count}: {why}")


def _client(url: str) -> Client:
    if Address.parse(url)[0].in_process:
        raise ConfigurationError(f"{url} is a broker inside another process, out of a command's reach")
    return Client(url)


def _pairs(here: Client, queues: str | None) -> dict[str, str]:
    """Return queue → its name there, of those that are named, or of all where something waits."""
    given = {}
    for name in _names(queues):
        old, _, new = name.partition(":")
        given[old] = new or old
    known = {queue["name"] for queue in here.ask("queues")}
    left = {left_by(name) for name in known} - {""}
    unknown = sorted(given.keys() - known)
    if unknown:
        there = ", ".join(sorted(map(printable, known))) or "none"
        raise ConfigurationError(f"there is no queue {unknown[0]!r}; there are: {there}")
    own = {name for name in known if not left_by(name)}
    return given or {name: name for name in sorted(own | left)}


def _line(queue: str, to: str, done: Transfer) -> str:
    name = printable(queue) if queue == to else f"{printable(queue)} → {printable(to)}"
    kept = f", {len(done.stayed)} stayed" if done.stayed else ""
    return f"{name}: {amount(done.moved, 'message')} moved{kept}"


def _names(written: str | None) -> list[str]:
    return [name.strip() for name in (written or "").split(",") if name.strip()]
