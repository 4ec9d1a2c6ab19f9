"""Small code bases for the scanner, and what it finds in them."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

from emq_compat.migration.finding import Finding
from emq_compat.migration.items import PROBE, Item, read_items
from emq_compat.migration.scan import scan
from emq_compat.migration.verdicts import Verdicts

__all__ = ["findings", "found", "item", "write"]

#: What the tests say of some names, whatever the list says of them by now.
_ABSENT = {
    "app": ["Celery.setup_security"],
    "canvas": ["Signature.election"],
    "command": ["flower", "multi"],
    "control": ["control.election", "inspect.hello"],
    "task": ["send_event", "start_strategy"],
    "task-option": ["retry_on_worker_lost"],
    "worker": ["--uid"],
}
_DIFFERENT = {
    "result": ["AsyncResult.get(no_ack=)"],
    "task": ["apply_async(producer=)"],
    "task-option": ["Strategy", "acks_late"],
    "worker": ["-S / --statedb"],
}


def write(root: Path, files: dict[str, str]) -> Path:
    """Write files below a folder, and return it."""
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text))
    return root


def findings(root: Path, verdicts: Verdicts | None = None) -> list[Finding]:
    """Return what a scan finds below a folder."""
    return list(scan([root], verdicts or Verdicts(items=[*read_items(), *_pinned()])).findings)


def found(root: Path, kind: str | None = None) -> dict[str, str]:
    """Return name → status of what a scan finds, of one kind or of all."""
    return {one.name: one.status for one in findings(root) if kind in (None, one.kind)}


def item(area: str, name: str, status: str = "absent", note: str = "not there") -> Item:
    """Return a row of the list."""
    return Item(area=area, item=name, status=status, note=note, check=PROBE)


def _pinned() -> list[Item]:
    by_status = {"absent": _ABSENT, "different": _DIFFERENT}
    return [
        item(area, name, status)
        for status, areas in by_status.items()
        for area, names in areas.items()
        for name in names
    ]
