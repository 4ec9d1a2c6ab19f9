"""Looks for Celery and what builds on it in the files that name a project's requirements."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from emq_compat.migration.finding import DIFFERENT, NOT_SEEN, SUPPORTED, Finding, Verdict
from emq_compat.migration.verdicts import Verdicts

__all__ = ["holds_requirements", "requirements"]

_FILES: Final = re.compile(
    r"(requirements|constraints)?[\w.-]*\.(txt|in)|pyproject\.toml|setup\.(cfg|py)|Pipfile|environment\.ya?ml",
    re.IGNORECASE,
)
#: A requirement's name: at the start of a line, or in quotes, or a key of TOML's.
_NAME = re.compile(
    r"""(?:^\s*(?:-\s+)?|["'])([A-Za-z0-9][\w.-]*)(?:\[([\w,\s-]*)\])?\s*(?=[=<>!~;"'\s@]|$)"""
)
#: Extras of Celery's → of ours, where results can be kept.
_EXTRAS: Final = {"redis": "redis", "sqlalchemy": "sqlalchemy", "pydantic": "pydantic"}
_BUILT_ON_CELERY: Final = frozenset({"flower"})


def holds_requirements(path: Path) -> bool:
    """Whether a file's name is one of those that name requirements."""
    return _FILES.fullmatch(path.name) is not None


def requirements(
    path: Path, text: str, verdicts: Verdicts, is_own: Callable[[str], bool]
) -> list[Finding]:
    """Return what a file of requirements has of Celery and of packages that build on it.

    Args:
        is_own: whether a module of this name is part of the code base, so that its package is no requirement.
    """
    found: dict[tuple[int, str], Finding] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith(("#", "//")) or ("elery" not in line and "flower" not in line.lower()):
            continue
        for match in _NAME.finditer(line):
            name = match[1].lower().replace("_", "-")
            if is_own(name.replace("-", "_")):
                continue
            verdict = _verdict(name, match[2] or "", verdicts)
            if verdict is not None:
                found.setdefault(
                    (number, name),
                    Finding(
                        path=path, line=number, column=0, kind="package", name=name,
                        status=verdict.status, reason=verdict.reason,
                    ),
                )  # fmt: skip
    return list(found.values())


def _verdict(name: str, extras: str, verdicts: Verdicts) -> Verdict | None:
    if name == "celery":
        wanted = {extra.strip() for extra in extras.split(",")} - {""}
        ours = sorted(_EXTRAS[extra] for extra in wanted & _EXTRAS.keys())
        package = f"emq-compat[{','.join(ours)}]" if ours else "emq-compat"
        told = f"{package} takes its place; until then both can be installed"
        return Verdict(status=DIFFERENT, reason=told)
    if name in ("celery-types", "celery-stubs"):
        return Verdict(status=SUPPORTED)
    listed = verdicts.package(name)
    if listed is not None:
        return listed
    if "celery" in name or name in _BUILT_ON_CELERY:
        return Verdict(status=NOT_SEEN, reason="a package that builds on Celery: scan its code, too")
    return None
