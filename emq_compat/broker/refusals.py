"""What can't be understood or taken: counted, logged now and then, and told to who said it."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable

from emq_compat.errors import LocalProtocolError, RemoteProtocolError
from emq_compat.message import ReplyHeaders, new_id
from emq_compat.protocol.answers import error_body
from emq_compat.protocol.commands import Answer, Command, Hello, Reply
from emq_compat.protocol.roles import CLIENT, WORKER, Role
from emq_compat.wire.routers import Router

__all__ = ["Refusals"]

logger = logging.getLogger(__name__)

_LOG_EVERY_S = 1.0


class Refusals:
    """Refuses what clients, workers and others say.

    Args:
        clients: the socket of those who are told.
        count: is called for each message that was malformed, or not to be said there.

    Attributes:
        told: how many were told that something of theirs was not taken, by the exception told.
    """

    def __init__(self, clients: Router, count: Callable[[], None]) -> None:
        self._clients = clients
        self._count = count
        self.told: dict[str, int] = {}
        self._log_at: dict[str, float] = {}

    def note(self, role: Role, identity: bytes, said: Command | RemoteProtocolError) -> RemoteProtocolError:
        """Count and log what could not be understood, or may not be said here; returns what is wrong."""
        error = said if isinstance(said, RemoteProtocolError) else role.refusal(said)
        self._count()
        if self._may_log(role.name):
            who = identity[:64].decode("utf-8", "replace")
            if error is said:
                logger.warning("a message of the %s %r was dropped: %s", role.name, who, error)
            else:
                logger.warning(
                    "a message that is not for this address (for %ss) was dropped: %s of %r%s",
                    role.name,
                    error.command,
                    who,
                    f"; {self._clients_use()}" if role is WORKER and type(said) in CLIENT.says else "",
                )
        return error

    def hello(self, workers: Router, hello: Hello, identity: bytes) -> None:
        """Tell a client that said HELLO at the workers' address where it belongs."""
        text = f"this is the broker's address for workers; {self._clients_use()}"
        with contextlib.suppress(LocalProtocolError):
            workers.send(identity, Hello(msgid=hello.msgid, about={"refused": text}))

    def _clients_use(self) -> str:
        endpoint = self._clients.endpoint
        where = f"port {endpoint.rpartition(':')[2]}" if endpoint.startswith("tcp://") else endpoint
        return f"clients use {where}"

    def _may_log(self, about: str) -> bool:
        """Whether a line about this may be logged (at most one a second)."""
        now = time.monotonic()
        if now - self._log_at.get(about, -10.0) < _LOG_EVERY_S:
            return False
        self._log_at[about] = now
        return True

    def tell(self, identity: bytes, error: RemoteProtocolError) -> None:
        """Tell a client what was wrong with what it said, if that has an id."""
        if error.msgid:
            self.publish(identity, error.msgid, "ProtocolError", str(error))

    def ask(self, identity: bytes, msgid: str, kind: str, text: str) -> None:
        """Answer a client's question with an error; ``kind`` names one of our exception classes."""
        with contextlib.suppress(LocalProtocolError):
            self._clients.send(identity, Answer(msgid=new_id(), body=error_body(kind, text), asked=msgid))

    def publish(self, identity: bytes, msgid: str, kind: str, text: str) -> None:
        """Tell a client that something of its was not taken; ``kind`` names one of our exception classes."""
        self.told[kind] = self.told.get(kind, 0) + 1
        body = json.dumps({"value": None, "error": {"type": kind, "message": text}}).encode()
        reply = Reply(msgid=new_id(), body=body, request_msgid=msgid, headers=ReplyHeaders(state="REFUSED"))
        with contextlib.suppress(LocalProtocolError):
            self._clients.send(identity, reply)
