"""Workflows, put together from what a broker tells of some of their steps with each look.

A step belongs to the workflow that its root, its chord or its group names; where a step names two of these,
they are one. What was never in a look is not known: the list is of what was seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from emq_compat.errors import MessageError
from emq_compat.message import FAILURE, FINAL_STATES, REVOKED, Job

__all__ = ["MEMBERS", "SHOWN", "Workflows"]

#: Workflows that are kept, those that were seen last; that are listed; steps of each that are known by id.
_KEPT = 300
SHOWN = 100
MEMBERS = 200
_NAMES = 6
_ASKED = 500
RUNS, WAITS, DONE, FAILED, UNKNOWN = "runs", "waits", "done", "failed", "unknown"
_ORDER = {RUNS: 0, WAITS: 1}
#: What a member of a Job's Celery part makes of a workflow.
_KINDS = {"chord": "chord", "group": "group", "chain": "chain", "callbacks": "chain"}


class _Workflow:
    __slots__ = ("body", "failed", "first_at", "kind", "last_at", "live", "of", "parts", "states", "tasks")

    def __init__(self, at: float) -> None:
        self.kind = ""
        self.first_at = self.last_at = at
        #: task id → its state, a final one or where it was seen last.
        self.states: dict[str, str] = {}
        #: task id → the task's name, of the same.
        self.tasks: dict[str, str] = {}
        #: where its steps are, as the last look told: running, waiting …
        self.live: dict[str, int] = {}
        self.body = ""
        self.parts = 0
        self.of: int | None = None
        self.failed = False

    def seen(self, task_id: str, task: str, state: str, at: float) -> None:
        self.last_at = at
        if task_id in self.states or len(self.states) < MEMBERS:
            self.states[task_id] = state
            self.tasks[task_id] = task

    def take_in(self, other: _Workflow) -> None:
        """Become both: it turned out that they are one."""
        self.kind = "chord" if "chord" in (self.kind, other.kind) else self.kind or other.kind
        self.first_at = min(self.first_at, other.first_at)
        self.states = dict([*other.states.items(), *self.states.items()][:MEMBERS])
        self.tasks = {**other.tasks, **self.tasks}
        for where, number in other.live.items():
            self.live[where] = self.live.get(where, 0) + number
        self.failed = self.failed or other.failed

    @property
    def state(self) -> str:
        if self.live.get("running"):
            return RUNS
        if self.live:
            return WAITS
        if self.failed or any(state in (FAILURE, REVOKED) for state in self.states.values()):
            return FAILED
        return DONE if all(state in FINAL_STATES for state in self.states.values()) else UNKNOWN

    @property
    def open_steps(self) -> list[str]:
        """Steps of which no end is known."""
        return [task_id for task_id, state in self.states.items() if state not in FINAL_STATES]


class Workflows:
    """What is known of a broker's workflows while somebody looks.

    Attributes:
        after: the number of the last end that was told of.
    """

    def __init__(self) -> None:
        self.after = 0
        #: Its id → workflow; what was seen last stands last.
        self._known: dict[str, _Workflow] = {}
        #: An id that turned out to be another's → that.
        self._same: dict[str, str] = {}
        #: task id → the id of its workflow.
        self._of_task: dict[str, str] = {}

    def clear(self) -> None:
        """Forget all: it is another broker."""
        self.after = 0
        self._known.clear()
        self._same.clear()
        self._of_task.clear()

    def unsettled(self) -> list[str]:
        """Return the ids of steps whose end the broker is to be asked for."""
        found = [step for one in reversed(self._known.values()) for step in one.open_steps]
        return found[:_ASKED]

    def members(self, task_id: str) -> dict[str, str]:
        """Return id → name of the steps that are known of a task's workflow; none where it is in none."""
        known = self._known.get(self._id(self._of_task.get(task_id, task_id)))
        return {} if known is None else {step: known.tasks.get(step, "") for step in list(known.states)}

    def note(self, told: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Take in what the verb ``workflows`` has told; return the list, those that run first."""
        at = told["at"]
        for one in self._known.values():
            one.live.clear()
        for ended in told["ended"]:
            step = self._step(ended["root"], ended["chord"], ended["task_id"], ended["at"])
            step.seen(ended["task_id"], ended["task"], ended["state"], ended["at"])
            step.kind = "chord" if ended["chord"] else step.kind or ("chain" if ended["goes_on"] else "")
        for member in told["members"]:
            self._member(member, at)
        for chord in told["chords"]:
            self._chord(chord)
        for task_id, state in told["states"].items():
            known = self._known.get(self._id(self._of_task.get(task_id, "")))
            if known is not None and task_id in known.states and state in FINAL_STATES:
                known.states[task_id] = state
        self.after = told["number"]
        self._forget()
        return self._listed()

    def _member(self, member: Mapping[str, Any], at: float) -> None:
        task_id, celery = member["task_id"], _celery_of(member["payload"])
        kinds = [kind for name, kind in _KINDS.items() if celery.get(name)]
        root = member["root"] or _text(celery.get("root_id"))
        group = member["chord"] or _text(celery.get("group"))
        if not (kinds or group or (root and root != task_id)):
            return  # a plain task
        one = self._step(root, group, task_id, at)
        one.seen(task_id, member["task"], member["where"], at)
        one.kind = "chord" if member["chord"] else one.kind or (kinds[0] if kinds else "")
        one.live[member["where"]] = one.live.get(member["where"], 0) + 1

    def _chord(self, chord: Mapping[str, Any]) -> None:
        one = self._step("", chord["id"], chord["body"], chord["at"])
        one.kind, one.parts, one.of = "chord", chord["ended"], chord["of"]
        one.failed = one.failed or chord["failed"]
        one.last_at = max(one.last_at, chord["at"])
        if chord["body"]:
            one.body = chord["body"]
            one.seen(chord["body"], chord["task"], "held", chord["at"])
            one.live["held"] = one.live.get("held", 0) + 1

    def _step(self, root: str, group: str, task_id: str, at: float) -> _Workflow:
        """Return the workflow of a step that names a root and a group (or chord), or one, or neither."""
        ids = [self._id(one) for one in (root, group, self._of_task.get(task_id, "")) if one]
        key = next((one for one in ids if one in self._known), ids[0] if ids else task_id)
        one = self._known.pop(key, None) or _Workflow(at)
        self._known[key] = one
        for other in dict.fromkeys(ids):
            if other != key:
                self._same[other] = key
                if (joined := self._known.pop(other, None)) is not None:
                    one.take_in(joined)
        if task_id:
            self._of_task[task_id] = key
        return one

    def _id(self, one: str) -> str:
        while (other := self._same.get(one)) is not None:
            one = other
        return one

    def _forget(self) -> None:
        """Forget those that were seen longest ago."""
        if len(self._known) <= _KEPT:
            return
        for key in list(self._known)[: len(self._known) - _KEPT]:
            del self._known[key]
        self._same = {one: key for one in self._same if (key := self._id(one)) in self._known}
        self._of_task = {
            one: key for one, at in self._of_task.items() if (key := self._id(at)) in self._known
        }

    def _listed(self) -> list[dict[str, Any]]:
        rows = [
            _row(key, one)
            for key, one in self._known.items()
            # One task alone that follows from nothing and leads to nothing is none.
            if one.kind or len(one.states) > 1
        ]
        rows.sort(key=lambda row: (_ORDER.get(row["state"], 2), -row["last_at"]))
        return rows[:SHOWN]


def _row(key: str, one: _Workflow) -> dict[str, Any]:
    states: Sequence[str] = list(one.states.values())
    ended = sum(state in FINAL_STATES for state in states)
    opens = one.body or next(iter(one.open_steps), "")
    if not opens:
        # From its first task on the results tell of the others.
        opens = key if key in one.states else next(reversed(one.states), key)
    return {
        "id": key,
        "opens": opens,
        "kind": one.kind or "tasks",
        "tasks": list(dict.fromkeys(filter(None, one.tasks.values())))[:_NAMES],
        "state": one.state,
        "running": one.live.get("running", 0),
        "waiting": sum(one.live.values()) - one.live.get("running", 0),
        # The body of a chord is none of the parts that are counted.
        "ended": ended if one.of is None else min(max(ended, one.parts), one.of),
        "failed": sum(state in (FAILURE, REVOKED) for state in states),
        "of": one.of,
        "more": len(states) >= MEMBERS,
        "first_at": round(one.first_at, 1),
        "last_at": round(one.last_at, 1),
    }


def _celery_of(payload: str) -> Mapping[str, Any]:
    try:
        return Job.decode(payload.encode("utf-8", "surrogatepass")).celery if payload else {}
    except MessageError:
        return {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
