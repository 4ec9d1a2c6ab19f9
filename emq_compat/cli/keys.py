"""``emq-compat keys``: make CURVE keys, and say who is let in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from emq_compat.cli.as_json import json_option, tell
from emq_compat.cli.connection import one_line_errors
from emq_compat.keys import (
    add_client,
    authorize,
    authorized_clients,
    new_client,
    new_keys,
    permit_client,
    remove_client,
)
from emq_compat.permits import CLIENT, ROLES, patterns_in
from emq_compat.table import ids, names, table, whole

__all__ = ["keys"]

_FOLDER = click.Path(path_type=Path, file_okay=False)
F = TypeVar("F", bound=Callable[..., Any])


def _what_it_opens(command: F) -> F:
    """Add the options that say what a key opens."""
    options = (
        click.option(
            "--role",
            type=click.Choice(ROLES),
            default=CLIENT,
            show_default=True,
            help="client: publishes and reads results. worker: also runs tasks. admin: everything.",
        ),
        click.option(
            "--publish",
            metavar="QUEUES",
            help="Queues that it may publish to, with commas between them; * for any text. Left out: all.",
        ),
        click.option(
            "--take", metavar="QUEUES", help="Queues that a worker may take tasks from. Left out: all."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _patterns(given: str | None) -> tuple[str, ...]:
    return () if given is None else patterns_in(given)


@click.group()
def keys() -> None:
    """Make the keys that encrypt connections between machines, and say who is let in.

    On the broker's machine: `keys new DIR`, then `broker --keys DIR`. For each other machine: `keys
    add-client DIR NAME`, whose folder is moved there; or there `keys new-client`, and here `keys authorise`.
    The other machine then connects with emq://HOST?keys=FOLDER. --role says what its key opens; the key that
    `keys new` makes is an admin's.
    """


@keys.command()
@click.argument("folder", metavar="DIR", type=_FOLDER)
def new(folder: Path) -> None:
    """Make the broker's keys and an admin's, for this machine."""
    with one_line_errors("info"):
        new_keys(folder)
    click.echo(f"Made {folder}: start `emq-compat broker --keys {folder}`, and connect with ?keys={folder}")


@keys.command("add-client")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.argument("name")
@_what_it_opens
def add(folder: Path, name: str, role: str, publish: str | None, take: str | None) -> None:
    """Let one more machine in; needs no restart of the broker."""
    with one_line_errors("info"):
        made = add_client(folder, name, role=role, publish=_patterns(publish), take=_patterns(take))
    click.echo(f"Made {made}: move it to that machine, as a secret, and connect there with ?keys=FOLDER")


@keys.command("new-client")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.argument("broker_pub", metavar="BROKER.PUB", type=click.Path(path_type=Path, dir_okay=False))
def new_client_(folder: Path, broker_pub: Path) -> None:
    """Make a client's keys on its own machine, so that no secret travels.

    BROKER.PUB is a copy of the file broker.pub in the broker's folder.
    """
    with one_line_errors("info"):
        made = new_client(folder, broker_pub)
    click.echo(
        f"Made {folder}: have {made} authorised on the broker's machine, and connect with ?keys={folder}"
    )


@keys.command("authorise")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.argument("name")
@click.argument("client_pub", metavar="CLIENT.PUB", type=click.Path(path_type=Path, dir_okay=False))
@_what_it_opens
def authorise(
    folder: Path, name: str, client_pub: Path, role: str, publish: str | None, take: str | None
) -> None:
    """Let in the machine that made CLIENT.PUB by `keys new-client`; needs no restart of the broker."""
    with one_line_errors("info"):
        authorize(folder, name, client_pub, role=role, publish=_patterns(publish), take=_patterns(take))
    click.echo(f"{name} is let in")


@keys.command()
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.argument("name")
@_what_it_opens
def permit(folder: Path, name: str, role: str, publish: str | None, take: str | None) -> None:
    """Change what the key of a machine opens, for the connections that it has, too.

    Options that are left out mean what they mean with add-client.
    """
    with one_line_errors("info"):
        permit_client(folder, name, role=role, publish=_patterns(publish), take=_patterns(take))
    click.echo(f"Changed {name}: it is {role}")


@keys.command("remove-client")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.argument("name")
def remove(folder: Path, name: str) -> None:
    """Let a machine in no more. What comes over connections that it has is refused, within a second."""
    with one_line_errors("info"):
        remove_client(folder, name)
    click.echo(f"Removed {name}: its key opens nothing any more")


@keys.command("list")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@json_option("Print them as one JSON array.")
def list_(folder: Path, as_json: bool) -> None:
    """List who is let in, what their keys open, and the public keys."""
    with one_line_errors("info"):
        found = authorized_clients(folder)
    if as_json:
        told = [
            {
                "client": one.name,
                "role": one.role,
                "publish": one.publish,
                "take": one.take,
                "public_key": key.decode(),
            }
            for key, one in found.items()
        ]
        tell(told)
        return
    rows = [
        (one.name, one.role, ", ".join(one.publish) or "all", ", ".join(one.take) or "all", key.decode())
        for key, one in found.items()
    ]
    click.echo(table((names("client"), whole("role"), "publish", "take", ids("public key")), rows))
