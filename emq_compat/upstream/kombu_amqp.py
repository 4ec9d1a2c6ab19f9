"""RabbitMQ: prefetch follows the credit, what is acknowledged in a row is acknowledged at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

from amqp.exceptions import RecoverableConnectionError

from emq_compat.celery_message import CeleryMessage
from emq_compat.upstream.kombu_tap import Arrival, Tap

if TYPE_CHECKING:
    from kombu.connection import Connection

__all__ = ["TAP", "prepare"]

logger = logging.getLogger("emq_compat.upstream.kombu")

#: Without credit for so long the queues are left, so that others get what they hold.
_LEAVE_S: Final = 1.0
#: What the prefetch may be larger than what is wanted, for so long.
_LOWER_S: Final = 0.25
#: With a prefetch of each consumer: so often at most it is changed, as that takes new consumers.
_RENEW_S: Final = 0.25
_PREFETCH_MAX: Final = 65_535
#: Frames read in one turn.
_FRAMES: Final = 768

_PROPERTIES: Final = (
    "correlation_id", "reply_to", "priority", "delivery_mode", "expiration", "message_id",
    "type", "app_id", "user_id", "timestamp",
)  # fmt: skip


def prepare(connection: Connection) -> None:
    """Do nothing: kombu's channels are used as they are."""


class AmqpTap(Tap):
    """Consumers on one channel."""

    def _attach(self) -> None:
        self._channel: Any = None
        self._queues: tuple[Any, ...] = ()
        self._names: tuple[str, ...] = ()
        self._consumers: list[str] = []
        self._listening = False
        self._cancelled_by_broker = ""
        self._global = False
        self._prefetch = 0
        self._prefetch_at = 0.0
        self._idle_since: float | None = None
        #: Delivery tags that are not settled, in order; and those of them that may be acknowledged.
        self._open: dict[int, None] = {}
        self._acked: set[int] = set()
        amqp = self.connection.connection
        self._amqp: Any = amqp
        amqp.transport.raise_on_initial_eintr = True
        self.hub.add_reader(amqp.sock, self._read)
        heartbeat = self.connection.get_heartbeat_interval()
        if heartbeat:
            self.hub.call_repeatedly(heartbeat / 2.0, self._beat_amqp)

    def open(self, queues: Sequence[Any]) -> None:
        self._queues = tuple(queues)
        first = channel = self.connection.channel()
        for queue in queues:
            channel = self.declare(channel, queue)
        self._channel = channel
        self.reads_ahead = channel is first and all(map(_costs_nothing, queues))
        channel.auto_decode = False
        if self.settings.quorum:
            self._bind_delayed(queues)
        self._global = not self.settings.quorum and not self.connection.qos_semantics_matches_spec

    def _bind_delayed(self, queues: Sequence[Any]) -> None:
        """Have what Celery's clients publish with an eta reach these queues in time."""
        from kombu.transport.native_delayed_delivery import (  # noqa: PLC0415 - kombu 5.5, where it is wanted
            bind_queue_to_native_delayed_delivery_exchange,
            declare_native_delayed_delivery_exchanges_and_queues,
        )

        declare_native_delayed_delivery_exchanges_and_queues(
            self.connection, self.settings.delayed_queue_type
        )
        for queue in queues:
            bind_queue_to_native_delayed_delivery_exchange(self.connection, queue)

    def listen(self, queues: Sequence[Any]) -> None:
        if self._channel is None:
            self.open(queues)
            return
        self._leave_queues()
        self._queues = tuple(queues)
        for queue in queues:
            channel = self.declare(self._channel, queue)
            if channel is not self._channel:
                raise RecoverableConnectionError(f"the channel was closed by the declaration of {queue.name}")
        self.reads_ahead = self.reads_ahead and all(map(_costs_nothing, queues))
        self._prefetch = 0

    def _consume(self) -> None:
        channel = self._channel
        for queue in self._queues:
            self._consumers.append(
                channel.basic_consume(
                    queue=queue.name,
                    callback=self._taker(queue.name),
                    on_cancel=self._on_cancel,
                    arguments=queue.consumer_arguments,
                )
            )
        self._listening = True

    def _leave_queues(self) -> None:
        for consumer in self._consumers:
            self._channel.basic_cancel(consumer)
        self._consumers.clear()
        self._listening = False

    def _on_cancel(self, consumer: str) -> None:
        self._cancelled_by_broker = consumer

    def want(self, credit: int, held: int) -> None:
        if self._cancelled_by_broker:
            raise RecoverableConnectionError("a queue was deleted, or moved to another node")
        now = time.monotonic()
        if not credit:
            if self._idle_since is None:
                self._idle_since = now
            elif self._listening and now - self._idle_since > _LEAVE_S:
                self._leave_queues()
        else:
            self._idle_since = None
        prefetch = min(_PREFETCH_MAX, max(1, held + credit))
        if self._global:
            if prefetch > self._prefetch or (prefetch < self._prefetch and now > self._prefetch_at):
                self._channel.basic_qos(0, prefetch, True)
                self._prefetch, self._prefetch_at = prefetch, now + _LOWER_S
        elif credit and (
            prefetch > self._prefetch or (prefetch * 2 < self._prefetch and now > self._prefetch_at)
        ):
            if self._listening and now < self._prefetch_at:
                return
            self._leave_queues()
            self._channel.basic_qos(0, prefetch, False)
            self._prefetch, self._prefetch_at = prefetch, now + _RENEW_S
        if credit and not self._listening:
            self._consume()

    def is_wanted_elsewhere(self, queues: Collection[str]) -> bool:
        own = int(self._listening)
        for name in queues:
            told = self._channel.queue_declare(name, passive=True)
            if not told.message_count and told.consumer_count > own:
                return True
        return False

    def _read(self) -> None:
        """Take what has come: frames until there is none, or so many that acknowledgements have to leave."""
        amqp = self._amqp
        if not amqp.connected:
            raise RecoverableConnectionError("the socket was disconnected")
        for _ in range(_FRAMES):
            try:
                amqp.drain_events(timeout=0)
            except (TimeoutError, BlockingIOError):
                return

    def _beat_amqp(self) -> None:
        self.connection.heartbeat_check(rate=2)

    def _taker(self, queue: str) -> Callable[[Any], None]:
        def taken(message: Any) -> None:
            told, properties = message.delivery_info, message.properties
            tag = told["delivery_tag"]
            self._open[tag] = None
            headers = properties.get("application_headers") or {}
            if "x-delivery-count" in headers:  # a quorum queue, by the virtual host's default
                self.reads_ahead = False
            self.take(
                Arrival(
                    message=CeleryMessage(
                        body=message.body,
                        content_type=properties.get("content_type") or "application/data",
                        content_encoding=properties.get("content_encoding") or "binary",
                        headers=headers,
                        properties={
                            name: properties[name] for name in _PROPERTIES if properties.get(name) is not None
                        },
                    ),
                    queue=queue,
                    tag=tag,
                    redelivered=bool(told.get("redelivered")),
                )
            )

        return taken

    # What became of them.

    def ack(self, tag: Any) -> None:
        self._acked.add(tag)

    def reject(self, tag: Any) -> None:
        if self._open.pop(tag, 0) is None:
            self._channel.basic_reject(tag, False)

    def give_back(self, tag: Any, *, began: bool) -> None:
        if self._open.pop(tag, 0) is None:
            self._channel.basic_reject(tag, True)

    def flush(self) -> None:
        acked, still_open = self._acked, self._open
        if not acked:
            return
        last, row = 0, 0
        for tag in still_open:
            if tag not in acked:
                break
            last = tag
            row += 1
        if row:
            self._channel.basic_ack(last, multiple=True)
            for tag in [tag for tag in acked if tag <= last]:
                acked.remove(tag)
                still_open.pop(tag, None)
        for tag in acked:
            if still_open.pop(tag, 0) is None:
                self._channel.basic_ack(tag)
        acked.clear()

    def cancel(self) -> None:
        if self._listening:
            self._leave_queues()

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()


def _costs_nothing(queue: Any) -> bool:
    """Return whether a message may be taken and put back: nobody counts that, and none is overtaken."""
    arguments = queue.queue_arguments or {}
    return arguments.get("x-queue-type", "classic") == "classic" and "x-max-priority" not in arguments


def delays(queue: Any) -> bool:
    """Return whether a message with an eta for this queue, where one of an app's is a quorum queue, is held
    by the broker.
    """
    return bool(queue.exchange) and queue.exchange.type != "direct"


def delayed(queue: Any, after_s: float) -> tuple[str, str]:
    """Return exchange and routing key by which a message reaches the queue after so many seconds."""
    from kombu.transport.native_delayed_delivery import (  # noqa: PLC0415 - kombu 5.5, where it is wanted
        MAX_LEVEL,
        calculate_routing_key,
        level_name,
    )

    return level_name(MAX_LEVEL), calculate_routing_key(int(after_s), queue.routing_key)


TAP = AmqpTap
