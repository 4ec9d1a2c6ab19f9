"""Where plain code meets coroutines: ``settle`` runs one to its end, in this thread's loop.

A thread of a pool keeps a loop (``keep_loop``, ``lasting_loop``), or hands its coroutines to a loop that it
shares with others (``run_by``). Anywhere else each runs in a new loop, as ``asyncio.run`` would have it.
asyncio itself is imported when the first coroutine comes.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any

from emq_compat.coroutines.base import Runner

__all__ = ["close_loop", "keep_loop", "lasting_loop", "run_by", "settle"]


class _Here(threading.local):
    runner: Runner | None = None


_here = _Here()


def settle(value: Any) -> Any:
    """Return ``value``; of an awaitable (what an ``async def`` returned) what it comes to."""
    if not hasattr(type(value), "__await__"):
        return value
    from emq_compat.coroutines import loops  # noqa: PLC0415 - it imports asyncio

    runner = _here.runner
    if runner is None or loops.a_loop_runs_here():
        return loops.run_in_new_loop(value)
    return runner.run(value)


class _LoopWhenNeeded:
    """Makes this thread's loop when the first coroutine comes."""

    def __init__(self) -> None:
        self._runner: Runner | None = None

    def run(self, awaitable: Awaitable[Any]) -> Any:
        if self._runner is None:
            from emq_compat.coroutines import loops  # noqa: PLC0415 - it imports asyncio

            self._runner = loops.OwnLoop()
        return self._runner.run(awaitable)

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()


def keep_loop() -> None:
    """From now on this thread's coroutines run in one loop, until ``close_loop``."""
    _here.runner = _LoopWhenNeeded()


def close_loop() -> None:
    """Close this thread's loop: what coroutines have left running is cancelled, async generators end."""
    runner, _here.runner = _here.runner, None
    if runner is not None:
        runner.close()


@contextmanager
def lasting_loop() -> Iterator[None]:
    """Inside, this thread's coroutines run in one loop, which is closed at the end."""
    keep_loop()
    try:
        yield
    finally:
        close_loop()


@contextmanager
def run_by(runner: Runner) -> Iterator[None]:
    """Inside, this thread's coroutines are run by ``runner``, which isn't closed at the end."""
    before, _here.runner = _here.runner, runner
    try:
        yield
    finally:
        _here.runner = before
