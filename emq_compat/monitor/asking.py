"""Questions to a loop from the HTTP server's thread: the answer in time is the proof that the loop turns."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

__all__ = ["TURNS_WITHIN_S", "Asker", "LoopStuck"]

T = TypeVar("T")

#: How long a loop may take to answer: less than a probe usually waits.
TURNS_WITHIN_S = 2.5


class LoopStuck(Exception):
    """The loop hasn't turned in time."""


class Asker:
    """Has a loop call something and waits for what that returns, from coroutines of one event loop.

    Who asks what is being asked already gets the same answer: a loop that is stuck collects no questions.

    Args:
        call_soon: has the loop call what it is given.
        within_s: how long the answer may take.
    """

    def __init__(
        self, call_soon: Callable[[Callable[[], None]], None], within_s: float = TURNS_WITHIN_S
    ) -> None:
        self._call_soon = call_soon
        self._within_s = within_s
        self._asked: dict[Callable[[], Any], asyncio.Future[Any]] = {}

    async def ask(self, look: Callable[[], T]) -> T:
        """Return what ``look`` returns, which is called in the loop, between two turns.

        Raises:
            LoopStuck: it wasn't called in time.
            Exception: what it raises.
        """
        answer: asyncio.Future[T] | None = self._asked.get(look)
        if answer is None or answer.done():
            here = asyncio.get_running_loop()
            answer = self._asked[look] = here.create_future()
            self._call_soon(_question(look, answer, here))
        try:
            return await asyncio.wait_for(asyncio.shield(answer), self._within_s)
        except asyncio.TimeoutError:
            raise LoopStuck(f"the loop has not turned for {self._within_s:g} s") from None

    async def stuck(self) -> str:
        """Return why the loop counts as stuck; empty: it turns."""
        try:
            await self.ask(_be_called)
        except LoopStuck as exc:
            return str(exc)
        return ""


def _be_called() -> None:
    """Show that the loop turns."""


def _question(
    look: Callable[[], T], answer: asyncio.Future[T], home: asyncio.AbstractEventLoop
) -> Callable[[], None]:
    def called() -> None:
        tell: Callable[[], None]
        try:
            tell = partial(answer.set_result, look())
        except Exception as exc:  # noqa: BLE001 - it is the asker's to handle, not the loop's
            tell = partial(answer.set_exception, exc)
        with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
            home.call_soon_threadsafe(tell)

    return called
