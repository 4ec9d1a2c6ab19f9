"""The workflow that a task belongs to, as a tree, from what messages and results tell of each other.

Where a task has ended, its result names those that it began (its children); where one waits or runs, its
message names its root and the steps that are still to come. What has ended without keeping a result is a gap.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from emq_compat.chain_steps import steps_of
from emq_compat.errors import MessageError
from emq_compat.message import FINAL_STATES, Job
from emq_compat.monitor.dashboard.broker import Broker
from emq_compat.monitor.dashboard.details import arguments_in
from emq_compat.words import amount

__all__ = ["workflow"]

#: Tasks of one tree; how many of them below each other, for it is made, and told, by recursion; steps upwards
#: to its root; later steps of a chain that are listed.
_NODES = 400
_LEVELS = 200
_CLIMB = 50
_STEPS = 50
_AT_ONCE = 200
_SHOWN = 4000


class _Task:
    """What is known of a task."""

    __slots__ = ("celery", "id", "reply", "told")

    def __init__(self, task_id: str, told: Mapping[str, Any]) -> None:
        self.id = task_id
        self.told = told
        self.reply = _object(told.get("reply"))
        self.celery: Mapping[str, Any] = {}
        if told.get("payload"):
            try:
                self.celery = Job.decode(told["payload"].encode("utf-8", "surrogatepass")).celery
            except MessageError:
                pass  # a message of another kind: where it is can still be told

    @property
    def known(self) -> bool:
        return self.told["where"] != "unknown" or "state" in self.told

    @property
    def above(self) -> str | None:
        """The id of its root, or else of its parent."""
        for name in ("root_id", "parent_id"):
            found = self.celery.get(name) or self.reply.get(name)
            if isinstance(found, str) and found != self.id:
                return found
        return None

    @property
    def children(self) -> list[str]:
        """The ids of the tasks that it has begun."""
        return list(dict.fromkeys(_ids_in(self.reply.get("children"))))


class _Tree:
    def __init__(self, broker: Broker, names: Mapping[str, str], *, show_args: bool) -> None:
        self._broker = broker
        self._names = names
        self._show_args = show_args
        self._tasks: dict[str, _Task] = {}
        self._placed: set[str] = set()
        #: Whether there is more than what is fetched.
        self.cut = False

    def fetch(self, ids: Iterable[str]) -> None:
        wanted = [one for one in dict.fromkeys(ids) if one not in self._tasks]
        wanted = wanted[: _NODES - len(self._tasks)]
        for start in range(0, len(wanted), _AT_ONCE):
            some = wanted[start : start + _AT_ONCE]
            for task_id, told in self._broker.ask("trace", ids=some).items():
                self._tasks[task_id] = _Task(task_id, told)

    def root_of(self, task_id: str) -> str:
        """Return the id of the highest task that something is known of."""
        self.fetch([task_id])
        for _ in range(_CLIMB):
            above = self._tasks[task_id].above
            if above is None or above in self._tasks:
                return task_id
            self.fetch([above])
            if above not in self._tasks or not self._tasks[above].known:
                return task_id
            task_id = above
        return task_id

    def first_of(self, task_id: str) -> str:
        """Return the id of the first of those that led to a task, as far as their results name each other."""
        parents = {child: task.id for task in self._tasks.values() for child in task.children}
        seen = {task_id}
        while (parent := parents.get(task_id)) is not None and parent not in seen:
            seen.add(task_id := parent)
        return task_id

    def fetch_below(self, task_ids: Sequence[str]) -> None:
        level, seen = list(task_ids), set(task_ids)
        for _ in range(_LEVELS):
            below = [child for one in level if one in self._tasks for child in self._below(self._tasks[one])]
            level = [one for one in dict.fromkeys(below) if one not in seen]
            seen.update(level)
            self.fetch(level)
            if not level or len(self._tasks) >= _NODES:
                break
        self.cut = bool(level)

    def _below(self, task: _Task) -> list[str]:
        found = task.children
        if task.told.get("state") in FINAL_STATES:
            # As long as it waits or runs there are no messages of these yet.
            found += [_id_of(step) for step in [*_callbacks(task), *_steps(task)[:1]]]
        if isinstance(task.told.get("body"), str):
            found.append(task.told["body"])
        return [one for one in found if one]

    def node(self, task_id: str, *, top: bool = False) -> dict[str, Any]:
        """Return a task with all that follows from it; a chord's body stands beside its parts."""
        self._placed.add(task_id)
        task = self._tasks.get(task_id)
        if task is None:
            return {"id": task_id, "task": "", "state": "UNKNOWN", "children": []}
        told = self._told(task)
        children = [self.node(child) for child in task.children if child not in self._placed]
        children += [self._step(step, "then") for step in _callbacks(task) if self._free(step)]
        bodies = [self._body_of(child["id"]) for child in children]
        bodies += [task.told.get("body")] if top else []
        children += self._rest(_steps(task))
        for body in dict.fromkeys(one for one in bodies if isinstance(one, str)):
            if body not in self._placed:
                children.append({**self.node(body), "role": "when all parts have ended"})
        told["children"] = children
        return told

    def joined(self, first: dict[str, Any], others: Sequence[str]) -> dict[str, Any]:
        """Return a tree together with those tasks that are not in it; the body of a chord comes last."""
        known = [first["id"], *others]
        bodies = [one for one in known if self._tasks[one].told["where"] == "held"]
        bodies += [body for one in known if (body := self._body_of(one)) in known and body not in bodies]
        nodes = [] if first["id"] in bodies else [first]
        nodes += [self.node(one) for one in others if one not in self._placed and one not in bodies]
        for body in dict.fromkeys(bodies):
            node = first if body == first["id"] else None if body in self._placed else self.node(body)
            if node is not None:
                nodes.append({**node, "role": "when all parts have ended"})
        if len(nodes) == 1:
            return nodes[0]
        return {"id": "", "task": f"{amount(len(nodes), 'task')} together", "state": "", "children": nodes}

    def _body_of(self, task_id: str) -> str | None:
        task = self._tasks.get(task_id)
        return None if task is None else task.told.get("body")

    def _free(self, step: Mapping[str, Any]) -> bool:
        return _id_of(step) not in self._placed

    def _rest(self, steps: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the later steps of a chain, each below the one before."""
        steps = [step for step in steps if isinstance(step, Mapping) and self._free(step)]
        rest: list[dict[str, Any]] = []
        if len(steps) > _STEPS:
            more = f"… {amount(len(steps) - _STEPS, 'more step')}"
            rest = [{"id": "", "task": more, "state": "PENDING", "children": []}]
        for step in reversed(steps[:_STEPS]):
            one = self._step(step, "next step")
            one["children"] = [*one["children"], *rest]
            rest = [one]
        return rest

    def _step(self, step: Mapping[str, Any], role: str) -> dict[str, Any]:
        """Return what a signature stands for: the task that was made of it, if it is there already."""
        task_id = _id_of(step)
        if task_id in self._tasks and self._tasks[task_id].known and task_id not in self._placed:
            return {**self.node(task_id), "role": role}
        if task_id:
            self._placed.add(task_id)
        kind = step.get("subtask_type")
        name = str(step.get("task") or "?") if not kind else f"{kind} ({_size(step)})"
        told = {"id": task_id, "task": name, "state": "PENDING", "where": "to come", "role": role}
        return {**told, "children": []}

    def _told(self, task: _Task) -> dict[str, Any]:
        told = {
            name: task.told[name]
            for name in ("where", "queue", "worker", "for_s", "attempt", "due_s", "parts", "unsearched")
            if name in task.told
        }
        state = task.told.get("state")
        if task.told["where"] == "running" and state not in ("RETRY",):
            state = "STARTED"
        told.update(
            id=task.id,
            task=task.told.get("task") or str(task.reply.get("name") or self._names.get(task.id, "")),
            state=state or ("PENDING" if task.known else "UNKNOWN"),
        )
        error = task.reply.get("error")
        if isinstance(error, Mapping):
            told["error"] = f"{error.get('type')}: {error.get('message')}"[:500]
            if isinstance(task.reply.get("traceback"), str):
                told["traceback"] = task.reply["traceback"][:20_000]
        if isinstance(task.reply.get("date_done"), str):
            told["done"] = task.reply["date_done"]
        if self._show_args:
            if task.told.get("payload"):
                told["arguments"] = arguments_in(task.told["payload"])
            if state == "SUCCESS":
                told["value"] = json.dumps(task.reply.get("value"))[:_SHOWN]
        return told


def workflow(
    broker: Broker, task_id: str, *, show_args: bool, beside: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Return the tree of the workflow that a task belongs to: ``asked``, ``found``, ``tree``, ``cut``.

    ``beside``: id → name of tasks that are known to belong to it, too, as the parts of a group, of which none
    names the others.

    Raises:
        EmqError: the broker doesn't answer.
    """
    tree = _Tree(broker, beside, show_args=show_args)
    root = tree.root_of(task_id)
    tree.fetch(beside)
    root = tree.first_of(root)
    others = [one for one in beside if one != root and one in tree._tasks and tree._tasks[one].known]
    tree.fetch_below([root, *others])
    shown = tree.node(root, top=not others)
    if task_id not in tree._placed:
        shown = tree.node(task_id, top=not others)
    if others:
        shown = tree.joined(shown, others)
    return {
        "asked": task_id,
        "found": tree._tasks[task_id].known,
        "unsearched": bool(tree._tasks[task_id].told.get("unsearched")),
        "cut": tree.cut,
        "tree": shown,
    }


def _object(text: Any) -> Mapping[str, Any]:
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _ids_in(children: Any, depth: int = 0) -> Iterator[str]:
    """Yield the task ids in results as tuples, ``[[id, parent], members or null]``; or of members."""
    if not isinstance(children, list) or depth > 20:
        return
    for one in children:
        if not (isinstance(one, list) and len(one) == 2 and isinstance(one[0], list) and one[0]):
            continue
        if one[1]:
            yield from _ids_in(one[1], depth + 1)
        elif isinstance(one[0][0], str):
            yield one[0][0]


def _steps(task: _Task) -> list[Any]:
    """Return the later steps of a chain, the next one first."""
    try:
        steps = steps_of(task.celery)
    except MessageError:
        return []
    return list(reversed(steps)) if isinstance(steps, list) else []


def _callbacks(task: _Task) -> list[Mapping[str, Any]]:
    found = task.celery.get("callbacks")
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def _id_of(step: Any) -> str:
    options = step.get("options") if isinstance(step, Mapping) else None
    task_id = options.get("task_id") if isinstance(options, Mapping) else None
    return task_id if isinstance(task_id, str) else ""


def _size(step: Mapping[str, Any]) -> str:
    kwargs = step.get("kwargs")
    members = kwargs.get("tasks") or kwargs.get("header") if isinstance(kwargs, Mapping) else None
    return amount(len(members), "task") if isinstance(members, list) else "tasks"
