"""Reads a code base and finds all that is Celery's in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from emq_compat.migration.code import Code
from emq_compat.migration.command_lines import command_lines, holds_commands
from emq_compat.migration.finding import UNREADABLE, Finding
from emq_compat.migration.modules import Module, Modules, Unreadable, parsed
from emq_compat.migration.requirements import holds_requirements, requirements
from emq_compat.migration.resolve import Klass, Resolver
from emq_compat.migration.setting_places import SettingPlaces
from emq_compat.migration.tree import MAX_BYTES, files_below
from emq_compat.migration.verdicts import Verdicts

__all__ = ["Scan", "scan"]

#: What a Python file has that is worth reading: one that has none of it uses nothing of Celery's.
_WORTH: Final = re.compile(
    rb"celery|kombu|billiard|\.delay\b|apply_async|send_task|AsyncResult|\.si?\(|shared_task", re.IGNORECASE
)
_NAMESPACE: Final = re.compile(rb"""namespace\s*=\s*["'](\w+)["']""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What was found.

    Attributes:
        findings: in the order of files and lines.
        files: how many were looked at.
        python: those of them that are Python's.
        apps: those of them that make an app.
        modules: the Python files, found by the names they are imported by.
    """

    findings: Sequence[Finding]
    files: int
    python: Sequence[Path]
    apps: Sequence[Path]
    modules: Modules


def scan(
    paths: Iterable[Path],
    verdicts: Verdicts,
    exclude: Iterable[str] = (),
    each: Callable[[Sequence[Path]], Iterable[Path]] = iter,
) -> Scan:
    """Read all files at and below some paths.

    Args:
        paths: files and folders.
        verdicts: the list.
        exclude: shell patterns of what is passed over (``files_below``).
        each: yields the files that are to be read in full, as they are read, which takes most of the time.
    """
    roots = [path.absolute() for path in paths]
    files = list(files_below(roots, exclude))
    python = [file for file in files if file.suffix in (".py", ".pyw", ".pyi") or _is_script(file)]
    modules = Modules(python, roots)
    findings: list[Finding] = []
    worth: list[Path] = []
    namespaces: set[str] = set()
    for file in python:
        source = _read(file, findings)
        if source is not None and _WORTH.search(source) is not None:
            worth.append(file)
            if b"elery" in source:
                namespaces.update(name.decode() for name in _NAMESPACE.findall(source))
    resolver = Resolver(modules, verdicts.modules)
    settings = SettingPlaces(modules, resolver, verdicts, sorted(namespaces))
    codes: dict[Module, Code] = {}
    for file in each(worth):
        _look(modules.at(file), codes, findings, modules, resolver, verdicts, settings)
    for source_of, namespace in list(settings.sources.items()):
        module = source_of.scope.module if isinstance(source_of, Klass) else source_of
        code = codes.setdefault(module, Code(module, modules, resolver, verdicts, settings))
        settings.in_source(code, source_of, namespace)
    for code in codes.values():
        findings.extend(code.findings())
    for file in set(files) - set(python) | {file for file in python if file.name == "setup.py"}:
        if holds_requirements(file) or holds_commands(file):
            findings.extend(_in_text(file, verdicts, modules.is_own))
    return Scan(
        findings=sorted(findings),
        files=len(files),
        python=python,
        apps=sorted(code.path for code in codes.values() if code.makes_app),
        modules=modules,
    )


def _look(
    module: Module,
    codes: dict[Module, Code],
    findings: list[Finding],
    modules: Modules,
    resolver: Resolver,
    verdicts: Verdicts,
    settings: SettingPlaces,
) -> None:
    try:
        module.tree = parsed(module.path)
        code = Code(module, modules, resolver, verdicts, settings)
        code.look()
        codes[module] = code
    except Unreadable as exc:
        findings.append(_unreadable(module.path, str(exc), exc.line))
    except RecursionError:
        findings.append(_unreadable(module.path, "nested too deeply to be read"))


def _in_text(file: Path, verdicts: Verdicts, is_own: Callable[[str], bool]) -> list[Finding]:
    source = _read(file, [])
    if source is None or b"\0" in source[:4096] or not re.search(rb"celery|flower", source, re.IGNORECASE):
        return []
    text = source.decode("utf-8", "replace")
    found = requirements(file, text, verdicts, is_own) if holds_requirements(file) else []
    if file.suffix != ".py" and holds_commands(file):
        found.extend(command_lines(file, text, verdicts))
    return found


def _read(file: Path, findings: list[Finding]) -> bytes | None:
    """Return a file's content; None, with a finding: it is too large, or can't be opened."""
    try:
        if file.stat().st_size > MAX_BYTES:
            findings.append(_unreadable(file, f"larger than {MAX_BYTES // 1_000_000} MB: not read"))
            return None
        return file.read_bytes()
    except OSError as exc:
        findings.append(_unreadable(file, f"can't be opened: {exc.strerror or exc}"))
        return None


def _is_script(file: Path) -> bool:
    """Whether a file without suffix says in its first line that it is Python's."""
    if file.suffix or not file.stat().st_mode & 0o111:
        return False
    try:
        with file.open("rb") as opened:
            first = opened.readline(200)
    except OSError:
        return False
    return first.startswith(b"#!") and b"python" in first


def _unreadable(path: Path, told: str, line: int = 0) -> Finding:
    return Finding(
        path=path, line=line, column=0, kind="file", name=path.name, status=UNREADABLE, reason=told
    )
