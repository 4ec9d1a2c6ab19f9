"""The contracts of what runs coroutines, and which thread waits for which."""

from __future__ import annotations

from collections.abc import Awaitable
from types import FrameType
from typing import Any, Protocol

__all__ = ["Run", "Runner", "running", "running_in"]


class Run(Protocol):
    """A coroutine that a thread waits for."""

    def interrupt(self, raised: type[BaseException]) -> None:
        """Have it end, from any thread.

        An Exception is raised where it awaits, and may be caught there. What is none (the pool's Stopped)
        cancels it, and is what the thread that waits gets.
        """
        ...

    def interrupt_here(self, raised: type[BaseException], frame: FrameType) -> bool:
        """The same, in a signal handler of the thread that runs it; ``frame`` is what was interrupted.

        False: its own code is running just now, so the handler is to raise, as in a plain function.
        """
        ...


class Runner(Protocol):
    """Runs a thread's coroutines."""

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """Run it to its end; returns and raises what it does."""
        ...

    def close(self) -> None:
        """Called when the thread has no more coroutines to run."""
        ...


#: Thread → the coroutine that it waits for.
running: dict[int, Run] = {}


def running_in(ident: int) -> Run | None:
    """Return the coroutine that this thread waits for."""
    return running.get(ident)
