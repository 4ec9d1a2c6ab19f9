"""What a move changes in a code base: the imports of its files, or two lines where it begins."""

from __future__ import annotations

import ast
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import diff_bytes, unified_diff
from pathlib import Path
from typing import Final

from emq_compat.errors import ConfigurationError
from emq_compat.migration.early import Early, early, is_test
from emq_compat.migration.finding import Finding
from emq_compat.migration.modules import Modules, Unreadable, parsed

__all__ = ["EARLY", "Change", "Plan", "apply", "as_diff", "early_imports", "installed", "rewritten"]

_IMPORTS: Final = re.compile(rb"\b(?:celery|billiard)\b")
_LINES: Final = re.compile(rb"[^\n]*\n|[^\n]+")
#: What is said of an import that comes before the lines.
EARLY: Final = (
    "comes before celery_shim.install(): import the project's app first, or put there "
    "`from emq_compat import celery_shim` and `celery_shim.install()`"
)
_INSTALL: Final = "from emq_compat import celery_shim\n\ncelery_shim.install()\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A file before and after."""

    path: Path
    before: bytes
    after: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All changes.

    Attributes:
        changes: the files that change.
        left: what can't be changed, a line each.
        notes: what goes on needing Celery, or ``celery_shim.install()``, whatever is changed; a line each.
    """

    changes: Sequence[Change]
    left: Sequence[str]
    notes: Sequence[str] = ()


def rewritten(files: Iterable[Path], findings: Iterable[Finding] = ()) -> Plan:
    """Return how the imports of some Python files change.

    Args:
        findings: what a scan found in them.

    Raises:
        ConfigurationError: libcst is missing.
    """
    try:
        from emq_compat.migration.rewrite import rewrite  # noqa: PLC0415 - it needs the extra
    except ImportError as exc:
        raise ConfigurationError(
            f"rewriting imports needs {exc.name or 'libcst'}: pip install 'emq-compat[migrate]'"
        ) from exc
    changes: list[Change] = []
    left: list[str] = []
    for path in files:
        try:
            before = path.read_bytes()
            if _IMPORTS.search(before) is None:
                continue
            done = rewrite(before)
        except (OSError, ValueError) as exc:
            left.append(f"{_shown(path)}: {' '.join(str(exc).split())}")
            continue
        left.extend(f"{_shown(path)}:{one.line}: {one.name}: {one.reason}" for one in done.left)
        if done.source != before:
            changes.append(Change(path=path, before=before, after=done.source))
    return Plan(changes=changes, left=left, notes=[*_notes(findings)])


def _notes(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield what imports celery by itself, whatever the code base's own imports are."""
    for one in findings:
        place = f"{_shown(one.path)}:{one.line}: {one.name}"
        if one.kind == "string":
            yield f"{place}: a name in a string"
        elif one.kind == "package" and one.path.suffix == ".py" and one.name != "celery":
            yield f"{place}: a package that imports celery itself needs celery_shim.install()"


def installed(apps: Iterable[Path], modules: Modules) -> Plan:
    """Return how ``celery_shim.install()`` comes to stand in packages that make an app, and in scripts.

    Tests are left aside.

    Args:
        apps: the files that make an app.
        modules: the code base.

    Raises:
        ConfigurationError: no app is made anywhere.
    """
    files = _begin(apps)
    if not files:
        raise ConfigurationError(
            "no file makes an app: put `celery_shim.install()` before the first import of celery yourself"
        )
    found = early_imports(apps, modules)
    changes: list[Change] = []
    left: list[str] = []
    for path in sorted({*files, *(one.path for one in found if one.script)}):
        try:
            before = path.read_bytes()
            after = _with_install(path, before)
        except (OSError, Unreadable) as exc:
            left.append(f"{_shown(path)}: {exc}")
            continue
        if after != before:
            changes.append(Change(path=path, before=before, after=after))
    notes = [f"{_shown(one.path)}:{one.line}: {one.name}: {EARLY}" for one in found if not one.script]
    return Plan(changes=changes, left=left, notes=notes)


def early_imports(apps: Iterable[Path], modules: Modules) -> list[Early]:
    """Return what imports Celery before the lines have run that ``installed`` puts where apps are made."""
    return early(modules, _begin(apps))


def _begin(apps: Iterable[Path]) -> list[Path]:
    """Return the files that get the lines for the sake of an app."""
    return sorted({_first_imported(path) for path in apps if not is_test(path)})


def _first_imported(path: Path) -> Path:
    """Return the file that is imported before a module: the outermost package's, or itself."""
    folder, found = path.parent, path
    while (folder / "__init__.py").is_file():
        found = folder / "__init__.py"
        folder = folder.parent
    return found


def _with_install(path: Path, source: bytes) -> bytes:
    """Return a file with the two lines, after its docstring and what it imports from the future."""
    tree = parsed(path, source)
    if b"celery_shim.install(" in source:
        return source
    after = 0
    for statement in tree.body:
        future = isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
        if not future and not (
            isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and not after
        ):
            break
        after = statement.end_lineno or after
    lines = _LINES.findall(source)
    if not after:
        while after < len(lines) and lines[after].startswith(b"#"):
            after += 1
    newline = b"\r\n" if b"\r\n" in source else b"\n"
    text = _INSTALL.encode().replace(b"\n", newline)
    before = lines[:after]
    if before and not before[-1].endswith(b"\n"):
        before[-1] += newline
    gap = newline if before and not before[-1].startswith(b"#!") else b""
    rest = lines[after:]
    end = newline if rest and rest[0].strip() else b""
    return b"".join([*before, gap, text, end, *rest])


def as_diff(changes: Iterable[Change]) -> bytes:
    """Return a unified diff that ``git apply`` and ``patch -p1`` take, here and, with -R, back."""
    parts: list[bytes] = []
    for change in changes:
        name = _shown(change.path).lstrip("/").encode("utf-8", "surrogateescape")
        for line in diff_bytes(
            unified_diff,
            _LINES.findall(change.before),
            _LINES.findall(change.after),
            b"a/" + name,
            b"b/" + name,
        ):
            parts.append(line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n")
    return b"".join(parts)


def apply(changes: Iterable[Change]) -> None:
    """Write the files, each at once, with the rights that it has.

    Raises:
        ConfigurationError: one has changed since it was read, or can't be written; those before it are.
    """
    for change in changes:
        path = change.path.resolve()
        try:
            if path.read_bytes() != change.before:
                raise ConfigurationError(f"{_shown(path)} has changed meanwhile: nothing is written to it")
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            with open(handle, "wb") as file:
                file.write(change.after)
            os.chmod(name, path.stat().st_mode & 0o7777)
            os.replace(name, path)
        except OSError as exc:
            raise ConfigurationError(f"{_shown(path)} can't be written: {exc.strerror or exc}") from exc


def _shown(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
