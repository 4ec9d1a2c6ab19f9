"""eMQP/1.0's commands as typed values.

Stock commands are those of eventmq 0.3.13; the others are ours and are only ever sent to a peer that
has shown that it is ours (HELLO, INFORM's capabilities). docs/protocol.md tells each frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from emq_compat.frozen import quickly_made
from emq_compat.message import Headers, Publish, ReplyHeaders, slots_of_base
from emq_compat.terms import Shares

__all__ = [
    "VERSION",
    "Ack",
    "Answer",
    "Ask",
    "Capabilities",
    "Command",
    "Disconnect",
    "Heartbeat",
    "Hello",
    "Inform",
    "Kbye",
    "Nack",
    "PublishTopic",
    "Ready",
    "Reply",
    "Request",
    "Schedule",
    "Show",
    "Shown",
    "Unschedule",
    "Update",
]

#: The protocol's name, the frame after the empty delimiter.
VERSION = b"eMQP/1.0"

WORKER = "worker"
SCHEDULER = "scheduler"

#: What emq-cli asks the administration address to show.
SHOWN = ("STATUS", "ROUTER_SHOW_WORKERS", "ROUTER_SHOW_SCHEDULERS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What one of our workers says of itself in INFORM's further frame (a JSON object).

    Attributes:
        slots: how many jobs it runs at once.
        held: (msgid, attempt, begun) of every hand-out it still holds or whose REPLY isn't acknowledged;
            a broker hands out again whatever it had given to this worker and is not in here.
        tasks: registered task name → flags, a string of letters: ``l`` acks late, ``r`` rejects on worker
            lost, ``e`` wants to be told when the broker ends one (the verb ``ended``). None: it runs any
            allowed path (a plain job manager).
        intervals: task name → seconds between two of its messages, of the tasks that this worker limits
            (Celery's rate_limit): the broker gives it no more than that.
        shares: task name → what its messages share over all workers, of the tasks that have such limits;
            None: this worker doesn't say.
        control: the namespace of Celery's remote control whose commands it runs (control_exchange); empty:
            none.
        pid, hostname: of its parent process; for people.
        consumer: it is no worker that runs jobs but a consumer of kombu's: all that it is given counts as
            acknowledged late, and without queues it listens on none.
    """

    slots: int
    held: tuple[tuple[str, int, bool], ...] = ()
    tasks: Mapping[str, str] | None = None
    intervals: Mapping[str, float] = field(default_factory=dict)
    shares: Mapping[str, Shares] | None = None
    control: str = ""
    pid: int = 0
    hostname: str = ""
    consumer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Inform:
    """A worker or scheduler announces itself; ``queues`` are (weight, name); empty: the default queue."""

    msgid: str
    queues: tuple[tuple[int, str], ...] = ()
    role: str = WORKER
    capabilities: Capabilities | None = None


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """Acknowledges messages by their msgid. Stock peers only ever get one at a time.

    One that has come has a list: of tuples of twenty Python 3.11 and 3.12 keep the room of 2,000 that went.
    """

    msgid: str
    acked: Sequence[str]


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A worker can take ``count`` more messages (stock: always one)."""

    msgid: str
    count: int = 1


class _RequestFields:
    """The slots of Request, still writable: filling them and then assigning the class costs a third."""

    __slots__ = ("header_text", "headers", "msgid", "payload", "queue")


@quickly_made
@slots_of_base
@dataclass(frozen=True, kw_only=True)
class Request(_RequestFields):
    """A job. From a client its msgid names the publish; to a worker the headers carry the attempt.

    ``header_text`` is the headers' frame as it was received (empty when the command was made here): UTF-8 and
    within the limits, but with whatever the peer wrote in it. It is not part of the command's value.
    """

    __slots__ = ()

    msgid: str
    queue: str
    headers: Headers
    payload: bytes
    header_text: bytes = field(default=b"", compare=False, repr=False)

    @staticmethod
    def make(msgid: str, queue: str, headers: Headers, payload: bytes, header_text: bytes = b"") -> Request:
        """Return Request(…), made three times as fast, for code that makes one for each message."""
        made: Any = _RequestFields()
        made.msgid = msgid
        made.queue = queue
        made.headers = headers
        made.payload = payload
        made.header_text = header_text
        made.__class__ = Request
        return made  # type: ignore[no-any-return]


class _ReplyFields:
    """The slots of Reply, still writable; as _RequestFields."""

    __slots__ = ("body", "follow_ups", "headers", "msgid", "request_msgid")


@quickly_made
@slots_of_base
@dataclass(frozen=True, kw_only=True)
class Reply(_ReplyFields):
    """The answer to the request ``request_msgid``.

    ``headers`` is None from and to stock peers. ``request_msgid`` stands in the frame of the reply's JSON
    when a stock router tells a client that it dispatched (one frame only): then ``body`` is empty.
    """

    __slots__ = ()

    msgid: str
    body: bytes
    request_msgid: str
    headers: ReplyHeaders | None = None
    follow_ups: tuple[Publish, ...] = ()

    @staticmethod
    def make(
        msgid: str,
        body: bytes,
        request_msgid: str,
        headers: ReplyHeaders | None = None,
        follow_ups: tuple[Publish, ...] = (),
    ) -> Reply:
        """Return Reply(…), made three times as fast, for code that makes one for each message."""
        made: Any = _ReplyFields()
        made.msgid = msgid
        made.body = body
        made.request_msgid = request_msgid
        made.headers = headers
        made.follow_ups = follow_ups
        made.__class__ = Reply
        return made  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """Ours, worker → broker: a state that isn't final (STARTED, PROGRESS …) of a hand-out."""

    msgid: str
    body: bytes
    request_msgid: str
    headers: ReplyHeaders


@dataclass(frozen=True, slots=True, kw_only=True)
class Nack:
    """Ours, worker → broker: these hand-outs (msgid, attempt) never began; give them to another worker."""

    msgid: str
    returned: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """A sign of life. Ours add the msgids that they hold and have not begun.

    They are no tuple for the same reason as Ack's.
    """

    msgid: str
    timestamp: float
    not_begun: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A client asks that a job be published every ``interval_s`` seconds, or at the times of ``cron``."""

    msgid: str
    queue: str
    headers: str
    interval_s: int
    payload: bytes
    cron: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unschedule:
    """A client ends a schedule; the same frames as Schedule."""

    msgid: str
    queue: str
    headers: str
    interval_s: int
    payload: bytes
    cron: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishTopic:
    """PUBLISH: a message for the subscribers of a topic."""

    msgid: str
    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect:
    """The peer is asked to leave."""

    msgid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kbye:
    """The peer leaves. Written KBAI in the protocol's text, KBYE in running code: read both, send KBYE."""

    msgid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Ours, client ↔ broker: who are you? ``about`` is a JSON object (version, broker …)."""

    msgid: str
    about: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Ours, client → broker and broker → worker: do or tell something; answered by one Answer."""

    msgid: str
    verb: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Ours: the answer to the Ask ``asked``: JSON, ``{"ok": …}`` or ``{"error": {"type", "message"}}``.

    ``body`` may hold further JSON documents: it is passed on undecoded.
    """

    msgid: str
    body: bytes
    asked: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """Stock, ``emq-cli`` → administration: tell something. ``what`` is the command's word (one of SHOWN)."""

    msgid: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Stock, administration → ``emq-cli``: the answer to Show, a JSON object: a REPLY of that one frame."""

    msgid: str
    body: bytes


Command: TypeAlias = (
    Inform
    | Ack
    | Ready
    | Request
    | Reply
    | Update
    | Nack
    | Heartbeat
    | Schedule
    | Unschedule
    | PublishTopic
    | Disconnect
    | Kbye
    | Hello
    | Ask
    | Answer
    | Show
    | Shown
)
