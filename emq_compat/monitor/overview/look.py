"""One look at a broker: its overview, asked for and taken in."""

from __future__ import annotations

from typing import Any, Protocol

from emq_compat.monitor.overview.history import History

__all__ = ["ANSWER_S", "Asker", "look"]

#: The broker has so long to answer.
ANSWER_S = 3.0


class Asker(Protocol):
    """What asks the broker: a Client."""

    def ask(self, verb: str, /, timeout_s: float | None = None, **arguments: Any) -> Any: ...


def look(asker: Asker, history: History, *, everything: bool, schedules: bool = False) -> dict[str, Any]:
    """Ask the broker, and return the sections that ``History.note`` makes of its answer.

    Raises:
        OperationalError: it doesn't answer.
        BrokerRefused: it doesn't want to tell.
    """
    overview = asker.ask(
        "overview", timeout_s=ANSWER_S, failures_after=history.failures_after, schedules=schedules
    )
    return history.note(overview, everything=everything)
