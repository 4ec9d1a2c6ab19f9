"""Failures grouped by task and exception: what fails, how often, since when, and with which traceback."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["Groups"]

#: Groups that are kept, those that failed last; characters of a message and a traceback; tasks of a group.
_GROUPS = 200
_MESSAGE = 500
_TRACEBACK = 20_000
_SAMPLES = 10


class _Group:
    __slots__ = ("count", "exception", "first_at", "last_at", "message", "samples", "task", "traceback")

    def __init__(self, task: str, exception: str, at: float) -> None:
        self.task = task
        self.exception = exception
        self.first_at = self.last_at = at
        self.count = 0
        self.message = self.traceback = ""
        self.samples: deque[dict[str, Any]] = deque(maxlen=_SAMPLES)


class Groups:
    """The failures that a broker has told of; those of another broker process come on top."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], _Group] = {}
        #: task → failures that were told one by one, of this broker process.
        self._told: dict[str, int] = {}

    def restarted(self) -> None:
        """Note that the broker counts from the beginning."""
        self._told.clear()

    def add(self, failures: Iterable[Mapping[str, Any]]) -> bool:
        """Take in failures as the verb ``overview`` tells them; returns whether there were any."""
        found = sorted(failures, key=lambda failure: failure["number"])
        for failure in found:
            task, at = failure["task"], failure["at"]
            exception, message, traceback = _read(failure["reply"])
            group = self._groups.pop((task, exception), None) or _Group(task, exception, at)
            self._groups[task, exception] = group
            group.count += 1
            group.last_at = at
            group.message, group.traceback = message, traceback
            group.samples.append({"id": failure["task_id"], "at": at, "retries": failure["retries"]})
            self._told[task] = self._told.get(task, 0) + 1
            if len(self._groups) > _GROUPS:
                del self._groups[next(iter(self._groups))]
        return bool(found)

    def listed(self, by_task: Mapping[str, int]) -> list[dict[str, Any]]:
        """Return the groups, that which failed last first.

        ``by_task``: how often each task has failed. Where that is more than was told one by one, the count of
        a group, one of several of its task, is a lower bound (``more``).
        """
        groups_of: dict[str, int] = {}
        for task, _ in self._groups:
            groups_of[task] = groups_of.get(task, 0) + 1
        return [
            {
                "task": group.task,
                "exception": group.exception,
                "message": group.message,
                "traceback": group.traceback,
                **self._counted(group, by_task.get(group.task, 0), alone=groups_of[group.task] == 1),
                "first_at": group.first_at,
                "last_at": group.last_at,
                "samples": list(reversed(group.samples)),
            }
            for group in reversed(self._groups.values())
        ]

    def _counted(self, group: _Group, total: int, *, alone: bool) -> dict[str, Any]:
        untold = max(0, total - self._told.get(group.task, 0))
        # Where a task fails in one way only, what wasn't told one by one is taken to have failed so, too.
        return {"count": group.count + (untold if alone else 0), "more": untold > 0 and not alone}


def _read(reply: str | None) -> tuple[str, str, str]:
    """Return the exception's name, its message and the traceback in a failure's reply JSON."""
    if reply is None:
        return "(large)", "Its reply is too large to be shown here: `emq-compat result ID --traceback`.", ""
    try:
        document = json.loads(reply)
        error = document.get("error") or {}
        kind, message, traceback = error.get("type"), error.get("message"), document.get("traceback")
    except (ValueError, AttributeError, RecursionError):
        return "(unreadable)", reply[:_MESSAGE], ""
    return (
        str(kind or "Exception")[:200],
        _cut(str(message if message is not None else document.get("value") or ""), _MESSAGE),
        _cut(traceback if isinstance(traceback, str) else "", _TRACEBACK),
    )


def _cut(text: str, most: int) -> str:
    """Return a text without its middle, if it is too long."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}\n…\n{text[-most // 2 :]}"
