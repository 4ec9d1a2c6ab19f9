"""Writes docs/compatibility.md: ``python -m tests.compat.page``.

What stands in it comes from ``items.tsv`` (names and behaviours), ``suite.json`` (how Celery's own
integration suite went), the settings' table, and ``page.md.in`` (the rest).
"""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from emq_compat.migration.items import AREAS, PROBE, STATUSES, Item, read_items
from emq_compat.shim.settings_effect import DIFFERENT, WITHOUT_EFFECT
from emq_compat.shim.settings_table import SETTINGS

__all__ = ["PAGE", "page"]

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/compatibility.md"


def page() -> str:
    """Return the whole page."""
    items = read_items()
    text = (HERE / "page.md.in").read_text()
    parts = {
        "totals": _totals(items),
        "areas": "\n\n".join(_area(area, items) for area in AREAS),
        "suite": _suite(json.loads((HERE / "suite.json").read_text())),
    }
    for name, part in parts.items():
        text = text.replace(f"<!-- {name} -->", part)
    return text


def _totals(items: Sequence[Item]) -> str:
    rows = []
    for area, heading in AREAS.items():
        count = Counter(row.status for row in items if row.area == area)
        anchor = heading.lower().replace("'", "").replace(" ", "-")
        rows.append([f"[{heading}](#{anchor})", *(str(count[status]) for status in STATUSES)])
    lacking = len(WITHOUT_EFFECT)
    same = len(SETTINGS) - len(DIFFERENT) - lacking
    rows.append(["[Settings](settings.md)", str(same), str(len(DIFFERENT)), f"{lacking} without effect"])
    return _table(["area", *STATUSES], rows)


def _area(area: str, items: Iterable[Item]) -> str:
    """Return an area's section: what is supported as lists, what isn't as rows."""
    of_area = [row for row in items if row.area == area]
    lines = [f"### {AREAS[area]}"]
    supported = [row for row in of_area if row.status == "supported"]
    names = [row.item for row in supported if row.check == PROBE]
    said = [row.item for row in supported if row.check != PROBE]
    if names:
        lines.append(_names(names))
    if said:
        lines.append("\n".join(f"- {text}" for text in said))
    rows = [
        [", ".join(found), status, note]
        for status in STATUSES[1:]
        for note, found in _by_note(row for row in of_area if row.status == status)
    ]
    if rows:
        lines.append(_table(["", "", "how, or why"], rows))
    return "\n\n".join(lines)


def _names(names: Iterable[str]) -> str:
    """Return names below what they are names of, with the arguments that they take."""
    owners: dict[str, dict[str, list[str]]] = {}
    for name in names:
        call = re.fullmatch(r"(.+)\((\w+)=\)", name)
        path = call[1] if call else name
        owner, _, rest = path.partition(":" if ":" in path else ".")
        members = owners.setdefault(owner if rest or path[0].isupper() else "", {})
        arguments = members.setdefault(rest if owner in owners else path, [])
        if call:
            arguments.append(call[2])
    return "\n".join(
        textwrap.fill(
            (f"- `{owner}`: " if owner else "- ") + ", ".join(_member(*one) for one in members.items()),
            118,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for owner, members in owners.items()
    )


def _member(name: str, arguments: Sequence[str]) -> str:
    taken = f" ({' '.join(f'`{argument}`' for argument in arguments)})" if arguments else ""
    return f"`{name}`{taken}" if name else f"itself{taken}"


def _by_note(rows: Iterable[Item]) -> list[tuple[str, list[str]]]:
    by_note: dict[str, list[str]] = {}
    for row in rows:
        shown = f"`{row.item}`" if row.check == PROBE else row.item
        by_note.setdefault(row.note, []).append(shown)
    return list(by_note.items())


def _suite(suite: dict[str, Any]) -> str:
    if not suite["runs"]:
        return "No run of this version is recorded yet."
    columns = ("file", "results in", "passed", "failed", "skipped", "can't apply")
    runs = [[str(run[name]) for name in columns] for run in suite["runs"]]
    parts = [_table(columns, runs)]
    if suite["not passed"]:
        rows = [[f"`{name}`", why] for name, why in suite["not passed"].items()]
        parts += ["Not passed:", _table(["test", "why"], rows)]
    return "\n\n".join(parts)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines)


if __name__ == "__main__":
    PAGE.write_text(page())
