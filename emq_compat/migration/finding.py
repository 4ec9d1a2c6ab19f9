"""What a scan finds: one thing of Celery's at one place, and what it comes to here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = [
    "DIFFERENT",
    "KINDS",
    "NOT_SEEN",
    "STATUSES",
    "SUPPORTED",
    "UNREADABLE",
    "UNSUPPORTED",
    "Finding",
    "Verdict",
]

SUPPORTED: Final = "supported"
DIFFERENT: Final = "different"
UNSUPPORTED: Final = "unsupported"
#: What reading the code can't tell: names, values and receivers that are only known at run time.
NOT_SEEN: Final = "not seen"
#: A file that this Python can't parse, that is too large, or can't be opened.
UNREADABLE: Final = "unreadable"
STATUSES: Final = (SUPPORTED, DIFFERENT, UNSUPPORTED, NOT_SEEN, UNREADABLE)

#: What things are, in the order in which they are summed up.
KINDS: Final = (
    "import", "string", "app", "setting", "task option", "task", "call", "workflow", "result", "request",
    "signal", "control", "fixture", "command", "package", "dynamic", "file",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What something of Celery's comes to here.

    Attributes:
        status: one of STATUSES.
        reason: how it is different, or why it isn't there; empty where it is supported.
    """

    status: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Finding:
    """One thing at one place.

    Attributes:
        path: the file.
        line: from 1; 0: the file as a whole.
        column: from 1; 0: the line as a whole.
        kind: one of KINDS.
        name: as the list has it (``apply_async(queue=)``, ``celery.result:AsyncResult``).
        status: one of STATUSES.
        reason: how it is different, or why it isn't there.
    """

    path: Path
    line: int
    column: int
    kind: str
    name: str
    status: str
    reason: str
