"""Topics: what workers and clients PUBLISH, passed on to the clients that have asked for it. Kept nowhere.

A topic and the exchange of the same name are one: what is published under `celeryev.task.sent` also goes to
the queues that are bound to the exchange `celeryev`, and what comes by that exchange is announced here.

A client that doesn't read must not fill the broker: a subscription is for so many messages and bytes, and for
so long. Whoever goes on reading asks again in time; past that, what comes for it is dropped and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from emq_compat.broker.desk import Desk
from emq_compat.broker.records import Moment
from emq_compat.kombu_message import json_body
from emq_compat.message import new_id
from emq_compat.protocol.commands import PublishTopic

__all__ = ["ALLOWED_BYTES", "ALLOWED_MESSAGES", "SUBSCRIBED_S", "Topics"]

#: What a client is sent until it asks again; one message is sent whatever its size.
ALLOWED_MESSAGES = 1_000
ALLOWED_BYTES = 8 << 20
#: A subscription that isn't asked for again is forgotten after so long.
SUBSCRIBED_S = 150.0


class _Subscriber:
    __slots__ = ("bytes_left", "dropped", "messages_left", "prefixes", "until")

    def __init__(self) -> None:
        self.prefixes: tuple[str, ...] = ()
        self.messages_left = 0
        self.bytes_left = 0
        self.dropped = 0
        self.until = 0.0


class Topics:
    """Who has asked for which topics, and what was published in this turn."""

    def __init__(self, desk: Desk) -> None:
        self._counters = desk.counters
        self._subscribers: dict[bytes, _Subscriber] = {}
        self._published: list[tuple[PublishTopic, list[bytes]]] = []
        #: Somebody else than the subscribers is told, too (the PUB socket).
        self.told_outside = False
        #: Gives a topic's message to the queues bound to the exchange of that name.
        self.to_exchanges: Callable[[str, bytes, Moment], None] | None = None

    @property
    def subscribers(self) -> int:
        """How many clients have asked."""
        return len(self._subscribers)

    def subscribe(self, client: bytes, prefixes: Sequence[str], now: Moment) -> int:
        """Pass on what has a topic that begins so; returns how many messages this client has missed.

        Replaces what it asked for before. An empty prefix: everything.
        """
        subscriber = self._subscribers.get(client)
        if subscriber is None:
            subscriber = self._subscribers[client] = _Subscriber()
        subscriber.prefixes = tuple(prefixes)
        subscriber.messages_left = ALLOWED_MESSAGES
        subscriber.bytes_left = ALLOWED_BYTES
        subscriber.until = now.mono + SUBSCRIBED_S
        return subscriber.dropped

    def forget(self, client: bytes) -> bool:
        """Tell a client nothing more; False: it had not asked."""
        return self._subscribers.pop(client, None) is not None

    def asked_for(self, beginning: str) -> list[str]:
        """Return what the topics that clients have asked for go on with behind this beginning, each once."""
        found = {
            prefix.removeprefix(beginning): None
            for subscriber in self._subscribers.values()
            for prefix in subscriber.prefixes
            if prefix.startswith(beginning)
        }
        return [rest for rest in found if rest]

    def publish(self, command: PublishTopic, now: Moment) -> None:
        """Take a message; who gets it is told by ``take``."""
        if self.to_exchanges is not None:
            self.to_exchanges(command.topic, command.payload, now)
        self._announce(command)

    def came_by_exchange(self, topic: str, payload: bytes) -> None:
        """Announce a message of kombu's whose body is JSON, if anybody is to hear of it."""
        if not self.told_outside and not any(
            topic.startswith(s.prefixes) for s in self._subscribers.values()
        ):
            return
        body = json_body(payload)
        if body is not None:
            self._announce(PublishTopic(msgid=new_id(), topic=topic, payload=body))

    def _announce(self, command: PublishTopic) -> None:
        counters = self._counters
        counters["topics"] += 1
        clients: list[bytes] = []
        for client, subscriber in self._subscribers.items():
            if not command.topic.startswith(subscriber.prefixes):
                continue
            if subscriber.messages_left <= 0 or subscriber.bytes_left <= 0:
                subscriber.dropped += 1
                counters["topics_dropped"] += 1
                continue
            subscriber.messages_left -= 1
            subscriber.bytes_left -= len(command.payload)
            clients.append(client)
        if clients or self.told_outside:
            self._published.append((command, clients))

    def take(self) -> list[tuple[PublishTopic, list[bytes]]]:
        """Return what was published since the last call, and to whom each goes."""
        taken, self._published = self._published, []
        return taken

    def expire(self, now: Moment) -> None:
        """Forget the clients that have not asked again."""
        for client in [c for c, s in self._subscribers.items() if s.until <= now.mono]:
            del self._subscribers[client]
