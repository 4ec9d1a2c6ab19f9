"""What the ledgers of a mayhem tell, put in order; and what a worker's loss may be laid to."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.mayhem.ledger import Line, read

__all__ = ["Blame", "Run", "Step", "Story", "told_by"]

#: A run that was at its end so long before its worker was killed may still be lost: the broker was away, and
#: hadn't acknowledged its outcome.
UNHEARD_S = 12.0
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


@dataclass
class Blame:
    """The deeds that can cost a worker what it holds."""

    deeds: list[Line]
    ends: list[Line]
    dead_after_s: float
    _by_worker: dict[str, list[Line]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for deed in self.deeds:
            self._by_worker[deed["name"]].append(deed)

    def worker_lost(self, worker: str) -> float | None:
        """When a worker was lost as a whole; None: it wasn't.

        That is: killed, told twice to end, bereft of both zygotes, or silent for too long. Its last heartbeat
        may be a quarter of that limit older than its silence, hence the margin.
        """
        deeds = self._by_worker.get(worker, [])
        own = [deed for deed in deeds if deed["target"] == "worker"]
        times = [deed["at"] for deed in own if deed["deed"] == "KILL"]
        times += [
            since
            for since, until in spans((d["at"], d["at"] + d["hold_s"]) for d in own if d["hold_s"])
            if until - since > 0.7 * self.dead_after_s
        ]
        terms = [deed["at"] for deed in own if deed["deed"] == "TERM"]
        terms += [line["at"] for line in self.ends if line["name"] == worker]
        zygotes = [d["at"] for d in deeds if d["target"] == "zygote" and d["deed"] == "KILL"]
        times += [*sorted(terms)[1:2], *sorted(zygotes)[1:2]]
        return min(times, default=None)

    def child_lost(self, run: Run) -> bool:
        """Whether the child that ran it was killed before anybody can have heard of its end."""
        return any(
            deed["at"] >= run.begin and (run.end is None or deed["at"] - run.end < UNHEARD_S)
            for deed in self._by_worker.get(run.worker, [])
            if deed["target"] == "child" and deed["deed"] == "KILL" and deed["pid"] == run.pid
        )

    def run_lost(self, run: Run) -> bool:
        """Whether a run's outcome may be lost with its worker or its child."""
        at = self.worker_lost(run.worker)
        with_worker = at is not None and (run.end is None or at - run.end < UNHEARD_S)
        return with_worker or self.child_lost(run)

    def loss_told(self, text: str) -> bool:
        """Whether an error of a task that has not begun names a worker that was lost, or a child was killed.

        A child that was killed between taking a task and the task's first line leaves no other trace.
        """
        named = _WORKER.search(text)
        if named is not None:
            return self.worker_lost(named[0]) is not None
        return any(deed["target"] == "child" and deed["deed"] == "KILL" for deed in self.deeds)


def spans(times: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Times from and until, those that overlap joined."""
    joined: list[tuple[float, float]] = []
    for since, until in sorted(times):
        if joined and since <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(until, joined[-1][1])
        else:
            joined.append((since, until))
    return joined


@dataclass(kw_only=True)
class Story:
    """All that was written.

    Attributes:
        runs: task id → its runs, in the order of their begins.
        scheduled: the lines of scheduled runs.
        told: what clients were told of results, line by line.
        kept: task id → what the broker keeps of it in the end.
        awaited: ids of which a client was to be told.
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

    def deeds(self) -> list[Line]:
        """What was done to the fleet."""
        return [line for line in self.diary if line["what"] == "deed"]

    def blame(self) -> Blame:
        """Whom a loss may be laid to."""
        [dead_after_s] = [line["dead_after_s"] for line in self.diary if line["what"] == "begin"]
        ends = [line for line in self.diary if line["what"] == "told to end"]
        return Blame(self.deeds(), ends, dead_after_s)


def told_by(folder: Path) -> Story:
    """Read the ledgers of a folder."""
    steps: dict[str, Step] = {}
    told: list[Line] = []
    awaited: list[str] = []
    canvases = 0
    published = 0
    for path in sorted(folder.glob("client*")):
        lines = read(path)
        confirmed = {line["canvas"] for line in lines if line["what"] == "confirmed"}
        told += [line for line in lines if line["what"] == "told"]
        for line in lines:
            if line["what"] != "intend":
                continue
            canvases += 1
            sure = line["canvas"] in confirmed
            published += sure
            awaited += line["last"] if sure else []
            for task_id, about in line["steps"].items():
                steps[task_id] = Step(id=task_id, kind=line["kind"], confirmed=sure, **about)
    lines = read(folder / "runs")
    return Story(
        steps=steps,
        runs=_runs(lines),
        scheduled=[line for line in lines if line["what"] == "begin" and line["task"] == "scheduled"],
        errbacks=[line["id"] for line in lines if line["what"] == "errback"],
        told=told,
        kept={line["id"]: line for line in read(folder / "audit")},
        awaited=awaited,
        diary=read(folder / "diary"),
        canvases=canvases,
        confirmed=published,
    )


def _runs(lines: list[Line]) -> Mapping[str, list[Run]]:
    runs: dict[str, list[Run]] = defaultdict(list)
    for line in lines:
        if line["what"] == "begin" and line["task"] != "scheduled":
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
