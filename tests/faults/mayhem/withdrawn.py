"""Whether what was revoked or has expired ran, and what is REVOKED was either."""

from __future__ import annotations

from tests.faults.mayhem.story import Blame, Run, Step, Story

__all__ = ["BEGUN_S", "Withdrawal"]

#: Between a child's look at the clock and the note of the begin, on a machine that is busy.
BEGUN_S = 1.0


class Withdrawal:
    """One step's: what was asked of it, and its expiry."""

    def __init__(self, story: Story, blame: Blame, step: Step, runs: list[Run]) -> None:
        self._story, self._blame, self._step, self._runs = story, blame, step, runs
        self._asked = story.asked.get(step.id)

    @property
    def in_time(self) -> bool:
        """Whether the broker had a revoke before the step could have been handed out."""
        asked = self._asked
        return asked is not None and asked.heard is not None and asked.heard < self._step.eta

    def unwanted(self) -> list[str]:
        """Begins that should not have been."""
        expires = self._step.expires
        faults = [
            f"began {run.begin - expires:.3f} s after its expiry"
            for run in self._runs
            if expires and run.begin > expires + BEGUN_S and not self._blame.held(run, run.begin)
        ]
        if self.in_time and self._runs:
            faults.append("began though it was revoked before its time")
        return faults

    def unfounded(self) -> list[str]:
        """What speaks against it being REVOKED."""
        step, asked = self._step, self._asked
        faults = []
        if any(self._story.kept.get(before, {}).get("state") == "REVOKED" for before in step.after):
            return ["ran after what was revoked"] if self._runs else []
        if asked is None:
            told = min((line["at"] for line in self._story.told if line["id"] == step.id), default=None)
            if not step.expires:
                faults.append("is REVOKED, and nobody has revoked it")
            elif told is not None and told < step.expires:
                faults.append(f"was told to be expired {step.expires - told:.3f} s before that")
        for run in self._runs:
            terminated = (
                asked is not None and asked.what == "terminate" and (run.end is None or run.end > asked.at)
            )
            if not terminated and not (step.late and self._blame.run_lost(run)):
                faults.append("is REVOKED, and has run")
        return faults
