"""The contract of a tap: how messages come from one kind of broker, and how it is told what became of them.

A tap lives as long as one connection and is used by the upstream's thread only. What a method raises that is
one of the connection's errors ends it; the upstream then makes another one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from emq_compat.celery_message import CeleryMessage
from emq_compat.frozen import quickly_made
from emq_compat.upstream.kombu_control import ControlSettings

if TYPE_CHECKING:
    from kombu.asynchronous.hub import Hub
    from kombu.connection import Connection

__all__ = ["ETA_LIMIT", "Arrival", "KombuSettings", "Saying", "Tap"]

#: (method of Tap, tag, further arguments): what is to be said of a tag.
Saying: TypeAlias = tuple[str, Any, dict[str, Any]]

#: So many messages with an eta are held at most, unless worker_eta_task_limit says another number.
ETA_LIMIT: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class KombuSettings:
    """What an upstream is told of its broker and of the app's settings (times in seconds).

    Attributes:
        url: kombu's; several of the same broker are joined by semicolons (broker_url).
        queue: returns the kombu Queue of a name, as settings declare it.
        acks_late: whether messages of the task of this name are acknowledged when they have ended.
        transport_options, ssl, login_method, heartbeat_s, connect_s, failover: broker_transport_options,
            broker_use_ssl, broker_login_method, broker_heartbeat, broker_connection_timeout,
            broker_failover_strategy.
        eta_limit: so many messages with an eta are held (worker_eta_task_limit).
        quorum: one of the app's queues is a quorum queue (worker_detect_quorum_queues).
        delayed_queue_type: broker_native_delayed_delivery_queue_type.
        accept: accept_content, for messages that must be made of packed ones.
        dead_after_s: on Redis, what a worker held that was silent for so long is taken up by others.
        max_losses: how often a message may go back after its run was lost in this worker; 0: no limit.
        ahead: on RabbitMQ, how many messages a worker without a free slot holds for each of its slots
            (kombu_ahead.py).
        control: of remote control and events; None: neither.
    """

    url: str
    queue: Callable[[str], Any]
    acks_late: Callable[[str], bool]
    transport_options: Mapping[str, Any] = field(default_factory=dict)
    ssl: Any = False
    login_method: str | None = None
    heartbeat_s: float = 120.0
    connect_s: float = 4.0
    failover: Any = None
    eta_limit: int = ETA_LIMIT
    quorum: bool = False
    delayed_queue_type: str = "quorum"
    accept: tuple[str, ...] = ("json",)
    dead_after_s: float = 10.0
    max_losses: int = 5
    ahead: int = 0
    control: ControlSettings | None = None


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A message as a tap gives it on.

    Attributes:
        tag: what the tap is told of it by.
        identity: is the same whenever this message is delivered, and no other's; empty: the broker has no
            such thing.
        redelivered: the broker says that it was delivered before.
    """

    message: CeleryMessage
    queue: str
    tag: Any
    identity: str = ""
    redelivered: bool = False


class Tap(ABC):
    """One connection's messages.

    Args:
        connection: connected.
        hub: the thread's loop.
        settings: of the upstream.
        name: of the worker, with what makes it unique.
        take: is given each message.
        declare: declares a queue on a channel and returns the channel to go on with.
    """

    #: A tag is good for as long as this process lives, whatever becomes of the connection.
    survives = False
    #: What expires in a queue is lost without a word, and taking more than can begin costs a message nothing.
    reads_ahead = False

    def __init__(
        self,
        connection: Connection,
        hub: Hub,
        settings: KombuSettings,
        name: str,
        take: Callable[[Arrival], None],
        declare: Callable[[Any, Any], Any],
    ) -> None:
        self.connection = connection
        self.hub = hub
        self.settings = settings
        self.name = name
        self.take = take
        self.declare = declare
        self._loop: Any = None
        self._attach()

    @abstractmethod
    def _attach(self) -> None:
        """Make what this kind of broker needs of the connection, and watch it in the loop."""

    @abstractmethod
    def open(self, queues: Sequence[Any]) -> None:
        """Declare the queues and listen on them."""

    @abstractmethod
    def listen(self, queues: Sequence[Any]) -> None:
        """Declare these and listen on them instead."""

    @abstractmethod
    def want(self, credit: int, held: int) -> None:
        """Ask for ``credit`` further messages, beside ``held`` ones that are not acknowledged.

        Some are taken at once.
        """

    def is_wanted_elsewhere(self, queues: Collection[str]) -> bool:
        """Return whether others listen on one of these queues and find nothing in it."""
        return False

    def step(self) -> None:
        """Wait until something is to be done (a second at most), and take what has come."""
        if self._loop is None:
            self._loop = self.hub.create_loop()
        try:
            next(self._loop)
        except StopIteration:
            self._loop = None

    @abstractmethod
    def ack(self, tag: Any) -> None:
        """Acknowledge a message; ``flush`` has it said."""

    @abstractmethod
    def reject(self, tag: Any) -> None:
        """Drop a message to where the broker keeps dead letters."""

    @abstractmethod
    def give_back(self, tag: Any, *, began: bool) -> None:
        """Put a message back into its queue: in front; behind the others where it ``began``."""

    def flush(self) -> None:  # noqa: B027 - some need none
        """Say what was acknowledged."""

    def beat(self) -> None:  # noqa: B027 - some need none
        """Say that this worker lives, when it is time; called in every turn."""

    def keep(self, tags: Sequence[Any]) -> None:  # noqa: B027 - some need none
        """Note that these messages, of an earlier connection, are still held."""

    def unsaid(self) -> list[Saying]:
        """Return what ``flush`` has not said: where tags survive, the next tap says it."""
        return []

    @abstractmethod
    def cancel(self) -> None:
        """Listen no more; what has come can still be acknowledged."""

    def close(self) -> None:  # noqa: B027 - some need none
        """Say goodbye: everything is acknowledged or given back."""
