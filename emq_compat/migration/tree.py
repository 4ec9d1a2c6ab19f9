"""The files of a code base: what is read, and what is passed over."""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

__all__ = ["MAX_BYTES", "PASSED_OVER", "files_below"]

#: Folders that hold no code of the project's own.
PASSED_OVER: Final = frozenset(
    {
        ".bzr", ".cache", ".direnv", ".eggs", ".git", ".hg", ".hypothesis", ".idea", ".ipynb_checkpoints",
        ".mypy_cache", ".nox", ".pytest_cache", ".ruff_cache", ".svn", ".tox", ".venv", ".vscode",
        "__pycache__", "__pypackages__", "bower_components", "node_modules", "site-packages", "venv",
    }
)  # fmt: skip
#: Larger files are generated, or data.
MAX_BYTES: Final = 4_000_000


def files_below(paths: Iterable[Path], exclude: Iterable[str] = ()) -> Iterator[Path]:
    """Yield the regular files at and below some paths, each once, in order.

    Links to folders are not followed, so that there are no loops. Virtual environments are known by their
    ``pyvenv.cfg``. A path that is given is read whatever its name is.

    Args:
        exclude: shell patterns of names (``migrations``, ``*_pb2.py``) or of paths below a given folder
            (``legacy/*``).
    """
    patterns = tuple(exclude)
    seen: set[tuple[int, int]] = set()
    for path in paths:
        if path.is_dir():
            found = _below(path, patterns)
        else:
            found = iter([path])
        for file in found:
            try:
                status = file.stat()
            except OSError:
                continue
            if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            yield file


def _below(root: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if name not in PASSED_OVER
            and not name.endswith((".egg-info", ".dist-info"))
            and not _excluded(here / name, root, patterns)
            and not (here / name / "pyvenv.cfg").exists()
        )
        yield from (here / name for name in sorted(files) if not _excluded(here / name, root, patterns))


def _excluded(path: Path, root: Path, patterns: tuple[str, ...]) -> bool:
    relative = path.relative_to(root).as_posix()
    return any(
        fnmatch.fnmatch(path.name, pattern.rstrip("/")) or fnmatch.fnmatch(relative, pattern.rstrip("/"))
        for pattern in patterns
    )
