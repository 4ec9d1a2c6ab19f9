"""A broker that answers from a table, and notes what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from tests.monitor.overview.test_history import overview

__all__ = ["FakeBroker"]


class FakeBroker:
    """Stands for a Client.

    Attributes:
        answers: verb → what is answered, or an exception that is raised.
        asked: (verb, arguments) of every question.
        on_ask: called with each question.
        workers: verb → the answers of workers.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {
            "overview": overview(),
            "dead_list": [],
            "workflows": {
                "at": 1000.0,
                "number": 0,
                "ended": [],
                "members": [],
                "chords": [],
                "states": {},
            },
        }
        self.workers: dict[str, Any] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.on_ask: Callable[[], object] = lambda: None

    def ask(self, verb: str, /, timeout_s: float | None = None, **arguments: Any) -> Any:
        self.asked.append((verb, arguments))
        self.on_ask()
        answer = self.answers[verb]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def until(self, true: Callable[[], object]) -> None:
        """Wait until it is true, which is looked at with each question that is asked."""
        asked = asyncio.Event()
        self.on_ask = partial(asyncio.get_running_loop().call_soon_threadsafe, asked.set)
        while not true():
            await asked.wait()
            asked.clear()

    def inspect(
        self,
        verb: str,
        arguments: Mapping[str, Any] | None = None,
        destination: Any = None,
        timeout_s: float = 1.0,
    ) -> dict[str, Any]:
        self.asked.append((verb, {"arguments": dict(arguments or {}), "destination": destination}))
        return self.workers.get(verb, {})

    def count(self, verb: str) -> int:
        return sum(asked == verb for asked, _ in self.asked)
