"""Who may say what when, as tables.

How to read them. A role is one side of a conversation: a client, worker, scheduler or administrator as it sees
its broker, and the broker as it sees each of these. For each state of a role, ``sends`` holds the commands that
it may send, and ``receives`` those that the peer may, each with the state that follows; ``_stay`` lists those
that change nothing. What is not in a table is a mistake, and changes no state.

A worker's way: NEW; INFORM said: JOINING; that INFORM's ACK heard (Welcome in the tables): JOINED. A broker that
doesn't know it (a HELLO with ``"inform": true``: Rejoin) or that leaves (KBYE) makes it NEW again. A worker that
is told to go (DISCONNECT), or goes by itself, is LEAVING: it takes no work, but still answers for what it has.
After its KBYE it has LEFT. Messages cross on their way, so each state takes what the peer may have said before it
knew. To the broker, all that a worker says while NEW only tells that it has to INFORM.

The broker takes a REPLY from a worker in every state: a stock job manager says KBYE first and then runs what it
had queued, and after a reconnect an old REPLY comes under a new identity.

A client of a stock router never joins: it says no HELLO. On one address the broker meets clients and stock
schedulers; of these only the schedulers (Join in the tables: their INFORM) join, beat and are watched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from emq_compat.protocol.commands import (
    Ack,
    Answer,
    Ask,
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

__all__ = [
    "ADMIN",
    "BROKER_OF_ADMIN",
    "BROKER_OF_CLIENT",
    "BROKER_OF_WORKER",
    "CLIENT",
    "SCHEDULER",
    "WORKER",
    "Join",
    "Rejoin",
    "Role",
    "State",
    "Table",
    "Welcome",
]


class State(Enum):
    """Where a conversation stands."""

    NEW = "new"
    JOINING = "joining"
    JOINED = "joined"
    LEAVING = "leaving"
    LEFT = "left"


class Welcome:
    """In a table: the ACK of the last INFORM."""


class Rejoin:
    """In a table: a HELLO with ``"inform": true``."""


class Join:
    """In a table: an INFORM as scheduler."""


Table: TypeAlias = Mapping[State, Mapping[type, State]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """One side of a conversation.

    Attributes:
        name: for messages.
        sends, receives: the tables.
        beats: the states in which it sends heartbeats, and in which the peer's silence counts.
    """

    name: str
    sends: Table
    receives: Table
    beats: frozenset[State] = frozenset()


NEW, JOINING, JOINED, LEAVING, LEFT = State
_JOINED_OR_NEARLY = frozenset({JOINING, JOINED, LEAVING})


def _stay(state: State, *commands: type) -> dict[type, State]:
    return dict.fromkeys(commands, state)


WORKER = Role(
    name="a worker",
    sends={
        NEW: {Inform: JOINING, Kbye: LEFT},
        JOINING: {**_stay(JOINING, Inform, Heartbeat, Reply, Update, Nack, Answer), Kbye: LEFT},
        JOINED: {Inform: JOINING, **_stay(JOINED, Heartbeat, Ready, Reply, Update, Nack, Answer), Kbye: LEFT},
        LEAVING: {**_stay(LEAVING, Inform, Heartbeat, Reply, Update, Nack, Answer), Kbye: LEFT},
        LEFT: {},
    },
    receives={
        NEW: {**_stay(NEW, Ack, Hello, Rejoin, Heartbeat, Request, Ask, Kbye), Disconnect: LEAVING},
        JOINING: {
            Welcome: JOINED,
            **_stay(JOINING, Ack, Hello, Heartbeat, Request, Ask),
            Rejoin: NEW,
            Disconnect: LEAVING,
            Kbye: NEW,
        },
        JOINED: {
            **_stay(JOINED, Ack, Hello, Heartbeat, Request, Ask),
            Rejoin: NEW,
            Disconnect: LEAVING,
            Kbye: NEW,
        },
        LEAVING: _stay(LEAVING, Ack, Hello, Rejoin, Heartbeat, Request, Ask, Disconnect, Kbye),
        LEFT: _stay(LEFT, Ack, Hello, Rejoin, Heartbeat, Request, Ask, Disconnect, Kbye),
    },
    beats=_JOINED_OR_NEARLY,
)

BROKER_OF_WORKER = Role(
    name="a broker",
    sends={
        NEW: _stay(NEW, Rejoin, Ack, Heartbeat),
        JOINING: {Welcome: JOINED, **_stay(JOINING, Ack, Hello, Heartbeat), Disconnect: LEAVING, Kbye: NEW},
        JOINED: {
            **_stay(JOINED, Ack, Hello, Heartbeat, Request, Ask),
            Rejoin: NEW,
            Disconnect: LEAVING,
            Kbye: NEW,
        },
        LEAVING: {**_stay(LEAVING, Ack, Hello, Heartbeat, Ask, Disconnect), Kbye: NEW},
        LEFT: _stay(LEFT, Ack, Heartbeat, Rejoin),
    },
    receives={
        NEW: {Inform: JOINING, **_stay(NEW, Heartbeat, Ready, Reply, Update, Nack, Answer, Kbye)},
        JOINING: {**_stay(JOINING, Inform, Heartbeat, Reply, Update, Nack, Answer), Kbye: LEFT},
        JOINED: {Inform: JOINING, **_stay(JOINED, Heartbeat, Ready, Reply, Update, Nack, Answer), Kbye: LEFT},
        LEAVING: {**_stay(LEAVING, Inform, Heartbeat, Ready, Reply, Update, Nack, Answer), Kbye: LEFT},
        LEFT: {Inform: JOINING, **_stay(LEFT, Heartbeat, Reply, Kbye)},
    },
    beats=_JOINED_OR_NEARLY,
)

SCHEDULER = Role(
    name="a scheduler",
    sends={
        NEW: {Join: JOINING, Kbye: LEFT},
        JOINING: {**_stay(JOINING, Join, Heartbeat), Kbye: LEFT},
        JOINED: {Join: JOINING, **_stay(JOINED, Heartbeat, Request), Kbye: LEFT},
        LEAVING: {**_stay(LEAVING, Heartbeat), Kbye: LEFT},
        LEFT: {},
    },
    receives={
        NEW: {**_stay(NEW, Ack, Heartbeat, Reply, Schedule, Unschedule, Kbye), Disconnect: LEAVING},
        JOINING: {
            Welcome: JOINED,
            **_stay(JOINING, Ack, Heartbeat, Reply, Schedule, Unschedule),
            Disconnect: LEAVING,
            Kbye: NEW,
        },
        JOINED: {
            **_stay(JOINED, Ack, Heartbeat, Reply, Schedule, Unschedule),
            Disconnect: LEAVING,
            Kbye: NEW,
        },
        LEAVING: _stay(LEAVING, Ack, Heartbeat, Reply, Schedule, Unschedule, Disconnect, Kbye),
        LEFT: _stay(LEFT, Ack, Heartbeat, Reply, Schedule, Unschedule, Disconnect, Kbye),
    },
    beats=_JOINED_OR_NEARLY,
)

CLIENT = Role(
    name="a client",
    sends={
        NEW: {Hello: JOINING, **_stay(NEW, Request, Schedule, Unschedule, PublishTopic)},
        JOINING: _stay(JOINING, Hello),
        JOINED: _stay(JOINED, Hello, Request, Ask, Schedule, Unschedule, PublishTopic),
    },
    receives={
        NEW: _stay(NEW, Ack, Reply, Heartbeat),
        JOINING: {Hello: JOINED, **_stay(JOINING, Ack, Reply, Heartbeat)},
        JOINED: _stay(JOINED, Hello, Ack, Reply, Answer, Heartbeat),
    },
)

BROKER_OF_CLIENT = Role(
    name="a broker",
    sends={
        NEW: _stay(NEW, Hello, Ack, Reply, Answer, Heartbeat),
        JOINING: {Welcome: JOINED, **_stay(JOINING, Ack, Reply, Heartbeat), Disconnect: LEAVING, Kbye: NEW},
        JOINED: {**_stay(JOINED, Ack, Reply, Heartbeat), Disconnect: LEAVING, Kbye: NEW},
        LEAVING: {**_stay(LEAVING, Ack, Reply, Heartbeat, Disconnect), Kbye: NEW},
        LEFT: _stay(LEFT, Ack, Reply, Heartbeat),
    },
    receives={
        NEW: {
            Join: JOINING,
            **_stay(NEW, Hello, Request, Ask, Schedule, Unschedule, PublishTopic, Heartbeat, Kbye),
        },
        JOINING: {**_stay(JOINING, Join, Heartbeat, Request), Kbye: LEFT},
        JOINED: {Join: JOINING, **_stay(JOINED, Heartbeat, Request), Kbye: LEFT},
        LEAVING: {**_stay(LEAVING, Join, Heartbeat, Request), Kbye: LEFT},
        LEFT: {Join: JOINING, **_stay(LEFT, Heartbeat, Request, Kbye)},
    },
    beats=_JOINED_OR_NEARLY,
)

ADMIN = Role(
    name="an administrator",
    sends={NEW: _stay(NEW, Hello, Show, Ask, Disconnect)},
    receives={NEW: _stay(NEW, Hello, Shown, Answer, Ack, Heartbeat)},
)

BROKER_OF_ADMIN = Role(
    name="a broker",
    sends={NEW: _stay(NEW, Hello, Shown, Answer, Ack, Heartbeat)},
    receives={NEW: _stay(NEW, Hello, Show, Ask, Disconnect)},
)
