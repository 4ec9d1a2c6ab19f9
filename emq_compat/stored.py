"""StoredResult: what is kept of a task that ended. Apart from the client, so that it costs no ZeroMQ."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["StoredResult"]


class StoredResult:
    """What the broker keeps of a task: its state and, decoded on first use, the reply's JSON object."""

    __slots__ = ("_body", "_reply", "state")

    def __init__(self, state: str, *, body: bytes = b"", reply: dict[str, Any] | None = None) -> None:
        self.state = state
        self._body = body
        self._reply = reply

    @property
    def reply(self) -> dict[str, Any]:
        """The reply's JSON object, ``{"value", "state", "error", "traceback", …}`` (docs/protocol.md)."""
        if self._reply is None:
            self._reply = json.loads(self._body)
        return self._reply

    def __repr__(self) -> str:
        return f"StoredResult({self.state!r}, {self.reply!r})"
