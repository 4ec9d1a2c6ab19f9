"""What follows from tasks, published over a connection of its own, each message confirmed."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from emq_compat.celery_message import message_of
from emq_compat.errors import MessageError
from emq_compat.message import Publish
from emq_compat.upstream.kombu_address import address_of
from emq_compat.upstream.kombu_tap import KombuSettings

if TYPE_CHECKING:
    from emq_compat.upstream.kombu_connection import Broker

__all__ = ["Publisher"]

logger = logging.getLogger("emq_compat.upstream.kombu")

#: A broker that doesn't confirm within so long is taken to be gone.
CONFIRM_S: Final = 5.0


class Publisher:
    """Publishes as Celery does; connects when there is something to publish.

    Memory and alarms of RabbitMQ's stop connections that publish: acknowledgements go by another one.
    """

    def __init__(self, broker: Broker, settings: KombuSettings) -> None:
        self._broker = broker
        self._settings = settings
        self._connection: Any = None
        self._producer: Any = None
        self._declared: set[str] = set()
        #: Something was published over this connection.
        self._used = False
        #: Which of the messages that ``publish`` was last called with the broker has.
        self._confirmed: set[str] = set()

    def publish(self, messages: Sequence[Publish]) -> None:
        """Publish messages; returns when the broker has them all.

        Raises:
            one of the connection's errors: called again with the same messages, it goes on where it was.
        """
        for message in messages:
            if message.msgid in self._confirmed:
                continue
            try:
                celery = message_of(message.headers, message.payload, accept=self._settings.accept)
            except MessageError as exc:
                logger.error("a message for %s can't be published: %s", message.queue, exc)
                continue
            try:
                self._send(message, celery)
            except Exception as exc:
                if not self._used:
                    raise
                logger.debug("the publishing connection was lost: %r", exc)
                self.close()  # it may have been idle for long: a new one tells
                self._send(message, celery)
            self._used = True
            self._confirmed.add(message.msgid)
        self._confirmed.clear()

    def _send(self, message: Publish, celery: Any) -> None:
        producer = self._producer or self._connect()
        queue = self._settings.queue(message.queue)
        if message.queue not in self._declared:
            self._broker.declare(producer.channel, queue)
            self._declared.add(message.queue)
        exchange, key = self._broker.delayed(queue, message.headers.eta - time.time())
        if not exchange:
            exchange, key = address_of(queue, message.headers)
        properties = dict(celery.properties)
        for name in ("delivery_info", "delivery_tag", "body_encoding"):
            properties.pop(name, None)
        properties.setdefault("delivery_mode", 2)
        priority = properties.pop("priority", None)
        confirm = {"confirm_timeout": CONFIRM_S} if self._broker.confirms else {}
        producer.publish(
            celery.body,
            exchange=exchange,
            routing_key=key,
            content_type=celery.content_type,
            content_encoding=celery.content_encoding,
            headers=dict(celery.headers),
            priority=priority,
            retry=False,
            **confirm,
            **properties,
        )

    def _connect(self) -> Any:
        from kombu.messaging import Producer  # noqa: PLC0415 - heavy

        self._connection = self._broker.connection(confirm=True)
        self._connection.connect()
        self._producer = Producer(self._connection.channel(), auto_declare=False)
        return self._producer

    def close(self) -> None:
        """Close the connection, if there is one; it may be lost."""
        connection, self._connection, self._producer = self._connection, None, None
        self._declared.clear()
        self._used = False
        if connection is not None:
            try:
                connection.collect()
            except Exception as exc:  # noqa: BLE001 - whatever a transport makes of a lost connection
                logger.debug("the publishing connection can't be closed: %r", exc)
