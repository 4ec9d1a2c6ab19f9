"""What tells senders what became of their messages: ACKs, collected and sent as few, refusals, other ids."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from emq_compat.broker.desk import Desk
from emq_compat.broker.records import Dispatch, Moment, Send
from emq_compat.message import ReplyHeaders, new_id
from emq_compat.protocol.commands import Ack, Hello, Reply

__all__ = ["Receipts"]

#: A worker's REPLYs are acknowledged within so many seconds, or when there are so many of them.
ACK_WITHIN_S = 0.02
ACKS_AT_ONCE = 64
#: Clients of which is known that they are ours.
_CLIENTS = 100_000


class Receipts:
    """Receipts of one turn for clients, and of the last ones for workers.

    Attributes:
        our_clients: identities that have said HELLO, the last of them.
        publishes: client → msgids that are acknowledged at the end of the turn.
        replies: worker → msgids of its REPLYs that are stored and not acknowledged yet.
        replies_due: monotonic time at which workers must be told.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.our_clients: dict[bytes, None] = {}
        self.publishes: dict[bytes, list[str]] = {}
        self.replies: dict[bytes, list[str]] = {}
        self.replies_due = math.inf

    def welcome(self, identity: bytes, command: Hello) -> None:
        """Note that a client is ours, and tell it that this broker is."""
        self.our_clients.pop(identity, None)
        self.our_clients[identity] = None
        if len(self.our_clients) > _CLIENTS:
            del self.our_clients[next(iter(self.our_clients))]
        self._desk.to_client(identity, Hello(msgid=command.msgid, about=self._desk.about))

    # Publishes

    def taken(self, identity: bytes, msgid: str) -> None:
        """Acknowledge a publish at the end of the turn."""
        self.publishes.setdefault(identity, []).append(msgid)

    def refuse(self, identity: bytes, msgid: str, kind: str, message: str, *, first: str = "") -> None:
        """Tell a publisher that its message was not taken.

        ``kind`` names one of our exception classes; ``first`` is the id of the message that is there instead.
        """
        self._desk.counters["refused"] += 1
        self._desk.refusals[kind] = self._desk.refusals.get(kind, 0) + 1
        error = {"type": kind, "message": message, **({"first": first} if first else {})}
        body = json.dumps({"value": None, "error": error}).encode()
        ours = identity in self.our_clients
        headers = ReplyHeaders(state="REFUSED") if ours else None
        reply = Reply(msgid=new_id(), body=body, request_msgid=msgid, headers=headers)
        self._desk.to_client(identity, reply, stock=not ours)

    def joined(self, identity: bytes, msgid: str, first: str) -> None:
        """Tell a publisher the id of the message that is there instead of its own."""
        self._desk.counters["joined"] += 1
        if identity not in self.our_clients:
            self.taken(identity, msgid)
            return
        body = json.dumps({"value": first}).encode()
        headers = ReplyHeaders(state="JOINED")
        self._desk.to_client(identity, Reply(msgid=new_id(), body=body, request_msgid=msgid, headers=headers))

    # Replies

    def answered(self, identity: bytes, msgid: str, now: Moment) -> None:
        """Acknowledge a worker's REPLY soon."""
        self.replies.setdefault(identity, []).append(msgid)
        self.replies_due = min(self.replies_due, now.mono + ACK_WITHIN_S)

    def close_turn(self, now: Moment) -> None:
        """Add the acknowledgements to the outbox."""
        if self.replies:
            self._acknowledge_replies(now)
        if self.publishes:
            # First of all: a client stands still until it has its own.
            self._desk.outbox[:0] = self._acknowledge_publishes()

    def _acknowledge_publishes(self) -> Sequence[Send]:
        acks = []
        for identity, msgids in self.publishes.items():
            if identity in self.our_clients:
                acks.append(Send(identity, Ack(msgid=new_id(), acked=msgids)))
            else:
                acks += [Send(identity, Ack(msgid=new_id(), acked=(msgid,)), stock=True) for msgid in msgids]
        self.publishes.clear()
        return acks

    def _acknowledge_replies(self, now: Moment) -> None:
        """Acknowledge REPLYs together with what goes to their worker anyway, or many at once, or in time.

        A worker only waits for it with its copy of the REPLY; a message of its own would wake it up.
        """
        pending = self.replies
        if now.mono >= self.replies_due:
            told = list(pending)
        else:
            told = [
                item.identity
                for item in self._desk.outbox
                if isinstance(item, Dispatch) or item.to_worker
                if item.identity in pending
            ]
            told += [identity for identity, msgids in pending.items() if len(msgids) >= ACKS_AT_ONCE]
        for identity in dict.fromkeys(told):
            self._desk.to_worker(identity, Ack(msgid=new_id(), acked=pending.pop(identity)))
        if not pending:
            self.replies_due = math.inf
