"""Remote control and events on a kombu broker: a node of its pidbox, as Celery's workers are.

Everything here is called in the thread of the upstream's connection. Commands leave as ``Asked``; what they
were answered with is published by ``answer``, and a worker's events by ``announce``.
"""

from __future__ import annotations

import functools
import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, Final

from emq_compat.errors import MessageError
from emq_compat.ids import new_id
from emq_compat.pidbox import COMMAND, Command, answered, asked_in
from emq_compat.upstream.base import Asked
from emq_compat.upstream.kombu_election import DECIDED_S, Elections

if TYPE_CHECKING:
    from kombu.connection import Connection
    from kombu.pidbox import Mailbox

__all__ = ["ControlNode", "ControlSettings", "event_exchange"]

logger = logging.getLogger(__name__)

#: A node whose queue another connection has, or that its broker refused, is tried again after so long.
_AGAIN_S: Final = 5.0
#: So long the neighbours may take to say what they know to be revoked.
_MINGLE_S: Final = 5.0
#: A candidate is heard of within so long, or not at all; an unused queue for them is forgotten after so long.
_CANDIDATE_S: Final = 5.0
_UNUSED_S: Final = 60.0
_BROADCASTING: Final = ("redis", "gcpubsub")


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSettings:
    """Celery's settings control_exchange, control_queue_…, event_exchange, accept_content (times in seconds).

    Attributes:
        mingles: ask the neighbours, whenever there is a connection, what is revoked.
        enabled: listen to commands at all (worker_enable_remote_control).
    """

    namespace: str = "celery"
    queue_ttl_s: float | None = 300.0
    queue_expires_s: float | None = 10.0
    exclusive: bool = True
    durable: bool = False
    accept: tuple[str, ...] = ("json",)
    serializer: str = "json"
    event_exchange: str = "celeryev"
    mingles: bool = True
    enabled: bool = True

    def mailbox(self) -> Mailbox:
        """Return kombu's mailbox of these settings."""
        from kombu.pidbox import Mailbox  # noqa: PLC0415 - heavy

        kind = {"queue_exclusive": self.exclusive, "queue_durable": self.durable}
        if not kind.keys() <= signature(Mailbox).parameters.keys():
            kind = {}  # before kombu 5.6 there is one kind, and no settings
        return Mailbox(
            self.namespace,
            type="fanout",
            accept=list(self.accept),
            serializer=self.serializer,
            queue_ttl=self.queue_ttl_s,
            queue_expires=self.queue_expires_s,
            reply_queue_ttl=self.queue_ttl_s,
            reply_queue_expires=self.queue_expires_s,
            **kind,
        )


def event_exchange(connection: Connection, name: str) -> Any:
    """Return the exchange of events: Redis has no topics in its broadcasts, Celery uses a fanout there."""
    from kombu.entity import Exchange  # noqa: PLC0415 - heavy

    broadcasts = connection.transport.driver_type in _BROADCASTING
    return Exchange(name, type="fanout" if broadcasts else "topic")


class ControlNode:
    """One worker's node, and what its events leave by.

    Args:
        node: the worker's node name.
        settings: of the app.
        asked: is given each command that is for this node.
    """

    def __init__(self, node: str, settings: ControlSettings, asked: Callable[[Asked], None]) -> None:
        self._node = node
        self._settings = settings
        self._asked = asked
        #: id of an Asked → the command, where an answer is wanted.
        self._open: dict[str, Command] = {}
        self._connection: Any = None
        self._call_later: Callable[[float, Callable[[], object]], Any] = lambda after_s, function: None
        self._mailbox: Any = None
        self._consumer: Any = None
        self._neighbours: Any = None
        self._replies: Any = None
        self._events: Any = None
        self._told_refused = False
        self._elections = Elections(node, self._send, self._pass_on)
        self._candidates: Any = None

    def start(
        self, connection: Connection, call_later: Callable[[float, Callable[[], object]], Any]
    ) -> None:
        """Take up a connection: listen to commands, ask the neighbours.

        Args:
            connection: is connected; channels of its own are opened.
            call_later: has a function called after so many seconds (kombu's ``hub.call_later``).

        Raises:
            one of ``connection.connection_errors``: it is lost.
        """
        from kombu.messaging import Producer  # noqa: PLC0415 - heavy

        self.stop()
        self._connection, self._call_later = connection, call_later
        settings = self._settings
        exchange = event_exchange(connection, settings.event_exchange)
        self._events = Producer(connection.channel(), exchange=exchange, auto_declare=False)
        if settings.enabled:
            self._hear_of_candidates(connection, exchange)
            self._listen(connection)

    def _listen(self, connection: Connection) -> None:
        if connection is not self._connection:
            return  # there is another one meanwhile, or none
        from kombu.messaging import Producer  # noqa: PLC0415 - heavy

        mailbox = self._settings.mailbox()(connection)
        node = mailbox.Node(self._node)
        channel = connection.channel()
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                node.channel = channel
                consumer = node.listen(callback=self._take)
                consumer.on_decode_error = self._undecodable
                replies = Producer(channel, auto_declare=False, serializer=self._settings.serializer)
                if self._settings.mingles:
                    self._mingle(mailbox, replies)
        except connection.channel_errors as exc:
            level = logging.DEBUG if self._told_refused else logging.WARNING
            logger.log(level, "%s can't be controlled by this broker yet: %s", self._node, exc)
            self._told_refused = True
            self._call_later(_AGAIN_S, lambda: self._listen(connection))
            return
        for warning in told:
            logger.warning("%s", " ".join(str(warning.message).split()))
        self._told_refused = False
        self._mailbox, self._consumer, self._replies = mailbox, consumer, replies

    def _undecodable(self, message: Any, exc: Exception) -> None:
        logger.error("a command of remote control can't be read: %s", exc)

    def _take(self, body: Any, message: Any) -> None:
        try:
            command = asked_in(body)
            if not command.concerns(self._node):
                return
        except MessageError as exc:
            logger.error("a command of remote control is passed over: %s", exc)
            return
        if command.method == "election":
            self._elections.stand(command)
        else:
            self._pass_on(command)

    def _pass_on(self, command: Command) -> None:
        asked = new_id()
        if command.wants_reply:
            self._open[asked] = command
        arguments = {"method": command.method, "arguments": dict(command.arguments)}
        self._asked(Asked(asked=asked, verb=COMMAND, arguments=arguments))

    # Elections

    def _hear_of_candidates(self, connection: Connection, exchange: Any) -> None:
        from kombu.entity import Queue  # noqa: PLC0415 - heavy
        from kombu.messaging import Consumer  # noqa: PLC0415 - heavy

        name = f"{self._settings.event_exchange}.{new_id()}"
        queue = Queue(
            name, exchange=exchange, routing_key="worker.elect", auto_delete=True, durable=False,
            message_ttl=_CANDIDATE_S, expires=_UNUSED_S,
        )  # fmt: skip
        self._candidates = Consumer(
            connection.channel(), [queue], no_ack=True, accept=["json"],
            callbacks=[self._hear_of_candidate], on_decode_error=self._undecodable,
        )  # fmt: skip
        self._candidates.consume()

    def _hear_of_candidate(self, body: Any, message: Any) -> None:
        for event in body if isinstance(body, list) else [body]:
            if isinstance(event, dict) and (election := self._elections.heard(event)):
                self._call_later(DECIDED_S, functools.partial(self._elections.decide, election))

    def _send(self, event: dict[str, Any]) -> None:
        topic = f"{self._settings.event_exchange}.{event['type'].replace('-', '.')}"
        self.announce(topic, json.dumps(event).encode())

    # What neighbours know to be revoked: there is no other memory of it.

    def _mingle(self, mailbox: Any, producer: Any) -> None:
        from kombu.messaging import Consumer  # noqa: PLC0415 - heavy

        queue = mailbox.reply_queue
        consumer = Consumer(
            mailbox.connection.channel(), [queue], no_ack=True, accept=mailbox.accept,
            callbacks=[self._mingled], on_decode_error=self._undecodable,
        )  # fmt: skip
        consumer.consume()
        body = {
            "method": "hello",
            "arguments": {"from_node": self._node, "revoked": []},
            "destination": None,
            "pattern": None,
            "matcher": None,
            "ticket": new_id(),
            "reply_to": {"exchange": mailbox.reply_exchange.name, "routing_key": mailbox.oid},
        }
        producer.publish(body, exchange=mailbox.exchange.name, declare=[mailbox.exchange])
        self._neighbours = consumer
        self._call_later(_MINGLE_S, lambda: self._end_mingling(consumer))

    def _mingled(self, body: Any, message: Any) -> None:
        for node, told in body.items() if isinstance(body, dict) else ():
            revoked = told.get("revoked") if isinstance(told, dict) else None
            if node != self._node and isinstance(revoked, (list, tuple)) and revoked:
                given = {"from_node": str(node), "revoked": list(revoked)}
                self._pass_on(Command(method="hello", arguments=given))

    def _end_mingling(self, consumer: Any) -> None:
        if self._neighbours is consumer:
            self._neighbours = None
            consumer.cancel()
            consumer.channel.close()

    # What the worker says.

    def answer(self, asked: str, body: bytes) -> None:
        """Publish the answer to an Asked, where one is wanted.

        Raises:
            one of the connection's errors: it is lost.
        """
        command = self._open.pop(asked, None)
        if command is None or self._replies is None:
            return
        from kombu.entity import Exchange  # noqa: PLC0415 - heavy
        from kombu.exceptions import InconsistencyError  # noqa: PLC0415 - heavy

        exchange = Exchange(
            command.reply_exchange, type="direct", delivery_mode="transient", durable=False
        )
        try:
            self._replies.publish(
                answered(self._node, body),
                exchange=exchange,
                routing_key=command.reply_key,
                declare=[exchange] if command.reply_exchange else [],
                headers={"ticket": command.ticket, "clock": self._mailbox.clock.forward()},
            )
        except InconsistencyError:
            pass  # the asker waits no more

    def announce(self, topic: str, payload: bytes) -> None:
        """Publish what is announced under a topic of events, ``celeryev.task.sent``; others mean nothing.

        Raises:
            one of the connection's errors: it is lost.
        """
        exchange = self._settings.event_exchange
        if self._events is None or not topic.startswith(f"{exchange}."):
            return
        self._events.publish(
            payload,
            routing_key=topic[len(exchange) + 1 :],
            declare=[self._events.exchange],
            content_type="application/json",
            content_encoding="utf-8",
            headers={"hostname": self._node},
            delivery_mode=1,
        )

    def stop(self) -> None:
        """Give the connection up; it may be lost already."""
        connection, self._connection = self._connection, None
        consumers = (self._consumer, self._neighbours, self._candidates)
        self._consumer = self._neighbours = self._candidates = None
        self._replies = self._events = self._mailbox = None
        self._open.clear()
        if connection is None:
            return
        for consumer in consumers:
            if consumer is not None:
                try:
                    consumer.cancel()
                except Exception as exc:  # noqa: BLE001 - whatever a transport makes of a lost connection
                    logger.debug("a consumer of remote control can't be cancelled: %s", exc)
