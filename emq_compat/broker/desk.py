"""What the parts of the engine share: the journal, what is to be sent and logged, and the counters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from emq_compat.broker.journal import Journal
from emq_compat.broker.records import Dispatch, Send
from emq_compat.broker.unread import Unread
from emq_compat.protocol.commands import Command

__all__ = ["Desk", "EngineOptions"]

_COUNTERS = (
    "published",
    "duplicates",
    "joined",
    "refused",
    "forbidden",
    "malformed",
    "handed_out",
    "finished",
    "redelivered",
    "lost",
    "dead",
    "expired",
    "revoked",
    "stale",
    "topics",
    "topics_dropped",
    "unroutable",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What an engine can be told; see the options of ``emq-compat broker`` (seconds, counts; 0: no limit)."""

    dead_after_s: float = 10.0
    gone_after_s: float = 2.0
    max_redeliveries: int = 5
    queue_limit: int = 0
    stock_timeout_s: float = 600.0
    result_expires_s: float = 86400.0
    revoke_expires_s: float = 86400.0
    max_message_bytes: int = 64 << 20


class Desk:
    """One for each engine.

    Attributes:
        about: what HELLO tells of this broker.
        outbox: what is to be sent after the commit, in order.
        notes: (level, text) for the log.
        counters: since the start.
        refusals: publishes that were refused since the start, by the exception told.
        unread: how much is under way to clients.
    """

    __slots__ = ("about", "counters", "journal", "notes", "options", "outbox", "refusals", "unread")

    def __init__(self, journal: Journal, options: EngineOptions, about: dict[str, Any]) -> None:
        self.journal = journal
        self.options = options
        self.about = about
        self.outbox: list[Send | Dispatch] = []
        self.notes: list[tuple[str, str]] = []
        self.counters = dict.fromkeys(_COUNTERS, 0)
        self.refusals: dict[str, int] = {}
        self.unread = Unread()

    def to_client(self, identity: bytes, command: Command, *, stock: bool = False) -> None:
        """Put a command for a client into the outbox."""
        self.outbox.append(Send(identity, command, stock=stock))

    def to_worker(self, identity: bytes, command: Command, *, stock: bool = False) -> None:
        """Put a command for a worker into the outbox."""
        self.outbox.append(Send(identity, command, to_worker=True, stock=stock))

    def note(self, level: str, text: str) -> None:
        """Leave a line for the log; ``level`` is a name of logging's."""
        self.notes.append((level, text))
