"""``emq-compat broker --check`` and ``--salvage``: a journal looked into, and mended, without a broker."""

from __future__ import annotations

import json
import sqlite3
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from emq_compat.broker.check import Checked, Problem, Progress, check
from emq_compat.broker.folder import JOURNAL, FolderInUse, claim
from emq_compat.broker.opening import look, reading
from emq_compat.broker.salvage import salvage
from emq_compat.errors import JournalDamaged, JournalError

__all__ = ["WRONG", "check_journal", "salvage_journal"]

#: The exit status where something is wrong with a journal, or was lost of it.
WRONG = 3


def check_journal(folder: Path, *, as_json: bool) -> int:
    """Look into a journal and print what was found; returns the exit status.

    Raises:
        JournalError: there is none, or its folder can't be used.
    """
    journal = folder / JOURNAL
    if not folder.is_dir() or not any(folder.glob(f"{JOURNAL}*")):
        raise JournalError(f"there is no journal in {folder}")
    in_use, told = "", ""
    try:
        with claim(folder):
            try:
                notes = look(journal).notes
            except JournalDamaged as exc:
                notes, told = (), str(exc)
            found = _checked(journal, in_use=False)
    except FolderInUse as exc:
        in_use, notes = str(exc), ()
        found = _checked(journal, in_use=True)
    except JournalError as exc:
        # It can be read, if not used: another user's, or a disk that takes no write.
        notes = (str(exc),)
        found = _checked(journal, in_use=False)
    if told:
        found.problems.insert(0, Problem(what=told))
    if as_json:
        shown: dict[str, Any] = {
            "journal": str(journal),
            "whole": not found.problems,
            "in_use": bool(in_use),
            "schema": found.schema,
            "counts": found.counts,
            "problems": [asdict(problem) for problem in found.problems],
            "further_problems": found.further,
            "notes": list(notes),
        }
        click.echo(json.dumps(shown, indent=2))
        return WRONG if found.problems else 0
    click.echo(f"{journal}, schema {found.schema}" + (f": {in_use}" if in_use else ""))
    _show_counts(found.counts)
    for note in notes:
        click.echo(f"note: {note}")
    for problem in found.problems:
        click.echo(f"wrong: {problem}")
    if found.further:
        click.echo(f"and {found.further:,} more")
    if not found.problems:
        click.echo("The journal is whole.")
    return WRONG if found.problems else 0


def _checked(journal: Path, *, in_use: bool) -> Checked:
    progress = _Progress()
    try:
        with reading(journal, in_use=in_use) as db:
            return check(db, progress.tell)
    except (sqlite3.Error, OSError) as exc:
        return Checked(schema=0, problems=[Problem(what=f"it can't be opened: {exc}")])
    finally:
        progress.clear()


def salvage_journal(folder: Path, *, as_json: bool) -> int:
    """Make a new journal of what can be read, and print what was lost; returns the exit status.

    Raises:
        JournalError: it can't be done; everything is as it was.
    """
    progress = _Progress()
    try:
        done = salvage(folder, progress.tell)
    finally:
        progress.clear()
    if as_json:
        shown = {**asdict(done), "kept": [str(file) for file in done.kept]}
        click.echo(json.dumps(shown, indent=2))
        return WRONG if done.lost else 0
    _show_counts(done.counts)
    for note in done.notes:
        click.echo(f"note: {note}")
    for lost in done.lost:
        click.echo(f"lost: {lost}")
    click.echo("The old files are kept: " + ", ".join(file.name for file in done.kept))
    click.echo(f"{folder / JOURNAL} is new" + ("." if done.lost else ", and nothing was lost."))
    return WRONG if done.lost else 0


def _show_counts(counts: dict[str, int]) -> None:
    for table, rows in counts.items():
        if rows:
            click.echo(f"{rows:>12,} {table.replace('_', ' ')}")


class _Progress:
    """One line that changes, on a terminal only."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self.tell: Progress = self._tell

    def _tell(self, table: str, rows: int) -> None:
        if self._shown:
            click.echo(f"\r\x1b[K{table} {rows:,}" if rows else f"\r\x1b[K{table}", err=True, nl=False)

    def clear(self) -> None:
        if self._shown:
            click.echo("\r\x1b[K", err=True, nl=False)
