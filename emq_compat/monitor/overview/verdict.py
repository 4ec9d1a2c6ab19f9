"""Is all well? What an operator should know first, from one overview and the rates since the last ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from emq_compat.words import amount, roughly

__all__ = ["BAD", "OK", "WARN", "verdict"]

OK, WARN, BAD = "ok", "warn", "bad"
_ORDER = (OK, WARN, BAD)

#: Something waits for so long though it could run: worth a look.
_LATE_S = 60.0
#: Nothing was handed out for so long though something waits and a slot is free.
_STILL_S = 15.0
_NAMED = 3


def verdict(
    overview: Mapping[str, Any], *, failed_lately: int, still_s: Mapping[str, float]
) -> dict[str, Any]:
    """Return ``level`` (ok, warn, bad), a ``text`` and the ``reasons``, worst first.

    Args:
        overview: as the broker tells it.
        failed_lately: tasks that failed within the last five minutes.
        still_s: queue → seconds since something was handed out of it last, or began to wait.
    """
    found = [*_queues(overview, still_s), *_workers(overview)]
    if failed_lately:
        found.append((WARN, f"{amount(failed_lately, 'task')} failed in the last 5 minutes", "failures"))
    if dead := overview["dead"]:
        found.append((WARN, f"{amount(dead, 'dead letter')} {_waits(dead)} for a decision", "dead"))
    found.sort(key=lambda one: -_ORDER.index(one[0]))
    level = found[0][0] if found else OK
    return {
        "level": level,
        "text": _headline(overview, level),
        "reasons": [{"level": level, "text": text, "section": section} for level, text, section in found],
    }


def _headline(overview: Mapping[str, Any], level: str) -> str:
    if level == BAD:
        return "Needs you now"
    if level == WARN:
        return "Worth a look"
    if not (overview["waiting"] or overview["in_flight"] or overview["delayed"]):
        return "All is well and quiet"
    return "All is well"


def _queues(overview: Mapping[str, Any], still_s: Mapping[str, float]) -> list[tuple[str, str, str]]:
    found = []
    orphans, still, late = [], [], []
    free = {queue for worker in overview["workers"] if _has_room(worker) for queue in worker["queues"]}
    for queue in overview["queues"]:
        name, waiting = queue["name"], queue["waiting"]
        if queue["paused"]:
            found.append((WARN, f"{name} is paused; {waiting:,} waiting", "queues"))
        elif waiting and not queue["workers"]:
            orphans.append(name)
        elif waiting > queue["aside"] and name in free and still_s.get(name, 0.0) >= _STILL_S:
            still.append(name)
        elif queue["aside"] and still_s.get(name, 0.0) >= _LATE_S:
            aside = queue["aside"]
            text = f"{amount(aside, 'task')} in {name} {_waits(aside)} for a rate limit, or a fitting worker"
            found.append((WARN, text, "queues"))
        elif waiting and (queue["oldest_s"] or 0.0) >= _LATE_S:
            late.append((queue["oldest_s"], name))
    if orphans:
        found.append((BAD, f"No worker takes from {_listed(orphans)}", "queues"))
    if still:
        found.append((BAD, f"Nothing moves in {_listed(still)} though a worker has room", "queues"))
    if late:
        oldest_s, name = max(late)
        found.append((WARN, f"The oldest task in {name} waits for {roughly(oldest_s)}", "queues"))
    return found


def _has_room(worker: Mapping[str, Any]) -> bool:
    return bool(worker["present"] and worker["slots"] and worker["busy"] < worker["slots"])


def _workers(overview: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    away = [worker["node"] for worker in overview["workers"] if not worker["present"]]
    found = []
    if away:
        found.append((WARN, f"Not connected at the moment: {_listed(away)}", "workers"))
    if not overview["workers_total"]:
        waits = overview["waiting"]
        text = "No worker is connected" + (f", and {amount(waits, 'task')} {_waits(waits)}" if waits else "")
        found.append((BAD if waits else WARN, text, "workers"))
    return found


def _waits(number: int) -> str:
    return "waits" if number == 1 else "wait"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
