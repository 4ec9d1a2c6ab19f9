"""What `emq-compat top` draws, as text: the sections of an overview in lines of a width."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from emq_compat.table import cut, fitted, printable
from emq_compat.words import amount, roughly

__all__ = ["KEYS", "Line", "screen"]

KEYS = "q quit   space look now"
#: Tasks of one worker that are named, the oldest.
_RUNNING = 4
#: Lines that the reasons of the verdict may take.
_REASONS = 3

Sections = Mapping[str, Any]


class Line(NamedTuple):
    """A line and how it is shown: ``title``, ``head``, a level of the verdict (ok, warn, bad), or plain."""

    text: str
    shown: str = ""


def screen(sections: Sections, url: str, width: int, height: int | None = None) -> list[Line]:
    """Return what is drawn.

    Args:
        sections: as ``History.note`` makes them; of a broker that never answered, the verdict only.
        url: the broker's address.
        width: characters of a line at most.
        height: lines at most, the last one the keys; None: as many as there are, without keys.
    """
    lines = [Line(cut(_title(sections, url), width), "title"), *_verdict(sections, width)]
    if "totals" in sections:
        lines += [Line(text) for text in _flowing(_totals(sections["totals"]), width)]
        blocks = [_queues(sections, width), _workers(sections, width), _failures(sections, width)]
        blocks = [block for block in blocks if block]
        if height is None:
            rooms = [len(block) for block in blocks]
        else:
            rooms = _shared(height - 1 - len(lines) - len(blocks), [len(block) for block in blocks])
        for block, room in zip(blocks, rooms, strict=True):
            lines += [Line(""), *_cut_off(block, room)] if room else []
    if height is None:
        return lines
    lines = lines[: max(0, height - 1)]
    lines += [Line("")] * (height - 1 - len(lines))
    return [*lines, Line(cut(KEYS, width), "head")][:height]


def _title(sections: Sections, url: str) -> str:
    parts = ["emq-compat top", printable(url)]
    if broker := sections.get("broker"):
        parts += [
            f"up {roughly(broker['uptime_s'])}",
            time.strftime("%H:%M:%S", time.localtime(broker["at"])),
        ]
    return "   ".join(parts)


def _verdict(sections: Sections, width: int) -> list[Line]:
    verdict = sections["verdict"]
    lines = [Line(cut(verdict["text"], width), verdict["level"])]
    reasons = verdict["reasons"]
    shown = reasons if len(reasons) <= _REASONS else reasons[: _REASONS - 1]
    lines += [Line(cut(f"  {printable(one['text'])}", width), one["level"]) for one in shown]
    if len(shown) < len(reasons):
        lines.append(Line(cut(f"  and {amount(len(reasons) - len(shown), 'reason')} more", width), "warn"))
    if verdict.get("away") and "totals" in sections:
        lines.append(Line(cut("  what follows is what it told last", width)))
    return lines


def _totals(totals: Mapping[str, Any]) -> list[str]:
    parts = [
        f"{totals['waiting']:,} waiting",
        f"{totals['in_flight']:,} handed out",
        f"{totals['busy']:,} of {amount(totals['slots'], 'slot')} busy",
        f"in {_rate(totals['published_s'])}/s",
        f"done {_rate(totals['finished_s'])}/s",
        f"failed {_rate(totals['failed_s'])}/s",
    ]
    parts += [f"{totals[name]:,} {name}" for name in ("delayed", "held") if totals[name]]
    if totals["dead"]:
        parts.append(amount(totals["dead"], "dead letter"))
    return parts


def _flowing(parts: Iterable[str], width: int) -> list[str]:
    """Return the parts beside each other, in as many lines as they need."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 3 + len(part) <= width:
            lines[-1] += f"   {part}"
        else:
            lines.append(cut(part, width))
    return lines


def _queues(sections: Sections, width: int) -> list[Line]:
    queues = sorted(
        sections["queues"], key=lambda queue: (-queue["waiting"], -queue["in_flight"], queue["name"])
    )
    rows = [
        (
            queue["name"],
            f"{queue['waiting']:,}",
            "-" if queue["oldest_s"] is None else roughly(queue["oldest_s"]),
            f"{queue['in_flight']:,}",
            _rate(queue["in_s"]),
            _rate(queue["out_s"]),
            f"{queue['workers']:,}",
            "paused" if queue["paused"] else "",
        )
        for queue in queues
    ]
    heads = ("queue", "waiting", "oldest", "running", "in/s", "out/s", "workers", "")
    return _table(heads, rows, width, right=range(1, 7), shown=[_queue_shown(queue) for queue in queues])


def _queue_shown(queue: Mapping[str, Any]) -> str:
    if queue["paused"]:
        return "warn"
    return "bad" if queue["waiting"] and not queue["workers"] else ""


def _workers(sections: Sections, width: int) -> list[Line]:
    workers = sorted(
        sections["workers"], key=lambda worker: (worker["present"], -worker["busy"], worker["node"])
    )
    rows = [
        (
            worker["node"],
            f"{worker['busy']} of {worker['slots']}" if worker["slots"] else f"{worker['busy']}",
            f"{worker['finished']:,}",
            _runs(worker),
        )
        for worker in workers
    ]
    shown = ["" if worker["present"] else "warn" for worker in workers]
    return _table(("worker", "busy", "done", "runs"), rows, width, right=(1, 2), shown=shown)


def _runs(worker: Mapping[str, Any]) -> str:
    running = worker["running"]
    named = [f"{one['task'] or '?'} {roughly(one['for_s'])}" for one in running[:_RUNNING]]
    if worker["busy"] > len(named) > 0:
        named.append(f"and {worker['busy'] - len(named)} more")
    state = [] if worker["present"] else ["not connected"]
    if worker["present"] and worker["leaving"]:
        state = ["shutting down"]
    return ", ".join([*state, *named])


def _failures(sections: Sections, width: int) -> list[Line]:
    at = sections["broker"]["at"]
    failures = sections["failures"]
    rows = [
        (
            f"{one['count']:,}{'+' if one['more'] else ''}",
            f"{roughly(max(0.0, at - one['last_at']))} ago",
            one["task"],
            _first_line(f"{one['exception']}: {one['message']}"),
        )
        for one in failures
    ]
    return _table(("failed", "last", "task", "exception"), rows, width, right=(0, 1), shown=[""] * len(rows))


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    *,
    right: Iterable[int],
    shown: Sequence[str],
) -> list[Line]:
    if not rows:
        return []
    head, *lines = fitted(heads, rows, width, right=right)
    return [Line(head, "head"), *map(Line, lines, shown)]


def _cut_off(block: Sequence[Line], room: int) -> Sequence[Line]:
    """Return the block's first lines, and how many more there are."""
    if len(block) <= room:
        return block
    if room < 3:
        return block[:room]
    return [*block[: room - 1], Line(f"and {len(block) - room + 1:,} more")]


def _shared(room: int, wanted: Sequence[int]) -> list[int]:
    """Return how many lines each block gets of ``room``: none is cut for one that wants more than it."""
    given = [0] * len(wanted)
    left = max(0, room)
    for number, at in enumerate(sorted(range(len(wanted)), key=lambda at: wanted[at])):
        given[at] = min(wanted[at], left // (len(wanted) - number))
        left -= given[at]
    return given


def _rate(a_second: float) -> str:
    return f"{a_second:,.0f}" if a_second >= 100 else f"{a_second:.1f}"
