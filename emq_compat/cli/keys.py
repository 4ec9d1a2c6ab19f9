"""``emq-compat keys``: make CURVE keys, and say who is let in."""

from __future__ import annotations

from pathlib import Path

import click

from emq_compat.cli.connection import one_line_errors
from emq_compat.cli.table import table
from emq_compat.keys import (
    add_client,
    authorize,
    authorized_clients,
    new_client,
    new_keys,
    remove_client,
)

__all__ = ["keys"]

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group()
def keys() -> None:
    """Make the keys that encrypt connections between machines, and say who is let in.

    On the broker's machine: `keys new DIR`, then `broker --keys DIR`. For each other machine: `keys
    add-client DIR NAME`, whose folder is moved there; or there `keys new-client`, and here `keys authorise`.
    The other machine then connects with emq://HOST?keys=FOLDER.
    """


@keys.command()
@click.argument("folder", metavar="DIR", type=_FOLDER)
def new(folder: Path) -> None:
    """Make the broker's keys and one client's, for this machine."""
    with one_line_errors("info"):
        new_keys(folder)
    click.echo(f"Made {folder}: start `emq-compat broker --keys {folder}`, and connect with ?keys={folder}")


@keys.command("add-client")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.argument("name")
def add(folder: Path, name: str) -> None:
    """Let one more machine in; needs no restart of the broker."""
    with one_line_errors("info"):
        made = add_client(folder, name)
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
def authorise(folder: Path, name: str, client_pub: Path) -> None:
    """Let in the machine that made CLIENT.PUB by `keys new-client`; needs no restart of the broker."""
    with one_line_errors("info"):
        authorize(folder, name, client_pub)
    click.echo(f"{name} is let in")


@keys.command("remove-client")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.argument("name")
def remove(folder: Path, name: str) -> None:
    """Let a machine in no more. Connections that it has stay until they end."""
    with one_line_errors("info"):
        remove_client(folder, name)
    click.echo(f"Removed {name}: new connections with its key are refused")


@keys.command("list")
@click.argument("folder", metavar="DIR", type=_FOLDER)
def list_(folder: Path) -> None:
    """List who is let in, with their public keys."""
    with one_line_errors("info"):
        found = authorized_clients(folder)
    click.echo(table(("client", "public key"), [(name, key.decode()) for key, name in found.items()]))
