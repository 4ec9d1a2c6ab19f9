"""A pool that can't go on: the job manager ends with status 1, and what had not begun goes back."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from emq_compat.failures import reply_of
from emq_compat.jobmanager import JobManager
from emq_compat.manager.settings import EventmqSettings
from emq_compat.message import SUCCESS, Outcome
from emq_compat.pool.base import Assignment, Begun, Finished, Key, Pool, PoolBroken, PoolEvent
from tests.jobmanager.fake_upstream import FakeUpstream, running
from tests.processes import wait_until

pytestmark = pytest.mark.integration


class ScriptedPool(Pool):
    """Two slots that do what the test says.

    Attributes:
        given: the assignments, in order.
    """

    name = "scripted"

    def __init__(self) -> None:
        self.given: list[Assignment] = []
        self._begun: dict[Key, tuple[int, float]] = {}
        self._back: list[Assignment] = []
        self._events: list[PoolEvent] = []
        self._lock = threading.Lock()
        self._read, self._write = os.pipe()

    def tell(self, *events: PoolEvent, back: Sequence[Assignment] = ()) -> None:
        """Have the job manager see these events; from now on ``back`` can be taken back."""
        with self._lock:
            self._events += events
            self._back += back
            os.write(self._write, b"x")

    def begin(self, assignment: Assignment) -> None:
        """Have one begin."""
        self._begun[assignment.key] = 1, time.monotonic()
        self.tell(Begun(key=assignment.key, pid=1))

    def finish(self, assignment: Assignment) -> None:
        """Have one end."""
        self._begun.pop(assignment.key)
        reply = reply_of(Outcome(state=SUCCESS, value=None))
        self.tell(Finished(key=assignment.key, reply=reply, pid=1, runtime_s=0.1))

    # The contract.

    @property
    def concurrency(self) -> int:
        return 2

    def run_loop(self, loop: Callable[[], int]) -> int:
        return loop()

    def idle(self) -> int:
        return 2 - len(self.given)

    def submit(self, assignment: Assignment, *, reserve: bool = False) -> bool:
        self.given.append(assignment)
        return True

    def take_back(self) -> list[Assignment]:
        with self._lock:
            taken, self._back = self._back, []
        return taken

    def running(self) -> dict[Key, tuple[int, float]]:
        return dict(self._begun)

    def fds(self) -> Sequence[int]:
        return (self._read,)

    def step(self, readable: Sequence[int], now: float) -> list[PoolEvent]:
        with self._lock:
            os.read(self._read, 4096)
            events, self._events = self._events, []
        return events

    def start(self) -> None: ...
    def overrun(self, after_s: float, now: float) -> list[Assignment]:
        return []

    def next_deadline(self) -> float | None:
        return None

    def terminate(self, key: Key, signum: int | None = None) -> bool:
        return False

    def pids(self) -> list[int]:
        return []

    def grow(self, n: int = 1) -> None: ...
    def shrink(self, n: int = 1) -> None: ...
    def dump_stacks(self) -> str:
        return ""

    def close(self) -> None: ...
    def stop(self, timeout_s: float) -> list[PoolEvent]:
        return []

    def end(self) -> None:
        """Close its pipe."""
        os.close(self._read)
        os.close(self._write)


@pytest.fixture
def pool() -> Iterator[ScriptedPool]:
    made = ScriptedPool()
    yield made
    made.end()


def test_what_had_not_begun_in_a_child_whose_death_is_seen_late_goes_back(
    pool: ScriptedPool, upstream: FakeUpstream
) -> None:
    """A job in a child that is dead, which is seen after the pool has given up, isn't waited for."""
    settings = EventmqSettings(concurrent_jobs=2)
    manager = JobManager(
        skip_signal=True, pool=pool, upstreams=[upstream], allow=["time.sleep"], settings=settings
    )
    with running(manager, upstream) as statuses:
        upstream.deliver("runs", "time", "sleep", 0)
        upstream.deliver("never begins", "time", "sleep", 0)
        wait_until(lambda: len(pool.given) == 2, what="two assignments")
        runs, never = pool.given
        pool.begin(runs)
        pool.tell(PoolBroken(detail="fork: no memory"))
        wait_until(lambda: upstream.left, what="the goodbye")
        assert [] == upstream.returned

        pool.tell(back=[never])
        wait_until(lambda: upstream.returned, 5, what="a job given back")
        assert [("never begins", 0)] == upstream.returned
        pool.finish(runs)
        upstream.reply_to("runs")
    assert [1] == statuses
