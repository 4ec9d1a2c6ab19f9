"""Brokers that kombu emulates queues on: SQS, a folder, this process's memory …, through kombu's channels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from queue import Empty
from typing import TYPE_CHECKING, Any, Final

from emq_compat.celery_message import CeleryMessage
from emq_compat.upstream.kombu_tap import Arrival, Tap

if TYPE_CHECKING:
    from kombu.connection import Connection

__all__ = ["TAP", "prepare"]

logger = logging.getLogger("emq_compat.upstream.kombu")

#: How long a turn may wait for messages: what is to be said waits, too.
_POLL_S: Final = 0.05
#: Messages taken in one turn.
_BATCH: Final = 64


def prepare(connection: Connection) -> None:
    """Have the transport look often, unless the settings say how often."""
    if (connection.transport_options or {}).get("polling_interval") is None:
        connection.transport.polling_interval = _POLL_S / 2


class PlainTap(Tap):
    """One channel, looked at in turns."""

    def _attach(self) -> None:
        self._channel: Any = self.connection.channel()
        self._queues: tuple[str, ...] = ()
        self._credit = 0
        qos = self._channel.qos
        qos.can_consume = lambda: self._credit > 0
        qos.can_consume_max_estimate = lambda: max(0, self._credit)

    def open(self, queues: Sequence[Any]) -> None:
        self.listen(queues)

    def listen(self, queues: Sequence[Any]) -> None:
        wanted = tuple(queue.name for queue in queues)
        for queue in queues:
            if queue.name not in self._queues:
                self.declare(self._channel, queue)
                self._channel.basic_consume(queue.name, False, self._taker(queue.name), queue.name)
        for name in self._queues:
            if name not in wanted:
                self._channel.basic_cancel(name)
        self._queues = wanted

    def want(self, credit: int, held: int) -> None:
        self._credit = credit

    def step(self) -> None:
        self.hub.fire_timers()
        wait_s = _POLL_S
        for _ in range(_BATCH):
            try:
                self.connection.drain_events(timeout=wait_s)
            except (TimeoutError, Empty):
                return
            wait_s = 0.0
            if self._credit <= 0:
                return

    def _taker(self, queue: str) -> Callable[[Any], None]:
        def taken(message: Any) -> None:
            self._credit -= 1
            body = message.body or b""
            headers, told = message.headers or {}, message.delivery_info or {}
            if not message.errors:
                # kombu has decompressed it; what it couldn't is refused by whoever runs it.
                headers = {name: value for name, value in headers.items() if name != "compression"}
            again = headers.get("redelivered") or told.get("redelivered") or message._raw.get("redelivered")
            tag, identity, came_before = self._tag(message, queue)
            self.take(
                Arrival(
                    message=CeleryMessage(
                        body=body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body,
                        content_type=message.content_type or "application/data",
                        content_encoding=message.content_encoding or "binary",
                        headers=headers,
                        properties={
                            name: value
                            for name, value in (message.properties or {}).items()
                            if name not in ("delivery_info", "delivery_tag", "body_encoding")
                        },
                    ),
                    queue=queue,
                    tag=tag,
                    identity=identity,
                    redelivered=bool(again) or came_before,
                )
            )

        return taken

    def _tag(self, message: Any, queue: str) -> tuple[Any, str, bool]:
        """Return a message's tag, its name (empty: it has none), and whether it came before."""
        return message, "", False

    def ack(self, tag: Any) -> None:
        tag.channel.basic_ack(tag.delivery_tag)

    def reject(self, tag: Any) -> None:
        tag.channel.basic_reject(tag.delivery_tag, requeue=False)

    def give_back(self, tag: Any, *, began: bool) -> None:
        tag.channel.basic_reject(tag.delivery_tag, requeue=True)

    def cancel(self) -> None:
        self._credit = 0
        for queue in self._queues:
            self._channel.basic_cancel(queue)
        self._queues = ()

    def close(self) -> None:
        self._channel.close()


TAP = PlainTap
