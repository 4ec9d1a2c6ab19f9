"""The asyncio pool: coroutines of many assignments in one loop, plain functions in threads beside it.

Each running assignment has a thread, which runs a plain function itself and, for a coroutine, waits until the
loop has run it. So nothing but the coroutines' own code is ever run in the loop: neither plain functions nor
encoding, handlers or result stores hold the others up. The job manager is in the main thread: its heartbeat
doesn't depend on the loop.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from emq_compat.coroutines.settle import run_by
from emq_compat.coroutines.shared import THREAD_PREFIX, LoopRunner, SharedLoop
from emq_compat.message import Reply
from emq_compat.pool import stacks
from emq_compat.pool.base import PoolOptions, Report, Work
from emq_compat.pool.slot import Given, Post
from emq_compat.pool.threads import ThreadSlot, ThreadsPool

__all__ = ["AsyncioPool"]

logger = logging.getLogger(__name__)

#: How long functions that coroutines gave to threads (``asyncio.to_thread``) may hold up the end.
_LETS_GO_S = 2.0


class _AsyncioSlot(ThreadSlot):
    """A thread that waits for its coroutine; started with its first assignment."""

    def __init__(self, name: str, work: Work, post: Post, loop: SharedLoop) -> None:
        self._runner = LoopRunner(loop)
        super().__init__(name, work, post)

    def give(self, given: Given) -> None:
        """Queue it."""
        self.start()
        super().give(given)

    def _coroutines(self) -> AbstractContextManager[None]:
        return run_by(self._runner)

    def _run(self, work: Work, given: Given, report: Report) -> Reply | BaseException:
        headers = given.assignment.delivery.headers
        named = headers.task_id or given.key[0]
        self._runner.label = f"{headers.task}[{named}]" if headers.task else named
        return super()._run(work, given, report)

    def stack(self) -> str:
        """Return where its coroutine stands; empty where it runs none."""
        return self._runner.stack()


class AsyncioPool(ThreadsPool):
    """As many assignments as are told, in one loop of this process.

    A limit, or to be terminated, cancels a coroutine. One that goes on all the same is told as Lost in time,
    and named in the log; its result is dropped, and its thread replaced.
    """

    name = "asyncio"

    def __init__(self, options: PoolOptions, work: Work) -> None:
        super().__init__(options, work)
        self._reserve = 0  # there are slots enough, and all share one process
        self._loop = SharedLoop()

    def start(self) -> None:
        """Run ``child_init``, start the loop, make the slots."""
        self._loop.start()
        super().start()

    def run_loop(self, loop: Callable[[], int]) -> int:
        """Run the loop here.

        Functions in ``asyncio.to_thread`` that don't end with their coroutine would keep the process from
        ending: they have a moment after the main thread's end, then the process ends with this exit status.
        """
        status = loop()
        left = [thread.name for thread in threading.enumerate() if thread.name.startswith(THREAD_PREFIX)]
        if left:
            threading.Thread(target=_end_anyway, args=(status,), name="emq-end", daemon=True).start()
        return status

    def _make_slot(self) -> _AsyncioSlot:
        return _AsyncioSlot(f"emq-worker-{next(self._numbers)}", self._work, self._post, self._loop)

    def dump_stacks(self) -> str:
        """Return the stacks of the loop's thread, and of each slot that runs something."""
        names = {self._loop.ident: "the loop"}
        parts = []
        for slot in self._slots:
            assert isinstance(slot, _AsyncioSlot)
            if not slot.given:
                continue
            found = slot.stack()
            if found:
                parts.append(f"{slot.name}:\n{found}")
            else:
                names[slot.ident] = slot.name
        return "\n".join([stacks.of_threads(names), *parts])

    def _join(self, deadline: float) -> None:
        super()._join(deadline)
        self._loop.close(deadline)


def _end_anyway(status: int) -> None:
    threading.main_thread().join()  # it has done all that it has to do, but for waiting for other threads
    time.sleep(_LETS_GO_S)
    logger.critical("functions in asyncio.to_thread do not end: the process ends")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
