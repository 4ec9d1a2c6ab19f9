"""The contract of a pool: it runs assignments and tells what became of them.

A pool knows nothing of brokers, jobs or Celery. ``work`` is made before the pool starts and turns a
Delivery into a Reply; it must not raise (what escapes it ends the assignment as LOST). The pool is driven
by one loop, that of the job manager, which polls ``fds()`` and calls ``step``.

Limits, in every pool: ``soft_limit_s`` raises ``soft_limit_exceeded`` inside the running work; at
``limit_s`` the pool gives the slot up (a child is killed, a thread is abandoned and replaced) and reports
TIME_LIMIT; a result that comes later is dropped.
"""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from emq_compat.frozen import quickly_made
from emq_compat.message import Delivery, Reply

__all__ = [
    "SOFTENS",
    "Assignment",
    "Begun",
    "Finished",
    "Key",
    "LossReason",
    "Lost",
    "Pool",
    "PoolBroken",
    "PoolEvent",
    "PoolOptions",
    "Report",
    "Updated",
    "Work",
]

#: What ``terminate`` takes for "as at the soft limit": Celery's worker raises it by this signal.
SOFTENS = signal.SIGUSR1


class Report(Protocol):
    """Given to the work, so that it can tell a state that isn't final (STARTED, PROGRESS …)."""

    def __call__(self, state: str, body: bytes) -> None: ...


class Work(Protocol):
    """Runs one delivery: called in a child, a thread, or the main thread (solo)."""

    def __call__(self, delivery: Delivery, report: Report) -> Reply: ...


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A delivery to be run, under the limits that hold for it (seconds; None: no limit)."""

    delivery: Delivery
    limit_s: float | None = None
    soft_limit_s: float | None = None

    @property
    def key(self) -> tuple[str, int]:
        """(msgid, attempt): the name of this hand-out."""
        return self.delivery.msgid, self.delivery.headers.attempt


Key: TypeAlias = tuple[str, int]
LossReason: TypeAlias = Literal["died", "time-limit", "terminated", "stopped"]


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """The assignment has begun: it can't be taken back any more. ``pid`` is the process that runs it.

    May be told twice, with another pid: when a child dies before it has picked up what it was sent.
    """

    key: Key
    pid: int


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Updated:
    """The running work reported a state."""

    key: Key
    state: str
    body: bytes


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The work returned ``reply`` after ``runtime_s`` seconds, without those it waited for a processor."""

    key: Key
    reply: Reply
    pid: int
    runtime_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """The assignment had begun and will give no reply.

    reason: ``died`` (the child is gone: ``detail`` tells its signal or exit code as far as known),
    ``time-limit`` (hard limit), ``terminated`` (the job manager asked), ``stopped`` (cold shutdown).
    """

    key: Key
    reason: LossReason
    detail: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolBroken:
    """The pool can't go on (children die on start-up again and again; both zygotes are gone)."""

    detail: str


PoolEvent: TypeAlias = Begun | Updated | Finished | Lost | PoolBroken


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """What a pool can be told.

    Attributes:
        concurrency: how many assignments run at once.
        max_tasks_per_child: a child is replaced after that many (None: never); Celery's
            worker_max_tasks_per_child.
        max_memory_per_child_kb: a child is replaced, after its assignment, once it uses more resident
            memory (KiB); Celery's worker_max_memory_per_child.
        reserve_per_child: how many further assignments a child may hold beside the one it runs.
        soft_limit_exceeded: the exception class raised at the soft limit (the shim's SoftTimeLimitExceeded).
        before_child: called in this process before each child; the first time nothing has been forked yet.
        child_init, child_exit: called in each child (once each in the process for threads and solo), at its
            start and end.
        start_method: ``zygote``, ``spawn`` or None (zygote where it is safe, see DESIGN section 7).
        rebuild: for spawn: an importable ``module:callable`` and its string arguments, from which a new
            process makes ``work``, ``child_init`` and ``child_exit`` again.
        start_timeout_s: a child that isn't ready after that long is replaced; Celery's
            worker_proc_alive_timeout.
    """

    concurrency: int = 1
    max_tasks_per_child: int | None = None
    max_memory_per_child_kb: int | None = None
    reserve_per_child: int = 32
    soft_limit_exceeded: type[BaseException] = TimeoutError
    before_child: Callable[[], None] | None = None
    child_init: Callable[[], None] | None = None
    child_exit: Callable[[], None] | None = None
    start_method: Literal["zygote", "spawn"] | None = None
    rebuild: tuple[str, tuple[str, ...]] | None = None
    start_timeout_s: float = 10.0


class Pool(ABC):
    """Runs assignments, ``concurrency`` at once. Every method is called from the loop's thread only."""

    #: Its name on the command line (-P).
    name: str

    @abstractmethod
    def start(self) -> None:
        """Make the slots. Called before any thread, socket or ZeroMQ context exists in this process."""

    @abstractmethod
    def run_loop(self, loop: Callable[[], int]) -> int:
        """Call ``loop`` and return what it returns; solo runs it in a thread, and the work in this one."""

    @property
    @abstractmethod
    def concurrency(self) -> int:
        """How many assignments run at once now."""

    @property
    def reserve_per_slot(self) -> int:
        """How many assignments may wait in a slot behind the one it runs."""
        return 0

    @abstractmethod
    def idle(self) -> int:
        """How many slots have nothing to do and could begin an assignment at once."""

    @abstractmethod
    def submit(self, assignment: Assignment, *, reserve: bool = False) -> bool:
        """Give an assignment to an idle slot.

        ``reserve=True`` allows to queue it behind the running one of the least loaded slot (prefork and
        threads; at most ``reserve_per_child`` each). Returns False when no slot takes it.
        """

    @abstractmethod
    def take_back(self) -> list[Assignment]:
        """Take back every assignment that has not begun; none of them will begin.

        Exact: the kernel arbitrates. What was given to an idle slot counts as begun.
        """

    @abstractmethod
    def overrun(self, after_s: float, now: float) -> list[Assignment]:
        """Take back what waits, in a slot, behind an assignment that has run for ``after_s`` or more."""

    @abstractmethod
    def running(self) -> dict[Key, tuple[int, float]]:
        """Return what has begun: key → (pid, monotonic time at which it began)."""

    @abstractmethod
    def fds(self) -> Sequence[int]:
        """Return the file descriptors whose readability calls for ``step``."""

    @abstractmethod
    def step(self, readable: Sequence[int], now: float) -> list[PoolEvent]:
        """Read what is ready, keep limits, replace lost slots; ``now`` is monotonic. Never blocks."""

    @abstractmethod
    def next_deadline(self) -> float | None:
        """Return the monotonic time at which ``step`` must be called though nothing is readable."""

    @abstractmethod
    def terminate(self, key: Key, signum: int | None = None) -> bool:
        """End a running assignment; a Lost with reason ``terminated`` follows.

        ``signum`` None: at once. SOFTENS: the soft limit's exception is raised in it, and what it then comes
        to is its end. Returns False where it isn't running or can't be ended.
        """

    @abstractmethod
    def pids(self) -> list[int]:
        """Return the pids of the processes that run assignments."""

    @property
    def trouble(self) -> str:
        """Why nothing can be run now, as far as is known: no process for it can be made; empty: it can."""
        return ""

    @property
    def births(self) -> int:
        """How many processes for assignments were made since the start; 0 where they run in this one."""
        return 0

    @property
    def failed_births(self) -> int:
        """How many of them ended before they were ready, or couldn't be made at all."""
        return 0

    @abstractmethod
    def grow(self, n: int = 1) -> None:
        """Add n slots."""

    @abstractmethod
    def shrink(self, n: int = 1) -> None:
        """Remove n slots, idle ones first; a busy one ends its assignment first."""

    @abstractmethod
    def dump_stacks(self) -> str:
        """Return, for people, where each slot stands (a stack dump), within a second."""

    @abstractmethod
    def close(self) -> None:
        """Take no more assignments; idle children leave. The loop goes on until ``running()`` is empty."""

    @abstractmethod
    def stop(self, timeout_s: float) -> list[PoolEvent]:
        """End everything now: what runs is Lost (``stopped``), children are gone on return.

        Idle children leave in order, within ``timeout_s``, and are killed then. What never began can still be
        had by ``take_back``. Of a pool that isn't started, or is stopped already, nothing is left to end.
        """
