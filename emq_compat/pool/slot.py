"""A slot of this process (a thread, or the main thread) as the loop sees it, and the code that runs in it.

Work goes through a queue from which both the slot and the loop can take: who gets a job has it, so a job is
begun or taken back, never both.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from emq_compat.coroutines.settle import lasting_loop
from emq_compat.frozen import quickly_made
from emq_compat.message import Reply
from emq_compat.pool.base import Assignment, Key, LossReason, Report, Work
from emq_compat.pool.own_time import OwnTime

__all__ = ["Done", "Given", "Post", "Slot", "Stopped", "Told"]


class Stopped(BaseException):
    """The pool ends this work: hard time limit, terminated or shut down."""


class Given:
    """An assignment that was given to a slot; ``given_up``: why its result, if one comes, is dropped."""

    __slots__ = ("assignment", "began", "given_up", "key")

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.key: Key = assignment.key
        self.began: float | None = None
        self.given_up: LossReason | None = None


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A slot has run something: to a reply, or to an exception that left the work."""

    slot: Slot
    given: Given
    result: Reply | BaseException
    runtime_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The running work reported a state."""

    given: Given
    state: str
    body: bytes


Post = Callable[["Done | Told"], None]


class Slot(ABC):
    """One slot.

    Attributes:
        name: for people.
        ident: of the thread that runs it.
        given: what it was given and hasn't ended, oldest first (the loop's view).
        retiring: takes no more; ``abandoned``: what it still runs is nobody's concern.
        soft_at, hard_at: monotonic times at which the running one's limits are due.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.ident = 0
        self.given: deque[Given] = deque()
        self.retiring = False
        self.abandoned = False
        self.soft_at = self.hard_at = math.inf
        self.repeat_s = 0.0
        self.stop_at = math.inf
        self._queue: SimpleQueue[Given | None] = SimpleQueue()

    # The loop's side

    def give(self, given: Given) -> None:
        """Queue it."""
        self.given.append(given)
        self._queue.put(given)

    def withdraw(self) -> list[Given]:
        """Take back what the slot hasn't begun, oldest first; the first one given counts as begun."""
        taken: list[Given] = []
        head: Given | None = None
        leave = False
        try:
            while True:
                given = self._queue.get_nowait()
                if given is None:
                    leave = True
                elif given.began is not None:
                    head = given
                else:
                    taken.append(given)
        except Empty:
            pass
        if head is not None:
            self._queue.put(head)
        if leave:
            self._queue.put(None)
        for given in taken:
            self.given.remove(given)
        return taken

    def leave(self) -> None:
        """Have the slot's code end once it has run what it has."""
        self.retiring = True
        self._queue.put(None)

    @abstractmethod
    def interrupt(self, given: Given, raised: type[BaseException]) -> bool:
        """Raise it in the running work if that is ``given``; False: it may not have come, call again."""

    # The slot's side

    def serve(self, work: Work, post: Post) -> None:
        """Run what is given until ``leave``."""
        with self._coroutines():
            own_time = OwnTime()
            while (given := self._queue.get()) is not None:
                own_time.begin(time.monotonic())
                result = self._run(work, given, self._report(given, post))
                post(Done(slot=self, given=given, result=result, runtime_s=own_time.took(time.monotonic())))
                if self.abandoned:
                    return

    def _coroutines(self) -> AbstractContextManager[None]:
        """Say, for as long as it is open, where this thread's coroutines run: in a loop that it keeps."""
        return lasting_loop()

    @abstractmethod
    def _run(self, work: Work, given: Given, report: Report) -> Reply | BaseException:
        """Call the work so that ``interrupt`` reaches it and nothing behind it; skip what was given up."""

    def _report(self, given: Given, post: Post) -> Report:
        def report(state: str, body: bytes) -> None:
            post(Told(given=given, state=state, body=body))

        return report
