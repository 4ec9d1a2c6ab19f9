"""Events on a kombu broker: what they are sent by, and what they come by, on Celery's exchange for them."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any

from emq_compat.errors import OperationalError
from emq_compat.message import new_id
from emq_compat.protocol.commands import PublishTopic
from emq_compat.upstream.kombu_control import event_exchange

if TYPE_CHECKING:
    from kombu.connection import Connection

__all__ = ["KombuSpeaker", "KombuSubscription"]

logger = logging.getLogger(__name__)

_JSON = "application/json"


class KombuSpeaker:
    """What events leave by: a connection, opened with the first event and again after it was lost.

    Args:
        exchange: of events (event_exchange).
        connect: opens a block in which there is a connection.
    """

    def __init__(self, exchange: str, connect: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._exchange = exchange
        self._connect = connect
        self._open = ExitStack()
        self._connection: Any = None
        self._producer: Any = None

    def announce(self, topic: str, payload: bytes) -> None:
        """Publish JSON under a topic, the exchange's name and a routing key.

        Raises:
            OperationalError: kombu's, or ours: there is no broker.
        """
        from kombu.messaging import Producer  # noqa: PLC0415 - heavy

        if self._producer is None:
            connection = self._open.enter_context(self._connect())
            exchange = event_exchange(connection, self._exchange)
            self._producer = Producer(connection.default_channel, exchange=exchange, auto_declare=False)
            self._connection = connection
        connection = self._connection
        try:
            self._producer.publish(
                payload,
                routing_key=topic.removeprefix(f"{self._exchange}."),
                declare=[self._producer.exchange],
                content_type=_JSON,
                content_encoding="utf-8",
                delivery_mode=1,
            )
        except (*connection.connection_errors, *connection.channel_errors) as exc:
            connection.collect(socket_timeout=0.1)
            self.close()
            raise OperationalError(f"events can't be sent: {exc}") from exc

    def close(self) -> None:
        """Give the connection back; the next event opens one."""
        self._producer = self._connection = None
        self._open.close()


class KombuSubscription:
    """Takes in what is published to the exchange of events; for one thread. See subscription.Subscription.

    Args:
        queue: makes the queue, given the exchange (kombu's Queue).
        accept: content types, or serializers, that are read.
    """

    def __init__(
        self,
        exchange: str,
        queue: Callable[[Any], Any],
        accept: Collection[str],
        connect: Callable[[], AbstractContextManager[Connection]],
    ) -> None:
        self.missed = 0
        self.opened = 0
        self._exchange = exchange
        self._queue = queue
        self._accept = list(accept)
        self._connect = connect
        self._open = ExitStack()
        self._connection: Any = None
        self._waiting: deque[PublishTopic] = deque()

    @property
    def connected(self) -> bool:
        """Whether a broker has the queue, as far as is known."""
        return self._connection is not None

    def open(self, timeout_s: float | None = None) -> None:
        """Connect and declare the queue, unless that is done.

        Raises:
            OperationalError: no broker answers, or it refuses the queue.
        """
        if self._connection is not None:
            return
        from kombu.exceptions import OperationalError as KombuError  # noqa: PLC0415 - heavy
        from kombu.messaging import Consumer  # noqa: PLC0415 - heavy

        connection: Any = None
        try:
            connection = self._open.enter_context(self._connect())
            queue = self._queue(event_exchange(connection, self._exchange))
            consumer = Consumer(
                connection.channel(),
                [queue],
                on_message=self._take,
                no_ack=True,
                accept=self._accept,
            )
            consumer.consume()
        except KombuError as exc:
            self.close()
            raise OperationalError(str(exc)) from exc
        except Exception as exc:
            self.close()
            if connection is not None and isinstance(
                exc, (*connection.connection_errors, *connection.channel_errors)
            ):
                raise OperationalError(f"the broker took no queue of events: {exc}") from exc
            raise
        self._connection = connection
        self.opened += 1

    def _take(self, message: Any) -> None:
        topic = f"{self._exchange}.{message.delivery_info.get('routing_key') or ''}"
        payload = message.body
        if message.content_type != _JSON or message.headers.get("compression"):
            try:
                payload = json.dumps(message.decode())
            except Exception as exc:  # noqa: BLE001 - whatever a serializer raises, or refuses
                logger.warning("dropped what came under the topic %s: %s", topic, exc)
                return
        if isinstance(payload, str):
            payload = payload.encode()
        self._waiting.append(PublishTopic(msgid=new_id(), topic=topic, payload=bytes(payload)))

    def take(self, deadline: float) -> PublishTopic | None:
        """Return the next message; None: not until ``deadline`` (monotonic), or the connection was lost.

        Raises:
            OperationalError: there is no broker; the next call tries again.
        """
        if self._connection is None:
            self.open()
        while not self._waiting:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return None
            try:
                self._connection.drain_events(timeout=left_s)
            except TimeoutError:
                return None
            except self._connection.connection_errors as exc:
                logger.warning("the connection to the broker was cut, events may be missed: %s", exc)
                self._connection.collect(socket_timeout=0.1)
                self._drop()
                return None
        return self._waiting.popleft()

    def _drop(self) -> None:
        self._connection = None
        self._open.close()

    def close(self) -> None:
        """End it; a later ``take`` begins anew."""
        self._waiting.clear()
        self._drop()
