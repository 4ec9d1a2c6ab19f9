"""Holds what was promised against what was written down."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.mayhem.counted import count
from tests.faults.mayhem.exits import wrong_exits
from tests.faults.mayhem.load import RETRY_S
from tests.faults.mayhem.story import Blame, Run, Step, Story, told_by
from tests.faults.mayhem.times import schedule_faults
from tests.faults.mayhem.withdrawn import Withdrawal

__all__ = ["Verdict", "judge", "judge_folder"]

#: Between the client's clock and the worker's, and of a float in a header.
BLUR_S = 0.01
_SHOWN = 20
#: The error of what the broker ended by itself, since it lost the worker.
_BROKER_SAYS = re.compile(r"the worker w\d")


@dataclass(kw_only=True)
class Verdict:
    """What became of it.

    Attributes:
        lost: confirmed, and without an end, or of a late-acked task without a success.
        doubled: begun once more than allowed.
        wrong: what was told, kept or given isn't what tasks wrote.
        untimely: begun before its time; a schedule's run that is missing or repeated.
        hung: what didn't come to its end in time.
        exits: processes that ended otherwise than they were made to.
        counts: for people.
    """

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    untimely: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    exits: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def faults(self) -> list[str]:
        """All that was promised and didn't hold."""
        return [*self.lost, *self.doubled, *self.wrong, *self.untimely, *self.hung, *self.exits]

    def __str__(self) -> str:
        kinds = ("lost", "doubled", "wrong", "untimely", "hung", "exits")
        lines = [", ".join(f"{count} {what}" for what, count in sorted(self.counts.items()))]
        lines.append("  ".join(f"{kind}: {len(getattr(self, kind))}" for kind in kinds))
        for kind in kinds:
            lines += [f"  {kind}: {fault}" for fault in getattr(self, kind)[:_SHOWN]]
        return "\n".join(lines)


def judge_folder(folder: Path) -> Verdict:
    """Judge what the ledgers of a folder tell."""
    return judge(told_by(folder))


def judge(story: Story) -> Verdict:
    """Judge a story."""
    blame = story.blame()
    verdict = Verdict()
    for step in story.steps.values():
        _Trial(story, blame, verdict, step).judge()
    _judge_told(story, verdict)
    for task_id in story.runs:
        if task_id not in story.steps:
            verdict.wrong.append(f"{task_id} ran, and nobody has published it")
    verdict.untimely += schedule_faults(story)
    kept = count(story, blame)
    verdict.lost += kept.lost
    verdict.doubled += kept.doubled
    verdict.untimely += kept.untimely
    verdict.exits += wrong_exits(story.diary)
    verdict.hung += [line["which"] for line in story.diary if line["what"] == "hung"]
    verdict.counts += Counter(
        {
            "deeds": len(story.deeds()),
            "canvases": story.canvases,
            "confirmed canvases": story.confirmed,
            "steps": len(story.steps),
            "runs": sum(map(len, story.runs.values())),
            "results told": len(story.told),
            "scheduled runs": len({line["id"] for line in story.scheduled}),
            "schedules kept": len(story.schedules),
            "runs of kept schedules": sum(map(len, story.counted.values())),
            "put aside": len(story.dead),
        }
    )
    return verdict


class _Trial:
    """One step's."""

    def __init__(self, story: Story, blame: Blame, verdict: Verdict, step: Step) -> None:
        self._story, self._blame, self._verdict, self._step = story, blame, verdict, step
        self._runs = story.runs.get(step.id, [])
        self._kept = story.kept.get(step.id, {"state": "PENDING"})
        self._name = f"{step.id} ({step.kind}: {step.task})"
        self._withdrawal = Withdrawal(story, blame, step, self._runs)

    def judge(self) -> None:
        """Hold each promise against it."""
        self._begins()
        self._repeats()
        state, step = self._kept["state"], self._step
        if state == "SUCCESS":
            self._succeeded()
        elif state == "FAILURE":
            self._failed()
        elif state == "REVOKED":
            self._verdict.counts[f"revoked: {step.kind}"] += 1
            faults = self._withdrawal.unfounded()
            self._verdict.wrong += [f"{self._name} {fault}: {self._told_of_runs()}" for fault in faults]
        elif step.confirmed or self._runs:
            self._verdict.lost.append(f"{self._name} has no end: {state}, {self._told_of_runs()}")
        if self._withdrawal.in_time and state != "REVOKED":
            self._verdict.wrong.append(f"{self._name} was revoked before its time, and is {state}")
        if step.task == "failing":
            told = step.id in self._story.errbacks
            if told != (state == "FAILURE"):
                self._verdict.wrong.append(f"{self._name} is {state}, its error callback {told}")

    def _begins(self) -> None:
        step, verdict = self._step, self._verdict
        verdict.untimely += [f"{self._name} {fault}" for fault in self._withdrawal.unwanted()]
        for run in self._runs:
            if run.begin < step.eta - BLUR_S:
                verdict.untimely.append(f"{self._name} began {step.eta - run.begin:.3f} s before its time")
            if run.given != step.given:
                verdict.wrong.append(f"{self._name} was given {run.given}, not {step.given}")
            for before in step.after:
                ends = [other.end for other in self._story.runs.get(before, []) if other.end is not None]
                if not ends or min(ends) > run.begin:
                    verdict.wrong.append(f"{self._name} began before the end of {before}")
            if run.retries and step.task.startswith("flaky"):
                asked = [r.end for r in self._runs if r.retries == run.retries - 1 and r.end is not None]
                if not asked or run.begin < min(asked) + RETRY_S - BLUR_S:
                    verdict.untimely.append(f"{self._name}: retry {run.retries} began before its time")

    def _repeats(self) -> None:
        for retries in {run.retries for run in self._runs}:
            runs = [run for run in self._runs if run.retries == retries]
            if len(runs) > 1:
                self._repeated(retries, runs)

    def _repeated(self, retries: int, runs: list[Run]) -> None:
        step, blame = self._step, self._blame
        if not step.late:
            self._verdict.doubled.append(f"{self._name}, acknowledged early: {self._told_of_runs()}")
            return
        # In whatever order they began: all but the one whose outcome counted were lost.
        lost = [run for run in runs if blame.run_lost(run)]
        self._verdict.counts["runs repeated after a loss"] += len(runs) - 1
        if len(lost) < len(runs) - 1:
            self._verdict.doubled.append(f"{self._name}, without a loss: {self._told_of_runs()}")

    def _succeeded(self) -> None:
        step, value = self._step, self._kept.get("value")
        ends = [run for run in self._runs if run.how == "end"]
        if not any(run.value == value == step.value for run in ends):
            told = f"SUCCESS with {value}, to be {step.value}"
            self._verdict.wrong.append(f"{self._name} is {told}: {self._told_of_runs()}")

    def _failed(self) -> None:
        step, error, text = self._step, self._kept.get("error"), self._kept.get("text", "")
        kept = self._story.kept
        before = [other for other in step.after if kept.get(other, {}).get("state") != "SUCCESS"]
        told = f"{self._name} is {error}({text!r})"
        if before:
            self._verdict.counts["steps that follow a lost one"] += 1
            if kept.get(before[0], {}).get("state") == "REVOKED":
                self._verdict.wrong.append(f"{told}, and {before[0]} was revoked")
            if self._runs:
                self._verdict.wrong.append(f"{told}, though it ran and {before[0]} has failed")
        elif error == "ValueError" and step.task == "failing":
            if not any(run.how == "end" for run in self._runs):
                self._verdict.wrong.append(f"{told}, which it has not raised")
        elif error != "WorkerLostError":
            self._verdict.wrong.append(told)
        elif not self._may_be_lost(text):
            self._verdict.lost.append(f"{told}: {self._told_of_runs()}")
        elif _BROKER_SAYS.match(text) and step.id not in self._story.put_aside:
            self._verdict.lost.append(f"{told}, and is not among the dead letters")
        else:
            self._verdict.counts["early-acked steps lost with their worker"] += 1
            self._verdict.counts["of them never begun"] += not self._runs

    def _may_be_lost(self, text: str) -> bool:
        step, blame = self._step, self._blame
        if step.task == "kept":
            return any(blame.child_lost(run) for run in self._runs) or (
                not self._runs and blame.loss_told(text) and "process" in text
            )
        if step.late:
            return False
        # A retry that was not begun says so itself.
        last = max(self._runs, key=lambda run: run.retries, default=None)
        if last is not None and blame.run_lost(last):
            return True
        return (last is None or last.how == "retry") and blame.loss_told(text)

    def _told_of_runs(self) -> str:
        return "; ".join(
            f"{run.worker}/{run.pid} retry {run.retries} from {run.begin:.3f} to "
            + ("-" if run.end is None else f"{run.end:.3f} ({run.how} {run.value})")
            for run in self._runs
        ) or "never begun"  # fmt: skip


def _judge_told(story: Story, verdict: Verdict) -> None:
    told = {line["id"] for line in story.told}
    verdict.lost += [
        f"{task_id} ({story.steps[task_id].kind}): nobody was told of its end"
        for task_id in story.awaited
        if task_id not in told
    ]
    for line in story.told:
        kept = story.kept.get(line["id"], {})
        if any(line.get(name) != kept.get(name) for name in ("state", "value", "error")):
            verdict.wrong.append(f"{line['id']}: told {_shown(line)}, and kept is {_shown(kept)}")


def _shown(line: dict[str, object]) -> str:
    return " ".join(str(line[name]) for name in ("state", "value", "error") if name in line)
