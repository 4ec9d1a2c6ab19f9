"""``emq-compat keys``: make CURVE keys, and say who is let in."""

from __future__ import annotations

from pathlib import Path

import click

from emq_compat.cli.connection import one_line_errors
from emq_compat.cli.table import table
from emq_compat.keys import add_client, authorized_clients, new_keys, remove_client

__all__ = ["keys"]

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group()
def keys() -> None:
    """Make the keys that encrypt connections between machines, and say who is let in.

    On the broker's machine: `keys new DIR`, then `broker --keys DIR`. For each other machine:
    `keys add-client DIR NAME`; move the folder it names there, and write emq://HOST?keys=FOLDER.
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
