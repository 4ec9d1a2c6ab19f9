"""Elections among the workers of a kombu broker: which one of them does what an ``election`` was held for.

As Celery's workers hold them, by events: each that hears the command stands for it (``worker-elect``), and
each that hears of a candidate says so (``worker-elect-ack``: Celery's workers wait for as many of these as
there are workers). The candidate with the smallest clock wins, of equal ones the smallest name.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from emq_compat.pidbox import Command

__all__ = ["DECIDED_S", "Elections"]

#: So long after the first candidate there is a winner.
DECIDED_S: Final = 1.0


class Elections:
    """The elections that are held.

    Args:
        node: the worker's node name.
        send: sends an event, a dict with a type.
        won: is given the command of an election that this worker has won.
        now: returns unix time in seconds.
    """

    def __init__(
        self,
        node: str,
        send: Callable[[dict[str, Any]], None],
        won: Callable[[Command], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._node = node
        self._send = send
        self._won = won
        self._now = now
        self._clock = 0
        #: id → (clock, node and pid, topic, action) of each candidate.
        self._candidates: dict[str, list[tuple[int, str, str, Any]]] = {}

    @property
    def _name(self) -> str:
        return f"{self._node}.{os.getpid()}"

    def stand(self, command: Command) -> None:
        """Stand for an election; a command that names none is passed over."""
        given = command.arguments
        election, topic = given.get("id"), given.get("topic")
        if election and topic:
            told = {"id": election, "topic": topic, "action": given.get("action"), "cver": 1}
            self._send(self._event("worker-elect", **told))

    def heard(self, event: Mapping[str, Any]) -> str:
        """Take a candidate; returns the election's id if it is the first one, which is to be decided then."""
        if event.get("type") != "worker-elect":
            return ""
        election, clock = event.get("id"), event.get("clock")
        if not isinstance(election, str) or type(clock) is not int:
            return ""
        candidates = self._candidates.setdefault(election, [])
        name = f"{event.get('hostname')}.{event.get('pid')}"
        candidates.append((clock, name, str(event.get("topic")), event.get("action")))
        self._send(self._event("worker-elect-ack", id=election))
        return election if len(candidates) == 1 else ""

    def decide(self, election: str) -> None:
        """End an election: where this worker has won, it is told."""
        candidates = self._candidates.pop(election, None)
        if not candidates:
            return
        _, name, topic, action = min(candidates, key=lambda one: one[:2])
        if name == self._name:
            arguments = {"id": election, "topic": topic, "action": action}
            self._won(Command(method="election", arguments=arguments))

    def _event(self, type_: str, **fields: Any) -> dict[str, Any]:
        now = self._now()
        self._clock = max(self._clock + 1, int(now * 1_000_000))
        return {
            "type": type_,
            "hostname": self._node,
            "pid": os.getpid(),
            "timestamp": now,
            "utcoffset": -time.localtime(now).tm_gmtoff // 3600,
            "clock": self._clock,
            **fields,
        }
