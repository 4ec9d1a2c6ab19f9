"""Waiting for results in an event loop, without blocking it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from emq_compat.shim.exceptions import TimeoutError as ShimTimeoutError
from emq_compat.stored import StoredResult

if TYPE_CHECKING:
    import asyncio

    from emq_compat.backends.watcher import Watcher

__all__ = ["AsyncArrivals", "late"]


class AsyncArrivals:
    """``with AsyncArrivals(…) as arrivals: async for task_id, stored in arrivals``; made inside the loop.

    Ends after the last of ``ids``; raises Celery's TimeoutError if that takes longer than ``timeout_s``
    (None: for ever). Leaving the block ends the waiting: nothing stays behind.
    """

    def __init__(self, watcher: Watcher, ids: Sequence[str], timeout_s: float | None) -> None:
        import asyncio  # noqa: PLC0415 - start-up doesn't need it

        self._watcher = watcher
        self._left = dict.fromkeys(ids)
        self._loop = asyncio.get_running_loop()
        self._timeout_s = timeout_s
        self._deadline = None if timeout_s is None else self._loop.time() + timeout_s
        self._arrived: deque[tuple[str, StoredResult]] = deque()
        self._sleeper: asyncio.Future[None] | None = None

    def __enter__(self) -> AsyncArrivals:
        self._watcher.add(self._left, self._told)
        return self

    def __exit__(self, *exc: object) -> None:
        self._watcher.discard(self._left, self._told)

    def __aiter__(self) -> AsyncArrivals:
        return self

    async def __anext__(self) -> tuple[str, StoredResult]:
        while not self._arrived:
            if not self._left:
                raise StopAsyncIteration
            await self._sleep()
        task_id, stored = self._arrived.popleft()
        self._left.pop(task_id, None)
        return task_id, stored

    async def _sleep(self) -> None:
        self._sleeper = sleeper = self._loop.create_future()
        timer = None
        if self._deadline is not None:
            timer = self._loop.call_at(self._deadline, self._wake)
        try:
            await sleeper
        finally:
            self._sleeper = None
            if timer is not None:
                timer.cancel()
        if not self._arrived and self._deadline is not None and self._loop.time() >= self._deadline:
            raise ShimTimeoutError(late(list(self._left), self._timeout_s))

    def _told(self, task_id: str, stored: StoredResult) -> None:
        """Called from the watcher's thread."""
        try:
            self._loop.call_soon_threadsafe(self._take, task_id, stored)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass

    def _take(self, task_id: str, stored: StoredResult) -> None:
        self._arrived.append((task_id, stored))
        self._wake()

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)


def late(ids: Sequence[str], timeout_s: float | None) -> str:
    """Return what a TimeoutError says of the tasks that aren't done."""
    others = f" and {len(ids) - 1} others aren't" if len(ids) > 1 else " isn't"
    return f"task {ids[0]}{others} done after {timeout_s} s"
