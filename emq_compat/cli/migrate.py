"""``emq-compat migrate``: what a move from Celery costs, and its imports rewritten."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from emq_compat.migration.finding import STATUSES
from emq_compat.migration.listing import as_json, as_lines, exit_status, selected, summary
from emq_compat.migration.scan import scan as scan_tree
from emq_compat.migration.verdicts import Verdicts

__all__ = ["migrate"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def migrate() -> None:
    """Move a project from Celery to emq-compat."""


@migrate.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--json", "json_", is_flag=True, help="Tell it as JSON.")
@click.option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help="Pass over files and folders of this name or path; several times.",
)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(STATUSES),
    help="List only what is so; the sum and the exit status are of all. Several times.",
)
def scan(paths: tuple[Path, ...], json_: bool, exclude: tuple[str, ...], only: tuple[str, ...]) -> None:
    """Find all that is Celery's in a code base, and tell what it comes to here.

    Exits 0: nothing is unsupported; 3: something is; 4: nothing is, but files could not be read.
    """
    found = scan_tree(paths, Verdicts(_options_of), exclude)
    if json_:
        click.echo(as_json(found))
    else:
        for line in as_lines(selected(found.findings, only)):
            click.echo(line)
        click.echo("")
        for line in summary(found):
            click.echo(line)
    sys.exit(exit_status(found.findings))


def _options_of(command: str) -> Mapping[str, bool] | None:
    """Return a command's options, and whether each has a value; None: there is no such command."""
    commands = importlib.import_module("emq_compat.cli.main").COMMANDS
    if command not in commands:
        return None
    found = getattr(importlib.import_module(f"emq_compat.cli.{command}"), command)
    return {
        name: not getattr(parameter, "is_flag", False)
        for parameter in found.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
