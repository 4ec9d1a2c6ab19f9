"""What the ledgers of a mayhem tell, put in order; and what a worker's loss may be laid to."""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.faults.mayhem.ledger import Line, read
from tests.faults.mayhem.outages import spans, spells

__all__ = ["Asked", "Blame", "Counted", "Run", "Step", "Story", "told_by"]

#: A broker that was there for so long in one piece has heard of what ended before: a worker that has lost it
#: looks for it every 3 s.
HEARD_S = 8.0
#: What a silent worker had taken before may begin so long after.
LATER_S = 10.0
#: Between the note of a deed and the deed.
SIGNALLED_S = 1.0
#: Tasks that no client publishes by itself.
_SCHEDULED = ("scheduled", "counted_early", "counted_late")
_WORKER = re.compile(r"\bw\d+g\d+\b")


@dataclass(kw_only=True)
class Step:
    """A task that a client has published, or meant to; the fields of Canvas.steps, and its canvas's.

    Attributes:
        confirmed: its client was told that it is published.
    """

    id: str
    kind: str
    confirmed: bool
    task: str
    value: Any
    given: Any
    after: list[str]
    eta: float
    expires: float = 0.0

    @property
    def late(self) -> bool:
        """Whether it is acknowledged after it ran."""
        return self.task.endswith("late") or self.task in ("kept", "failing")


@dataclass(kw_only=True)
class Run:
    """One run of a task, in one process.

    Attributes:
        end: when it ended, or asked for its retry; None: it didn't.
        how: ``end`` or ``retry``; empty: neither.
    """

    id: str
    retries: int
    worker: str
    pid: int
    begin: float
    given: Any = None
    end: float | None = None
    how: str = ""
    value: Any = None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a client asked for of a task or a schedule.

    Attributes:
        what: ``revoke``, ``terminate`` or ``unschedule``.
        at: unix time of the question.
        heard: when the broker had said that it has it; None: it did not say so.
    """

    what: str
    at: float
    heard: float | None


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A schedule that the broker was asked to keep.

    Attributes:
        runs: so many runs it has.
        haste: the first comes at once.
        late: its runs are acknowledged late.
        at, heard: when the broker was asked, and had said that it has it (None: it did not).
    """

    key: str
    runs: int
    haste: bool
    late: bool
    at: float
    heard: float | None


class Blame:
    """The deeds that can cost a worker what it holds."""

    def __init__(self, diary: list[Line]) -> None:
        [self._dead_after_s] = [line["dead_after_s"] for line in diary if line["what"] == "begin"]
        self._by_worker: dict[str, list[Line]] = defaultdict(list)
        self._children_killed = False
        for line in diary:
            if line["what"] in ("deed", "told to end"):
                self._by_worker[line["name"]].append(line)
                self._children_killed |= (line.get("target"), line.get("deed")) == ("child", "KILL")
        self._without_broker = spans(spells(diary, "broker"))

    def losses(self, worker: str) -> list[tuple[float, float]]:
        """From when until when a worker was lost as a whole.

        That is: killed, told twice to end, bereft of both zygotes, or silent for too long. Its last heartbeat
        may be a quarter of that limit older than its silence, hence the margin.
        """
        lines = self._by_worker.get(worker, [])
        own = [line for line in lines if line.get("target", "worker") == "worker"]
        found = [
            (since, until)
            for since, until in spans((d["at"], d["at"] + d["hold_s"]) for d in own if d.get("hold_s"))
            if until - since > 0.7 * self._dead_after_s
        ]
        terms = [d["at"] for d in own if d["what"] == "told to end" or d["deed"].startswith("TERM")]
        zygotes = [d["at"] for d in lines if (d.get("target"), d.get("deed")) == ("zygote", "KILL")]
        for at in [d["at"] for d in own if d.get("deed") == "KILL"] + terms[1:2] + zygotes[1:2]:
            found.append((at, at))
        return found

    def child_lost(self, run: Run) -> bool:
        """Whether the child that ran it was killed before the broker can have heard of its end."""
        return any(
            self._costs(run, deed["at"], deed["at"])
            for deed in self._by_worker.get(run.worker, [])
            if deed.get("target") == "child" and deed["deed"] == "KILL" and deed["pid"] == run.pid
        )

    def run_lost(self, run: Run) -> bool:
        """Whether a run's outcome may be lost with its worker or its child."""
        losses = self.losses(run.worker)
        return self.child_lost(run) or any(self._costs(run, since, until) for since, until in losses)

    def held(self, run: Run, at: float) -> bool:
        """Whether the worker of a run, or its child, was held still shortly before ``at``."""
        return any(
            line["at"] <= at <= line["at"] + line["hold_s"] + SIGNALLED_S
            for line in self._by_worker.get(run.worker, [])
            if line.get("hold_s")
        )

    def _costs(self, run: Run, since: float, until: float) -> bool:
        if run.begin > until + (LATER_S if until > since else SIGNALLED_S):
            return False
        return run.end is None or run.end >= since or self._unheard(run.end, since)

    def _unheard(self, since: float, until: float) -> bool:
        """Whether the broker was never there for long enough to be told in this time."""
        heard_from = since
        for away, back in [*self._without_broker, (until, until)]:
            if back <= heard_from:
                continue
            if min(away, until) - heard_from > HEARD_S:
                return False
            heard_from = back
        return True

    def loss_told(self, text: str) -> bool:
        """Whether an error of a task that has not begun names a worker that was lost, or a child was killed.

        A child that was killed between taking a task and the task's first line leaves no other trace.
        """
        named = _WORKER.search(text)
        return bool(self.losses(named[0])) if named is not None else self._children_killed


@dataclass(kw_only=True)
class Story:
    """All that was written.

    Attributes:
        runs: task id → its runs, in the order of their begins.
        scheduled: the lines of scheduled runs.
        told: what clients were told of results, line by line.
        kept: task id → what the broker keeps of it in the end.
        awaited: ids of which a client was to be told.
        asked: task id, or a schedule's key → what was asked for.
        schedules, counted: the schedules that the broker was to keep, and their runs by their keys.
        dead: what the broker put aside.
        diary: the fleet's and the villain's lines.
    """

    steps: dict[str, Step]
    runs: Mapping[str, list[Run]]
    scheduled: list[Line]
    errbacks: list[str]
    told: list[Line]
    kept: dict[str, Line]
    awaited: list[str]
    diary: list[Line]
    canvases: int
    confirmed: int
    asked: Mapping[str, Asked]
    schedules: list[Counted]
    counted: Mapping[str, list[Run]]
    dead: list[Line]

    @functools.cached_property
    def put_aside(self) -> frozenset[str]:
        """The ids of the tasks among the dead letters."""
        return frozenset(line["task_id"] for line in self.dead)

    def deeds(self) -> list[Line]:
        """What was done to the fleet."""
        return [line for line in self.diary if line["what"] == "deed"]

    def blame(self) -> Blame:
        """Whom a loss may be laid to."""
        return Blame(self.diary)


def told_by(folder: Path) -> Story:
    """Read the ledgers of a folder."""
    steps: dict[str, Step] = {}
    told: list[Line] = []
    awaited: list[str] = []
    asked: dict[str, Asked] = {}
    schedules: list[Counted] = []
    canvases = 0
    published = 0
    for path in sorted(folder.glob("client*")):
        lines = read(path)
        confirmed = {line["canvas"]: line.get("at") for line in lines if line["what"] == "confirmed"}
        told += [line for line in lines if line["what"] == "told"]
        for line in lines:
            if line["what"] in ("asks", "done"):
                before = asked.get(line["id"])
                asked[line["id"]] = (
                    Asked(what=line["done"], at=line["at"], heard=None)
                    if before is None
                    else replace(before, heard=line["at"])
                )
            if line["what"] != "intend":
                continue
            canvases += 1
            if line.get("schedule"):
                heard = confirmed.get(line["canvas"])
                schedules.append(Counted(**line["schedule"], at=line["at"], heard=heard))
            sure = line["canvas"] in confirmed
            published += sure
            awaited += line["last"] if sure else []
            for task_id, about in line["steps"].items():
                steps[task_id] = Step(id=task_id, kind=line["kind"], confirmed=sure, **about)
    lines = read(folder / "runs")
    audit = read(folder / "audit")
    return Story(
        steps=steps,
        runs=_runs([line for line in lines if line.get("task") not in _SCHEDULED]),
        scheduled=[line for line in lines if line["what"] == "begin" and line["task"] == "scheduled"],
        errbacks=[line["id"] for line in lines if line["what"] == "errback"],
        told=told,
        kept={line["id"]: line for line in audit if line["what"] == "kept"},
        awaited=awaited,
        diary=read(folder / "diary"),
        canvases=canvases,
        confirmed=published,
        asked=asked,
        schedules=schedules,
        counted=_counted(lines),
        dead=[line for line in audit if line["what"] == "dead"],
    )


def _counted(lines: list[Line]) -> Mapping[str, list[Run]]:
    keys = {line["id"]: line["key"] for line in lines if line["what"] == "begin" and "key" in line}
    counted: dict[str, list[Run]] = defaultdict(list)
    for task_id, runs in _runs([line for line in lines if line.get("id") in keys]).items():
        counted[keys[task_id]] += runs
    return counted


def _runs(lines: list[Line]) -> Mapping[str, list[Run]]:
    runs: dict[str, list[Run]] = defaultdict(list)
    for line in lines:
        if line["what"] == "begin":
            runs[line["id"]].append(
                Run(
                    id=line["id"], retries=line["retries"], worker=line["worker"], pid=line["pid"],
                    begin=line["at"], given=line.get("given"),
                )
            )  # fmt: skip
        elif line["what"] in ("end", "retry"):
            for run in reversed(runs.get(line["id"], [])):
                same = (line["retries"], line["worker"], line["pid"])
                if (run.retries, run.worker, run.pid) == same and run.end is None:
                    run.end, run.how, run.value = line["at"], line["what"], line.get("value")
                    break
    return runs
