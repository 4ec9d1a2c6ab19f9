"""Shows what a scan found: as lines and a sum, or as JSON."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from emq_compat.migration.change import EARLY, early_imports
from emq_compat.migration.finding import KINDS, STATUSES, UNREADABLE, UNSUPPORTED, Finding
from emq_compat.migration.scan import Scan
from emq_compat.table import table
from emq_compat.words import amount

__all__ = ["EXIT_UNREADABLE", "EXIT_UNSUPPORTED", "as_json", "as_lines", "exit_status", "selected", "summary"]

#: Something is unsupported.
EXIT_UNSUPPORTED: Final = 3
#: Nothing is, as far as could be read: some files could not.
EXIT_UNREADABLE: Final = 4
_FORMAT: Final = 1


def exit_status(findings: Iterable[Finding]) -> int:
    """Return the exit status that findings come to: 0, EXIT_UNSUPPORTED or EXIT_UNREADABLE."""
    statuses = {finding.status for finding in findings}
    if UNSUPPORTED in statuses:
        return EXIT_UNSUPPORTED
    return EXIT_UNREADABLE if UNREADABLE in statuses else 0


def as_lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield a line for each finding: ``file:line:column: status: kind name: reason``."""
    for one in findings:
        place = ":".join(str(part) for part in (_shown(one.path), one.line, one.column) if part)
        yield f"{place}: {one.status}: {one.kind} {one.name}" + (f": {one.reason}" if one.reason else "")


def summary(scan: Scan) -> Iterator[str]:
    """Yield the lines of the sum: a table of kinds, and each unsupported thing with its places."""
    findings = scan.findings
    files = len({one.path for one in findings})
    read = amount(scan.files, "file")
    yield f"{read} read, {len(scan.python)} of them Python; something of Celery in {files}"
    shown = [status for status in STATUSES if any(one.status == status for one in findings)]
    if not shown:
        return
    count = Counter((one.kind, one.status) for one in findings)
    counts = {kind: [count[kind, status] for status in shown] for kind in KINDS}
    rows = [(kind, *(number or "-" for number in row)) for kind, row in counts.items() if any(row)]
    rows.append(("all", *map(sum, zip(*counts.values(), strict=True))))
    yield ""
    yield table(("", *shown), rows, right=range(1, len(shown) + 1))
    lacking: dict[tuple[str, str, str], list[Finding]] = {}
    for one in findings:
        if one.status == UNSUPPORTED:
            lacking.setdefault((one.kind, one.name, one.reason), []).append(one)
    if lacking:
        yield ""
        yield "unsupported:"
    for (kind, name, reason), places in sorted(lacking.items()):
        first = places[0]
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        yield f"  {kind} {name}: {reason} ({_shown(first.path)}:{first.line}{more})"


def as_json(scan: Scan) -> str:
    """Return what was found as JSON.

    It has ``format``, ``files``, ``python``, ``summary``, ``exit``, ``findings``, and in ``notes`` what
    imports Celery before ``celery_shim.install()`` where apps are made would have run.
    """
    count = Counter(one.status for one in scan.findings)
    return json.dumps(
        {
            "format": _FORMAT,
            "files": scan.files,
            "python": len(scan.python),
            "summary": {status: count[status] for status in STATUSES},
            "exit": exit_status(scan.findings),
            "findings": [_record(one) for one in scan.findings],
            "notes": [
                {"file": _shown(one.path), "line": one.line, "name": one.name, "reason": EARLY}
                for one in early_imports(scan.apps, scan.modules)
            ],
        },
        indent=1,
    )


def _record(one: Finding) -> dict[str, str | int]:
    return {
        "file": _shown(one.path),
        "line": one.line,
        "column": one.column,
        "kind": one.kind,
        "name": one.name,
        "status": one.status,
        "reason": one.reason,
    }


def _shown(path: Path) -> str:
    """Return a path as people give it: below the current folder, or whole."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def selected(findings: Sequence[Finding], statuses: Sequence[str]) -> list[Finding]:
    """Return the findings of some statuses; of all where none is named."""
    return [one for one in findings if not statuses or one.status in statuses]
