"""Who may say what to a broker, as a table: one role for each of its sockets.

How to read it. A role holds the commands that its peers may say. Anything else is treated like a malformed
message: an error that names it, a count, no effect. *When* a command counts is decided by who keeps the
session: broker/fleet.py for workers and schedulers, upstream/emq.py for a broker as a worker sees it.
"""

from __future__ import annotations

from dataclasses import dataclass

from emq_compat.errors import RemoteProtocolError
from emq_compat.protocol.commands import (
    Answer,
    Ask,
    Command,
    Disconnect,
    Heartbeat,
    Hello,
    Inform,
    Kbye,
    Nack,
    PublishTopic,
    Ready,
    Reply,
    Request,
    Schedule,
    Show,
    Shown,
    Unschedule,
    Update,
)

__all__ = ["ADMINISTRATOR", "CLIENT", "PUBLISHER", "WORKER", "Role"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """One kind of peer of a broker.

    Attributes:
        name: for people.
        says: the commands that it may say.
    """

    name: str
    says: frozenset[type]

    def refusal(self, command: Command) -> RemoteProtocolError:
        """Return the error of a peer that said what it may not."""
        if isinstance(command, Show):
            word = command.what
        else:
            word = _WORDS.get(type(command), type(command).__name__.upper())
        return RemoteProtocolError(
            f"{word} is not for {self.name}s to say here", command=word, msgid=command.msgid
        )


#: Stock schedulers share the clients' socket: INFORM, HEARTBEAT and KBYE are theirs.
CLIENT = Role(
    name="client",
    says=frozenset({Hello, Request, Ask, PublishTopic, Schedule, Unschedule, Inform, Heartbeat, Kbye}),
)
WORKER = Role(
    name="worker",
    says=frozenset({Inform, Ready, Reply, Heartbeat, Update, Nack, Answer, PublishTopic, Kbye}),
)
ADMINISTRATOR = Role(name="administrator", says=frozenset({Hello, Show, Disconnect}))
PUBLISHER = Role(name="publisher", says=frozenset({PublishTopic}))

_WORDS: dict[type, str] = {PublishTopic: "PUBLISH", Shown: "REPLY"}
