"""The list of Celery's names and behaviours, ``items.tsv``: what each comes to here.

The compatibility page is made of it, and ``emq-compat migrate scan`` judges a code base by it.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

__all__ = ["AREAS", "PROBE", "STATUSES", "Item", "read_items"]

STATUSES = ("supported", "different", "absent")
#: In the column ``check``: the name itself is looked for. Otherwise it names a test, or nothing.
PROBE = "probe"

#: Area → heading, in the order of the page.
AREAS = {
    "app": "The app",
    "task-option": "Options of tasks",
    "task": "Tasks and calls",
    "request": "The request",
    "retry": "Retries",
    "result": "Results",
    "canvas": "Workflows",
    "signal": "Signals",
    "schedule": "Schedules and beat",
    "control": "Remote control",
    "serializer": "Messages and serializers",
    "worker": "The worker's command line",
    "command": "Commands and process signals",
    "django": "Django",
    "event": "Events",
    "testing": "Celery's pytest plugin",
    "import": "Modules and names",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One row.

    Attributes:
        area: a key of AREAS.
        item: a name (``app.conf``, ``apply_async(queue=)``, ``celery.result:AsyncResult``), or what happens.
        status: one of STATUSES.
        note: how it is different, or why it is absent.
        check: PROBE, the id of a test (``tests/…py::test_…``) that proves it, or empty.
    """

    area: str
    item: str
    status: str
    note: str
    check: str


def read_items() -> list[Item]:
    """Return the rows in their order."""
    with (Path(__file__).parent / "items.tsv").open(newline="") as file:
        return [Item(**row) for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
