"""A channel of kombu's transport ``emq://``: what it is told is said to the broker, or by its session."""

from __future__ import annotations

import base64
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from amqp.protocol import queue_declare_ok_t
from kombu.exceptions import ChannelError, EncodeError
from kombu.transport import base
from kombu.transport import virtual as kombu_virtual
from kombu.utils.uuid import uuid

from emq_compat.bulk import publish_frames
from emq_compat.errors import LocalProtocolError, MessageError
from emq_compat.genuine.capture import current, replaces_current
from emq_compat.genuine.transport_link import BrokerLost, Link, Refused
from emq_compat.genuine.transport_messages import MSGID, raw_of, request_of
from emq_compat.genuine.transport_session import Session
from emq_compat.message import ACKNOWLEDGED, REJECTED, RETURNED, Headers, new_id
from emq_compat.protocol.commands import Request
from emq_compat.protocol.frames import encode

__all__ = ["Channel"]

logger = logging.getLogger(__name__)
virtual: Any = kombu_virtual  # its types say less than it does


@dataclass(frozen=True, slots=True, kw_only=True)
class _Consumer:
    tag: str
    queue: str
    no_ack: bool
    callback: Callable[[Any], object]


class QoS(virtual.QoS):
    """The prefetch count; the broker keeps to it, and it puts back what a lost channel held."""

    restore_at_shutdown = False

    def can_consume(self) -> bool:
        return True

    def ack(self, delivery_tag: str) -> None:
        self.channel.basic_ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        self.channel.basic_reject(delivery_tag, requeue=requeue)

    def restore_unacked(self) -> list[Any]:
        self.channel.basic_recover(requeue=True)
        return []


class Channel(virtual.Channel):
    """See kombu's virtual channel for what the methods mean.

    Attributes:
        session: takes messages, from the first consumer on.
    """

    QoS = QoS
    do_restore = False
    supports_fanout = True

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self.session: Session | None = None
        self._by_tag: dict[str, _Consumer] = {}
        self._by_queue: dict[str, deque[_Consumer]] = {}
        #: delivery tag → (msgid, attempt, whether it was fetched) of what isn't settled, in order.
        self._unsettled: dict[str, tuple[str, int, bool]] = {}

    @property
    def _link(self) -> Link:
        link: Link | None = None if self.connection is None else self.connection.link
        if link is None:
            raise BrokerLost("the channel was closed")
        return link

    def _ask(self, method: str, verb: str, **arguments: Any) -> Any:
        try:
            return self._link.ask(verb, **arguments)
        except Refused as exc:
            if exc.kind == "NotDeclared":
                raise ChannelError(f"NOT_FOUND - {exc}", (50, 10), f"Channel.{method}", "404") from exc
            if exc.kind == "NotEquivalent":
                text = f"PRECONDITION_FAILED - {exc}"
                raise ChannelError(text, (50, 10), f"Channel.{method}", "406") from exc
            if exc.kind == "JournalUnwritable":  # worth another try, as a broker that is away is
                raise BrokerLost(str(exc)) from exc
            raise

    # Exchanges, queues, bindings

    def exchange_declare(
        self,
        exchange: str | None = None,
        type: str = "direct",  # noqa: A002 - kombu's name
        durable: bool = False,
        auto_delete: bool = False,
        arguments: Mapping[str, Any] | None = None,
        nowait: bool = False,
        passive: bool = False,
    ) -> None:
        kind = type or "direct"
        self._ask(
            "exchange_declare",
            "declare_exchange",
            exchange=exchange or f"amq.{kind}",
            type=kind,
            durable=bool(durable) or not exchange,
            auto_delete=bool(auto_delete),
            passive=bool(passive) or not exchange,
        )

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        self._ask("exchange_delete", "delete_exchange", exchange=exchange, if_unused=bool(if_unused))

    def prepare_queue_arguments(self, arguments: Any, **kwargs: Any) -> Any:
        return base.to_rabbitmq_queue_arguments(arguments, **kwargs)

    def queue_declare(self, queue: str | None = None, passive: bool = False, **kwargs: Any) -> Any:
        queue = queue or f"amq.gen-{uuid()}"
        if passive:
            told = self._ask("queue_declare", "declare_queue", queue=queue, passive=True)
        else:
            arguments = kwargs.get("arguments") or {}
            told = self._ask(
                "queue_declare",
                "declare_queue",
                queue=queue,
                durable=bool(kwargs.get("durable")),
                exclusive=bool(kwargs.get("exclusive")),
                auto_delete=bool(kwargs.get("auto_delete")),
                expires_s=_seconds(arguments.get("x-expires")),
                ttl_s=_seconds(arguments.get("x-message-ttl")),
            )
        return queue_declare_ok_t(queue, told["messages"], told["consumers"])

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any) -> int:
        dropped: int = self._ask(
            "queue_delete", "delete_queue", queue=queue, if_unused=bool(if_unused), if_empty=bool(if_empty)
        )
        return dropped

    def queue_bind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        exchange = exchange or "amq.direct"
        self._ask("queue_bind", "bind", queue=queue, exchange=exchange, key=routing_key or "")

    def queue_unbind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        exchange = exchange or "amq.direct"
        self._ask("queue_unbind", "unbind", queue=queue, exchange=exchange, key=routing_key or "")

    def queue_purge(self, queue: str, **kwargs: Any) -> int:
        dropped: int = self._ask("queue_purge", "purge", queue=queue, quietly=True)
        return dropped

    def list_bindings(self) -> Any:
        """Yield (queue, exchange, routing key) of every binding."""
        for exchange in self._ask("list_bindings", "exchanges"):
            for key, queue in exchange["bindings"]:
                yield queue, exchange["exchange"], key

    def after_reply_message_received(self, queue: str) -> None:
        """Reply queues end by themselves: they are exclusive, or expire."""

    def _size(self, queue: str) -> int:
        return int(self.queue_declare(queue, passive=True).message_count)

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        try:
            self.queue_declare(queue, passive=True)
        except ChannelError:
            return False
        return True

    # Publishing

    def prepare_message(
        self,
        body: Any,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: Mapping[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
    ) -> Any:
        # kombu prepares a message anew for each try, with the same properties: so its msgid stays.
        properties = {} if properties is None else properties
        properties.setdefault(MSGID, new_id())
        return super().prepare_message(body, priority, content_type, content_encoding, headers, properties)

    def basic_publish(
        self, message: Mapping[str, Any], exchange: str = "", routing_key: str = "", **kwargs: Any
    ) -> None:
        """Publish; returns once it is on the broker's disk (a transient message that is no task: sent).

        Raises:
            EncodeError: it can't be carried, or is too large.
            BrokerLost, ChannelError, Refused: it was not, or may not have been, taken.
        """
        message["properties"].setdefault(MSGID, new_id())
        try:
            publish, confirm = request_of(message, exchange or "", routing_key or "")
            capture = current()
            if (
                confirm
                and capture is not None
                and capture.publish(publish, replaces=replaces_current(message))
            ):
                return
            if confirm:
                frames = publish_frames(publish, stock=False)
            else:
                frames = encode(
                    Request(msgid=publish.msgid, queue="", headers=publish.headers, payload=publish.payload)
                )
        except (MessageError, LocalProtocolError) as exc:
            raise EncodeError(str(exc)) from exc
        limit_s = kwargs.get("confirm_timeout") or kwargs.get("timeout")
        try:
            self._link.publish(frames, publish.msgid, confirm=confirm, limit_s=limit_s)
        except Refused as exc:
            if exc.kind == "NotDeclared":
                raise ChannelError(f"NOT_FOUND - {exc}", (60, 40), "Channel.basic_publish", "404") from exc
            raise

    # Consuming

    def basic_consume(
        self,
        queue: str,
        no_ack: bool,
        callback: Callable[[Any], object],
        consumer_tag: str = "",
        **kwargs: Any,
    ) -> str:
        tag = consumer_tag or f"amq.ctag-{uuid()}"
        consumer = _Consumer(tag=tag, queue=queue, no_ack=bool(no_ack), callback=callback)
        self._by_tag[tag] = consumer
        self._by_queue.setdefault(queue, deque()).append(consumer)
        self._consumers.add(tag)
        session = self.session
        if session is None:
            session = self.connection.session()
            self.session = session
            session.limit(self.qos.prefetch_count)
            session.listen(tuple(self._by_queue))
            self.connection.watch(self)
        elif queue not in session.queues:
            session.listen(tuple(self._by_queue))
        return tag

    def basic_cancel(self, consumer_tag: str) -> None:
        consumer = self._by_tag.pop(consumer_tag, None)
        if consumer is None:
            return
        self._consumers.discard(consumer_tag)
        same = self._by_queue[consumer.queue]
        same.remove(consumer)
        if same:
            return
        del self._by_queue[consumer.queue]
        if self.session is not None and not self.session.lost:
            self.session.listen(tuple(self._by_queue))

    def deliver(self) -> bool:
        """Give one message to a consumer; False: none is here.

        Raises:
            BrokerLost: the session is over.
        """
        session = self.session
        request = None if session is None else session.take()
        if session is None or request is None:
            return False
        consumers = self._by_queue.get(request.queue)
        if not consumers:
            session.settle(request.msgid, request.headers.attempt, RETURNED)
            return True
        consumer = consumers[0]
        consumers.rotate(-1)
        message = self._message(request.queue, request.msgid, request.headers, request.payload)
        if message is None:
            session.settle(request.msgid, request.headers.attempt, REJECTED)
            return True
        message.delivery_info["consumer_tag"] = consumer.tag
        if consumer.no_ack:
            session.settle(request.msgid, request.headers.attempt, ACKNOWLEDGED)
        else:
            self._unsettled[message.delivery_tag] = (request.msgid, request.headers.attempt, False)
        consumer.callback(message)
        return True

    def _message(self, queue: str, msgid: str, headers: Headers, payload: bytes) -> Any:
        """Return a message as kombu has it; None: it is none of kombu's, and is put aside."""
        try:
            return self.Message(raw_of(queue, headers, payload, f"{headers.attempt}:{msgid}"), channel=self)
        except MessageError as exc:
            logger.warning("a message of the queue %s was put aside with the dead letters: %s", queue, exc)
            return None

    def drain_events(self, timeout: float | None = None, callback: Any = None) -> None:
        self.connection.drain_events(self.connection, timeout=timeout)

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        while True:
            told = self._ask("basic_get", "fetch", queue=queue, no_ack=bool(no_ack))
            if not told:
                return None
            msgid, attempt = told["msgid"], told["attempt"]
            text = f"{told['headers']},attempt:{attempt}"
            text += ",redelivered" if told.get("redelivered") else ""
            payload = told["payload"].encode() if "payload" in told else base64.b64decode(told["base64"])
            message = self._message(queue, msgid, Headers.decode(text.lstrip(",")), payload)
            if message is None:
                self._ask("basic_get", "settle", msgid=msgid, attempt=attempt, state=REJECTED)
                continue
            if not no_ack:
                self._unsettled[message.delivery_tag] = (msgid, attempt, True)
            return message

    # Acknowledging, from any thread

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        for tag in self._up_to(delivery_tag) if multiple else (delivery_tag,):
            self._settle(tag, ACKNOWLEDGED)

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        self._settle(delivery_tag, RETURNED if requeue else REJECTED)

    def basic_recover(self, requeue: bool = False) -> None:
        if not requeue:
            super().basic_recover(requeue=False)
        for tag in list(self._unsettled):
            self._settle(tag, RETURNED)

    def _up_to(self, delivery_tag: str) -> list[str]:
        tags = list(self._unsettled)
        return tags[: tags.index(delivery_tag) + 1] if delivery_tag in self._unsettled else []

    def _settle(self, delivery_tag: str, state: str) -> None:
        if self.closed:
            raise BrokerLost("the channel was closed: its messages are handed out again")
        held = self._unsettled.pop(delivery_tag, None)
        if held is None:
            return
        msgid, attempt, fetched = held
        if fetched:
            self._ask("basic_ack", "settle", msgid=msgid, attempt=attempt, state=state)
        elif self.session is not None:
            self.session.settle(msgid, attempt, state)

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        self.qos.prefetch_count = prefetch_count or 0
        if self.session is not None:
            self.session.limit(self.qos.prefetch_count)

    # The end

    def close(self) -> None:
        """End the consumers, give back what isn't settled, and close."""
        if self.closed:
            return
        session, self.session = self.session, None
        self._by_tag.clear()
        self._by_queue.clear()
        self._consumers.clear()
        unsettled, self._unsettled = self._unsettled, {}
        try:
            if session is not None:
                if self.connection is not None:
                    self.connection.unwatch(session)
                session.close()
            for msgid, attempt, fetched in unsettled.values():
                if fetched:
                    self._ask("close", "settle", msgid=msgid, attempt=attempt, state=RETURNED)
        except (BrokerLost, Refused):
            pass
        finally:
            super().close()


def _seconds(milliseconds: Any) -> float | None:
    return None if milliseconds is None else int(milliseconds) / 1000
