"""``emq-compat upgrade settings``: brings a file of settings to Celery's new names."""

from __future__ import annotations

import ast
import difflib
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import click

from emq_compat.shim.settings_table import SETTINGS
from emq_compat.words import amount

__all__ = ["renamed", "upgrade"]

#: Name of a setting in Celery 3 → its name now.
_OLD_NAMES = {old or name.upper(): name for name, (_, _, old) in SETTINGS.items()}


@click.group()
def upgrade() -> None:
    """Bring what was written for older versions of Celery up to date."""


@upgrade.command()
@click.argument("filename", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--django", is_flag=True, help="Names for a Django project: CELERY_ before them, in capitals.")
@click.option("--compat", is_flag=True, help="The same names, for Celery 3 and 4 alike.")
@click.option("--no-backup", is_flag=True, help="Keep no copy of the file as it was (FILENAME.orig).")
@click.option("--dry-run", is_flag=True, help="Show the changes, and write nothing.")
def settings(filename: Path, django: bool, compat: bool, no_backup: bool, dry_run: bool) -> None:
    """Rename the settings of Celery 3 in a Python file to those of Celery 4 and later.

    Only names, keywords and texts that are exactly an old name are changed; everything else stays as it is.
    """
    try:
        before = filename.read_bytes().decode()
        after, count = renamed(before, namespaced=django or compat)
    except (UnicodeDecodeError, SyntaxError, tokenize.TokenError) as exc:
        raise click.ClickException(f"{filename} is no Python file: {exc}") from exc
    if not count:
        click.echo(f"{filename} needs no changes.")
        return
    changes = difflib.unified_diff(
        before.splitlines(), after.splitlines(), str(filename), str(filename), lineterm="", n=0
    )
    click.echo("\n".join(changes))
    if dry_run:
        return
    if not no_backup:
        filename.with_name(f"{filename.name}.orig").write_bytes(before.encode())
    filename.write_bytes(after.encode())
    click.echo(f"{filename}: {amount(count, 'name')} changed.")


def renamed(text: str, *, namespaced: bool) -> tuple[str, int]:
    """Return a Python text with the new names in the place of old ones, and how many there were.

    Args:
        text: the text.
        namespaced: write ``CELERY_TASK_ROUTES`` instead of ``task_routes``.

    Raises:
        SyntaxError, tokenize.TokenError: it is no Python.
    """
    ast.parse(text)
    lines = text.splitlines(keepends=True)
    places = list(_places(text, namespaced=namespaced))
    for row, start, end, new in reversed(places):
        lines[row] = lines[row][:start] + new + lines[row][end:]
    return "".join(lines), len(places)


def _places(text: str, *, namespaced: bool) -> Iterator[tuple[int, int, int, str]]:
    """Yield row, first and last column, and the new text of each old name."""
    for token in tokenize.generate_tokens(io.StringIO(text, newline="").readline):
        if token.type == tokenize.NAME:
            quote, name = "", token.string
        elif token.type == tokenize.STRING and token.string[:1] in "'\"":
            quote, name = token.string[0], token.string[1:-1]
        else:
            continue
        new = _OLD_NAMES.get(name)
        if new is None:
            continue
        written = f"CELERY_{new.upper()}" if namespaced else new
        if written != name:
            (row, start), (_, end) = token.start, token.end
            yield row - 1, start, end, f"{quote}{written}{quote}"
