"""The broker as the dashboard asks it, and one of its workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from emq_compat.errors import MessageError, OperationalError
from emq_compat.monitor.overview.look import Asker

__all__ = ["Broker", "ask_worker"]

#: A worker has so long to answer.
_WORKER_S = 3.0


class Broker(Asker, Protocol):
    """What is asked: a Client."""

    def inspect(
        self,
        verb: str,
        arguments: Mapping[str, Any] | None = None,
        destination: Any = None,
        timeout_s: float = 1.0,
    ) -> dict[str, Any]: ...


def ask_worker(broker: Broker, name: str, verb: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """Return what a worker answers.

    Raises:
        MessageError: it refuses.
        OperationalError: it doesn't answer in time.
    """
    for answer in broker.inspect(verb, arguments, destination=[name], timeout_s=_WORKER_S).values():
        if "error" in answer:
            raise MessageError(str(answer["error"].get("message")))
        return answer["ok"]
    raise OperationalError(f"{name} did not answer within {_WORKER_S:g} s")
