"""Whether a schedule has missed or repeated a run."""

from __future__ import annotations

from itertools import pairwise

from tests.faults.mayhem.ledger import Line
from tests.faults.mayhem.load import INTERVAL_S, TICK_S
from tests.faults.mayhem.story import Story, spans

__all__ = ["schedule_faults"]

#: A beat that could not ask asks again after 5 s at most, and one that starts takes its while.
AFTER_AN_OUTAGE_S = 8.0
#: What may lie between two runs beyond the period: a loaded machine is late, and what it missed is sent once.
LATE_S = 3.0
#: Between the decision on a run of the interval and its note of the time.
BLUR_S = 0.3


def schedule_faults(story: Story) -> list[str]:
    """Runs that were sent twice, and times at which none was though the broker and a beat were there."""
    outages = _outages(story.diary)
    faults = []
    for entry, period_s, unit_s, blur_s in (
        ("ticks", TICK_S, TICK_S, 0.0),
        ("interval", INTERVAL_S, 1.0, BLUR_S),
    ):
        runs = {line["id"]: line["tick"] * unit_s for line in story.scheduled if line["entry"] == entry}
        for (before, was), (after, at) in pairwise(sorted(runs.items(), key=lambda run: run[1])):
            if at - was < period_s - blur_s:
                faults.append(f"{entry}: {after} came {at - was:.3f} s after {before}")
            elif at - was > period_s + LATE_S and not any(
                since < at and was < until for since, until in outages
            ):
                faults.append(f"{entry}: no run for {at - was:.3f} s before {at:.3f}, {after}")
        if not runs:
            faults.append(f"{entry}: no run")
    return faults


def _outages(diary: list[Line]) -> list[tuple[float, float]]:
    """From when until when the broker, or every beat, was away or not yet itself again."""
    beats = sorted({_place(line["name"]) for line in diary if line.get("role") == "beat"})
    spells = [_spells(diary, place) for place in ("broker", *beats)]
    away = spells[0]
    for one in spells[1]:
        for other in spells[2]:
            since, until = max(one[0], other[0]), min(one[1], other[1])
            if since < until:
                away.append((since, until))
    return spans((since, until + AFTER_AN_OUTAGE_S) for since, until in away)


def _spells(diary: list[Line], place: str) -> list[tuple[float, float]]:
    """From when until when the process of this place was held still, or did not work."""
    found: list[tuple[float, float]] = []
    since: float | None = None
    for line in diary:
        if _place(line.get("name", "")) != place or line.get("target", place.rstrip("0123456789")) == "child":
            continue
        if line["what"] == "deed":
            if line["hold_s"]:
                found.append((line["at"], line["at"] + line["hold_s"]))
            elif since is None:
                since = line["at"]
        elif line["what"] == "ended" and since is None:
            since = line["at"]
        elif line["what"] == "works" and since is not None:
            found.append((since, line["at"]))
            since = None
    if since is not None:
        found.append((since, since + AFTER_AN_OUTAGE_S))
    return found


def _place(name: str) -> str:
    return name.rpartition("g")[0]
