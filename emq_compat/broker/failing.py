"""The failures that came last, of each task a few: what an operator looks at first. In memory only.

Nothing of them is decoded here: a reply is kept as its worker wrote it, and read by who asks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from emq_compat.broker.records import Moment
from emq_compat.message import Headers

__all__ = ["Failed", "Failing"]

#: Tasks whose failures are kept, and how many of each; the tasks that failed last stay.
_TASKS = 100
_OF_EACH = 10
#: The reply of a failure that is larger isn't kept (that of a long traceback is far smaller).
_KEPT_BYTES = 32 << 10


class Failed(NamedTuple):
    """A failure.

    ``number`` counts them since the start; ``at`` is unix seconds; ``body`` is the reply JSON, None where it
    is too large to be kept here.
    """

    number: int
    at: float
    task: str
    task_id: str
    retries: int
    body: bytes | None


class Failing:
    """What failed last.

    Attributes:
        total: failures since the start.
        by_task: task name → how many since the start, of the tasks that are kept.
    """

    def __init__(self) -> None:
        self.total = 0
        self.by_task: dict[str, int] = {}
        self._last: dict[str, deque[Failed]] = {}

    def note(self, headers: Headers, msgid: str, body: bytes, now: Moment) -> None:
        """Take note of an outcome with the state FAILURE."""
        self.total += 1
        task = headers.task
        last = self._last.pop(task, None)
        if last is None:
            if len(self._last) >= _TASKS:
                longest_ago = next(iter(self._last))
                del self._last[longest_ago], self.by_task[longest_ago]
            last = deque(maxlen=_OF_EACH)
        self._last[task] = last
        self.by_task[task] = self.by_task.get(task, 0) + 1
        kept = body if len(body) <= _KEPT_BYTES else None
        last.append(Failed(self.total, now.wall, task, headers.task_id or msgid, headers.retries, kept))

    def since(self, number: int) -> Iterator[Failed]:
        """Yield those that are kept and came after this one, those of one task together, oldest first."""
        for last in reversed(self._last.values()):
            if last[-1].number <= number:
                return
            for failed in last:
                if failed.number > number:
                    yield failed
