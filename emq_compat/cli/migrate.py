"""``emq-compat migrate``: what a move from Celery costs, and its imports rewritten."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from emq_compat.cli.as_json import json_option
from emq_compat.cli.migrate_messages import messages
from emq_compat.cli.progress import progress
from emq_compat.errors import ConfigurationError
from emq_compat.migration import listing
from emq_compat.migration.change import Plan, apply, as_diff, installed, rewritten
from emq_compat.migration.finding import STATUSES
from emq_compat.migration.listing import EXIT_UNSUPPORTED, as_lines, exit_status, selected, summary
from emq_compat.migration.scan import scan as scan_tree
from emq_compat.migration.verdicts import Verdicts
from emq_compat.migration.worktree import uncommitted
from emq_compat.words import amount

__all__ = ["migrate"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def migrate() -> None:
    """Move a project from Celery to emq-compat."""


migrate.add_command(messages)


@migrate.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@json_option("Tell it as one JSON object.")
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
@click.option("--write", is_flag=True, help="Change imports to the shim's: shows the diff, and asks.")
@click.option("--diff", "only_diff", is_flag=True, help="Show that diff only.")
@click.option(
    "--install", is_flag=True, help="For --write and --diff: add celery_shim.install() instead, imports stay."
)
@click.option("--yes", is_flag=True, help="Write without asking.")
@click.option("--force", is_flag=True, help="Write although git could not give it back.")
def scan(
    paths: tuple[Path, ...], as_json: bool, exclude: tuple[str, ...], only: tuple[str, ...], **how: bool
) -> None:
    """Find all that is Celery's in a code base, and tell what it comes to here.

    Exits 0: nothing is unsupported; 3: something is, or an import was left; 4: nothing is, but files could
    not be read.
    """
    changes = how["write"] or how["only_diff"]
    if as_json and changes:
        raise click.UsageError("--json lists what is there: leave out --write and --diff")
    if how["install"] and not changes:
        raise click.UsageError("--install says how to change the code: add --write or --diff")
    found = scan_tree(paths, Verdicts(_options_of), exclude, _shown)
    if changes:
        if how["install"]:
            plan = installed(found.apps, found.modules)
        else:
            plan = rewritten(found.python, found.findings)
        sys.exit(_change(plan, **how))
    if as_json:
        click.echo(listing.as_json(found))
    else:
        for line in as_lines(selected(found.findings, only)):
            click.echo(line)
        click.echo("")
        for line in summary(found):
            click.echo(line)
    sys.exit(exit_status(found.findings))


def _shown(files: Sequence[Path]) -> Iterator[Path]:
    """Yield the files, and show on a terminal how many have been read."""
    with progress("Reading", len(files), many=50) as tell:
        for file in files:
            yield file
            tell(1)


def _change(plan: Plan, write: bool, only_diff: bool, yes: bool, force: bool, install: bool) -> int:
    """Show what changes and, if wanted, write it; returns the exit status."""
    click.echo(as_diff(plan.changes), nl=False)
    for line in plan.left:
        click.echo(f"left: {line}", err=True)
    for line in plan.notes:
        click.echo(f"note: {line}", err=True)
    if write and not only_diff and plan.changes:
        odd = uncommitted(change.path for change in plan.changes)
        if odd and not force:
            shown = "\n".join(f"  {line}" for line in odd[:10])
            raise ConfigurationError(
                f"git could not give back what is there now: commit it, or use --force\n{shown}"
            )
        count = len(plan.changes)
        files = amount(count, "file")
        if not yes:
            click.confirm(f"Write {files}?", abort=True, err=True)
        apply(plan.changes)
        click.echo(f"{files} written; the way back: the diff above, reversed (git apply -R)", err=True)
    elif not plan.changes:
        click.echo("nothing to change", err=True)
    return EXIT_UNSUPPORTED if plan.left else 0


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
