"""The steps of workflows that ended last, and which workflow those to come belong to. In memory only.

Nothing is decoded for it: what follows from a task comes with its outcome, and a chord is named by headers.
So the tasks of a chain are known as one workflow from its second step on, those of a chord from the first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from emq_compat.broker.records import Moment
from emq_compat.message import FINAL_STATES, RETRY, Headers, Publish

__all__ = ["Ended", "Steps"]

#: Ends that are kept, and steps to come whose workflow is known.
_ENDED = 500
_TO_COME = 4096


class Ended(NamedTuple):
    """The end of a step.

    ``number`` counts them since the start; ``at`` is unix seconds; ``root`` is the id of the workflow, that
    of its first task or of a chord; ``chord`` that of the chord that the step is a part of, empty: of none;
    ``goes_on``: another step follows from it.
    """

    number: int
    at: float
    task: str
    task_id: str
    state: str
    root: str
    chord: str
    goes_on: bool


class Steps:
    """What is known of them.

    Attributes:
        total: ends since the start.
        roots: task id of a step to come, or under way → the id of its workflow.
    """

    def __init__(self) -> None:
        self.total = 0
        self.roots: dict[str, str] = {}
        self._last: deque[Ended] = deque(maxlen=_ENDED)

    def note(
        self, headers: Headers, state: str, now: Moment, follow_ups: Sequence[Publish] = (), chord: str = ""
    ) -> None:
        """Take note of the end of a task that is a step; ``chord``: the one that its message awaited."""
        if state == RETRY:
            return  # it goes on under its id
        task_id, part = headers.task_id, headers.chord.rpartition(":")[0]
        root = self.roots.pop(task_id, "") or chord or part or task_id
        goes_on = False
        for message in follow_ups:
            follows = message.headers
            if follows.task_id and not follows.settled:
                self.follows(follows.task_id, root)
                goes_on = True
        if task_id and state in FINAL_STATES:
            self.total += 1
            self._last.append(Ended(self.total, now.wall, headers.task, task_id, state, root, part, goes_on))

    def follows(self, task_id: str, root: str) -> None:
        """Note to which workflow a step to come belongs, unless that is known."""
        if task_id in self.roots:
            return
        if len(self.roots) >= _TO_COME:
            for longest_ago in list(islice(self.roots, _TO_COME // 2)):
                del self.roots[longest_ago]
        self.roots[task_id] = root

    def since(self, number: int) -> list[Ended]:
        """Return the ends that are kept and came after this one, oldest first."""
        found = []
        for ended in reversed(self._last):
            if ended.number <= number:
                break
            found.append(ended)
        return found[::-1]
