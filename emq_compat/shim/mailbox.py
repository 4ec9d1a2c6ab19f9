"""``app.control.mailbox``: what kombu's pidbox.Mailbox does for those who ask workers through it.

There are no exchanges and queues behind it: a call is ``app.control.broadcast``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emq_compat.shim.control import Control

__all__ = ["Mailbox"]


class Mailbox:
    """Asks workers, under the names of kombu's class; arguments and answers are those of ``broadcast``."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def __call__(self, connection: Any = None) -> Mailbox:
        """Return itself: there is one connection to the broker."""
        return self

    def call(
        self,
        destination: Sequence[str],
        command: str,
        kwargs: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        callback: Callable[[Any], object] | None = None,
        channel: Any = None,
    ) -> Any:
        """Ask these nodes, and return their answers."""
        return self._control.broadcast(
            command, kwargs, destination=destination, reply=True, timeout=timeout, callback=callback
        )

    def cast(self, destination: Sequence[str], command: str, kwargs: Mapping[str, Any] | None = None) -> None:
        """Tell these nodes."""
        self._control.broadcast(command, kwargs, destination=destination)

    def abcast(self, command: str, kwargs: Mapping[str, Any] | None = None) -> None:
        """Tell all nodes."""
        self._control.broadcast(command, kwargs)

    def multi_call(
        self,
        command: str,
        kwargs: Mapping[str, Any] | None = None,
        timeout: float | None = 1,
        limit: int | None = None,
        callback: Callable[[Any], object] | None = None,
        channel: Any = None,
    ) -> Any:
        """Ask all nodes, and return their answers."""
        return self._control.broadcast(
            command, kwargs, reply=True, timeout=timeout, limit=limit, callback=callback
        )
