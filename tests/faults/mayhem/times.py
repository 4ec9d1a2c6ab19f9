"""Whether a schedule has missed or repeated a run."""

from __future__ import annotations

from itertools import pairwise

from tests.faults.mayhem.ledger import Line
from tests.faults.mayhem.load import INTERVAL_S, TICK_S
from tests.faults.mayhem.outages import place_of, spans, spells
from tests.faults.mayhem.story import Story

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
    beats = sorted({place_of(line["name"]) for line in diary if line.get("role") == "beat"})
    away, first, second = (spells(diary, place) for place in ("broker", *beats))
    for one in first:
        for other in second:
            since, until = max(one[0], other[0]), min(one[1], other[1])
            if since < until:
                away.append((since, until))
    return spans((since, until + AFTER_AN_OUTAGE_S) for since, until in away)
