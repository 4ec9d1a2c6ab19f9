"""Asks git whether what is about to be changed can be had back."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

__all__ = ["uncommitted"]


def uncommitted(files: Iterable[Path]) -> list[str]:
    """Return what a change of some files could not be told from: uncommitted changes, files git doesn't know.

    Returns lines as ``git status --short`` has them, for the whole of each work tree; empty: all is
    committed. A file that lies in no work tree is one that git doesn't know.
    """
    told: list[str] = []
    by_folder: dict[Path, list[Path]] = {}
    for file in files:
        by_folder.setdefault(file.resolve().parent, []).append(file.resolve())
    trees: set[str] = set()
    for folder, inside in sorted(by_folder.items()):
        top = _git(folder, "rev-parse", "--show-toplevel")
        if top is None:
            told.extend(f"?? {file} (under no version control)" for file in inside)
            continue
        if top not in trees:
            trees.add(top)
            changed = _git(Path(top), "status", "--porcelain", "--untracked-files=no") or ""
            told.extend(changed.splitlines())
        known = set((_git(folder, "ls-files", "--full-name", "--", *map(str, inside)) or "").splitlines())
        told.extend(f"?? {file}" for file in inside if str(file.relative_to(top)) not in known)
    return told


def _git(folder: Path, *words: str) -> str | None:
    """Return what git says in a folder; None: it fails, or there is no git."""
    try:
        done = subprocess.run(  # noqa: S603 - the words are ours
            ["git", "-c", "core.quotePath=false", *words],  # noqa: S607 - the user's own git
            cwd=folder,
            capture_output=True,
            check=False,
        )
    except OSError:
        return None
    return done.stdout.decode("utf-8", "surrogateescape").rstrip("\n") if done.returncode == 0 else None
