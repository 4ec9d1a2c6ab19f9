"""Whether the schedules that the broker keeps have had their runs, each once and in its time."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from tests.faults.mayhem.kept_schedules import INTERVAL_S
from tests.faults.mayhem.story import Blame, Counted, Run, Story

__all__ = ["Count", "count"]

#: Between the client's clock and the broker's look at it.
BLUR_S = 0.01


@dataclass(kw_only=True)
class Count:
    """What is wrong with the schedules; the fields are those of a Verdict."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    untimely: list[str] = field(default_factory=list)


def count(story: Story, blame: Blame) -> Count:
    """Judge all schedules."""
    found = Count()
    missing = sum(_judge(story, blame, schedule, found) for schedule in story.schedules)
    kills = sum(deed["target"] == "child" and deed["deed"] == "KILL" for deed in story.deeds())
    if missing > kills:
        # A child that was killed before the task's first line leaves no trace where there is no task id.
        found.lost.append(
            f"{missing} early-acked runs of kept schedules left no trace, {kills} children killed"
        )
    return found


def _judge(story: Story, blame: Blame, schedule: Counted, found: Count) -> int:
    """Judge a schedule; returns how many early-acked runs are missing."""
    name = f"schedule {schedule.key}"
    runs: dict[str, list[Run]] = defaultdict(list)
    for run in story.counted.get(schedule.key, ()):
        runs[run.id].append(run)
    begins = sorted(min(run.begin for run in same) for same in runs.values())
    for n, begin in enumerate(begins):
        early_s = schedule.at + (n + (not schedule.haste)) * INTERVAL_S - begin
        if early_s > BLUR_S:
            found.untimely.append(f"{name}: run {n} came {early_s:.3f} s too early")
    dead = {row["task_id"] or row["msgid"] for row in story.dead if schedule.key in row["payload"]}
    sent = len(runs.keys() | dead)
    if sent > schedule.runs:
        found.doubled.append(f"{name} had {sent} runs, not {schedule.runs}")
    for same in runs.values():
        lost = [run for run in same if blame.run_lost(run)]
        if len(same) > 1 and not (schedule.late and len(lost) >= len(same) - 1):
            found.doubled.append(f"{name}: the run {same[0].id} began {len(same)} times")
        if schedule.late and not any(run.end is not None for run in same):
            found.lost.append(f"{name}: the run {same[0].id} has no end")
    asked = story.asked.get(schedule.key)
    if asked is not None:
        if asked.heard is not None:
            most = int((asked.heard - schedule.at) / INTERVAL_S) + schedule.haste
            if sent > most:
                found.doubled.append(f"{name} had {sent} runs, and was ended after {most}")
        return 0
    if schedule.heard is None or sent >= schedule.runs:
        return 0
    if not schedule.late:
        return schedule.runs - sent
    found.lost.append(f"{name} had {sent} runs, not {schedule.runs}")
    return 0
