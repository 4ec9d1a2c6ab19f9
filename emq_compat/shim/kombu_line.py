"""One connection to a broker of kombu's for publishing: every step on it ends within a time."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from emq_compat.celery_message import CeleryMessage, message_of
from emq_compat.decompression import bound
from emq_compat.errors import BrokerRefused, NotConfirmed, OperationalError
from emq_compat.message import Publish
from emq_compat.readable import readable
from emq_compat.upstream.kombu_address import address_of, is_broadcast

if TYPE_CHECKING:
    from kombu.connection import Connection

__all__ = ["KombuBroker", "Line"]

logger = logging.getLogger(__name__)

#: A connection that was used so recently is not asked for a sign of life.
_FRESH_S: Final = 1.0
_AMQP: Final = frozenset({"amqp", "amqps", "pyamqp", "librabbitmq"})
_REDIS: Final = frozenset({"redis", "rediss", "sentinel"})
#: Queues that were found to have other arguments: said once.
_told: set[str] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class KombuBroker:
    """Where tasks are published, and how (times in seconds).

    Attributes:
        url: kombu's; several, joined by semicolons, are tried in turn.
        queue: returns the kombu Queue of a name, as settings declare it.
        limit_s: within which a connection is made, and a message taken (broker_connection_timeout).
        transport_options, ssl, login_method, failover: broker_transport_options, broker_use_ssl,
            broker_login_method, broker_failover_strategy.
        delivery_mode: where neither the call nor the queue's exchange says one (task_default_delivery_mode).
        accept: accept_content, for messages that are made of packed ones.
        delays: one of the app's queues is a quorum queue: the broker holds what has an eta.
        reply_to: returns the queue that results come to, for messages that name none; empty: none.
    """

    url: str
    queue: Callable[[str], Any]
    limit_s: float = 4.0
    transport_options: Mapping[str, Any] = field(default_factory=dict)
    ssl: Any = False
    login_method: str | None = None
    failover: Any = None
    delivery_mode: int = 2
    accept: tuple[str, ...] = ("json",)
    delays: bool = False
    reply_to: Callable[[], str] = str

    @property
    def is_amqp(self) -> bool:
        """Whether it confirms what it has taken."""
        return self._scheme in _AMQP

    @property
    def _scheme(self) -> str:
        return self.url.partition("://")[0].strip().lower()

    def connection(self, **changed: Any) -> Connection:
        """Return a connection of kombu's that isn't connected yet."""
        from kombu.connection import Connection  # noqa: PLC0415 - heavy

        options = dict(self.transport_options)
        if self.is_amqp:
            options.setdefault("confirm_publish", True)
        elif self._scheme in _REDIS:
            options.setdefault("socket_connect_timeout", self._share_s)
            options.setdefault("socket_timeout", self.limit_s)
        given: dict[str, Any] = {
            "ssl": self.ssl,
            "login_method": self.login_method,
            "connect_timeout": self._share_s,
            "transport_options": options,
            "failover_strategy": self.failover,
            **changed,
        }
        bound()
        return Connection(self.url, **given)

    @property
    def _share_s(self) -> float:
        """How long one of the addresses may take."""
        return self.limit_s / max(1, len([url for url in self.url.split(";") if url.strip()]))

    @property
    def shown(self) -> str:
        """The address without its password."""
        from kombu.utils.url import maybe_sanitize_url  # noqa: PLC0415 - heavy

        return ";".join(str(maybe_sanitize_url(url)) for url in self.url.split(";"))


class Line:
    """A connection with a channel to publish by; for one thread at a time.

    Attributes:
        fresh: nothing was ever sent by it.
        errors: what a broker that is gone raises.
        refusals: what one raises that doesn't take what it is given.
    """

    def __init__(self, broker: KombuBroker) -> None:
        self._broker = broker
        self._connection = broker.connection()
        self._producer: Any = None
        self._declared: set[str] = set()
        self._used = 0.0
        self.fresh = True
        transport: Any = self._connection.transport
        self.refusals: tuple[type[BaseException], ...] = tuple(transport.channel_errors)
        self.errors: tuple[type[BaseException], ...] = (*transport.connection_errors, OSError)

    def prepare(self, messages: list[Publish], limit_s: float) -> None:
        """Connect, if need be, and declare the queues of messages: afterwards they can be published.

        Raises:
            one of ``errors`` or ``refusals``: nothing was published.
        """
        deadline = time.monotonic() + limit_s
        if self._producer is None:
            self._connect()
        else:
            self._look()
        self._limit(deadline)
        for message in messages:
            if message.queue not in self._declared:
                self._declare(message.queue)
                self._declared.add(message.queue)

    def _connect(self) -> None:
        from kombu.messaging import Producer  # noqa: PLC0415 - heavy

        self._connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
        self._producer = Producer(self._connection.channel(), auto_declare=False)
        self._used = time.monotonic()

    def _look(self) -> None:
        """Find out whether the broker has gone since, as far as that can be seen from here."""
        sock = self._socket
        if sock is not None and readable(sock.fileno()):  # its goodbye, or something harmless
            try:
                self._connection.drain_events(timeout=0.01)
            except TimeoutError:
                pass
        if time.monotonic() - self._used > _FRESH_S:
            client = getattr(self._producer.channel, "client", None)
            if client is not None and hasattr(client, "ping"):
                client.ping()

    @property
    def _socket(self) -> Any:
        """AMQP's socket; None: there is none."""
        amqp = self._connection._connection
        return getattr(getattr(amqp, "transport", None), "sock", None)

    def _limit(self, deadline: float) -> None:
        """Have whatever waits for the broker end in time."""
        sock = self._socket
        if sock is not None:
            sock.settimeout(max(deadline - time.monotonic(), 0.01))

    def _declare(self, name: str) -> None:
        from amqp.exceptions import PreconditionFailed  # noqa: PLC0415 - heavy

        queue, channel = self._broker.queue(name), self._producer.channel
        try:
            if is_broadcast(queue):
                queue.exchange(channel).declare()
            else:
                queue(channel).declare()
        except PreconditionFailed as exc:
            if name not in _told:
                _told.add(name)
                logger.error(
                    "the queue %r, or its exchange, is on the broker with other arguments than the settings "
                    "say: %s. It is used as it is.",
                    name,
                    exc.reply_text,
                )
            self._producer.channel = self._connection.channel()

    def publish(self, message: Publish, celery: CeleryMessage, limit_s: float) -> None:
        """Publish a message; returns when the broker has it, as far as this kind of broker says so.

        Raises:
            one of ``errors``: it isn't known whether the broker has it.
            one of ``refusals``: it hasn't.
        """
        self._limit(time.monotonic() + limit_s)
        queue = self._broker.queue(message.queue)
        exchange, key = self._address(queue, message)
        properties = dict(celery.properties)
        for name in ("delivery_info", "delivery_tag", "body_encoding"):
            properties.pop(name, None)
        if not properties.get("reply_to"):
            properties["reply_to"] = self._broker.reply_to()
        mode = properties.pop("delivery_mode", None) or getattr(queue.exchange, "delivery_mode", None)
        confirm = {"confirm_timeout": limit_s} if self._broker.is_amqp else {}
        self.fresh = False
        self._producer.publish(
            celery.body,
            exchange=exchange,
            routing_key=key,
            content_type=celery.content_type,
            content_encoding=celery.content_encoding,
            headers=dict(celery.headers),
            priority=properties.pop("priority", None),
            delivery_mode=mode or self._broker.delivery_mode,
            retry=False,
            **confirm,
            **properties,
        )
        self._used = time.monotonic()

    def publish_result(self, queue: str, body: bytes, task_id: str, content: tuple[str, str]) -> None:
        """Publish a result to a queue that is there, or was; errors as ``publish``'s.

        Args:
            content: content type and encoding.
        """
        self._limit(time.monotonic() + self._broker.limit_s)
        confirm = {"confirm_timeout": self._broker.limit_s} if self._broker.is_amqp else {}
        self.fresh = False
        self._producer.publish(
            body,
            exchange="",
            routing_key=queue,
            content_type=content[0],
            content_encoding=content[1],
            correlation_id=task_id,
            delivery_mode=1,
            retry=False,
            **confirm,
        )
        self._used = time.monotonic()

    def _address(self, queue: Any, message: Publish) -> tuple[str, str]:
        after_s = message.headers.eta - time.time() if message.headers.eta else 0.0
        if after_s >= 1 and self._broker.delays:
            from emq_compat.upstream import kombu_amqp  # noqa: PLC0415 - where it is wanted

            if kombu_amqp.delays(queue):
                return kombu_amqp.delayed(queue, after_s)
        return address_of(queue, message.headers)

    def celery(self, message: Publish) -> CeleryMessage:
        """Return Celery's message of a Publish; raises MessageError where there is none."""
        return message_of(message.headers, message.payload, accept=self._broker.accept)

    def told(self, exc: BaseException, *, sent: bool) -> OperationalError:
        """Return what is raised for an error of the broker's."""
        why = str(exc) or type(exc).__name__
        where = self._broker.shown
        if sent and isinstance(exc, self.refusals):
            return BrokerRefused(f"{where} refused a message: {why}")
        if sent:
            return NotConfirmed(
                f"{where} did not confirm a message within {self._broker.limit_s:g} s ({why}): whether it "
                "has it is unknown, and it is not sent again"
            )
        return OperationalError(f"{where} can't be reached ({why}): nothing was sent")

    def drop(self) -> None:
        """Give it up, without a word to the broker."""
        try:
            self._connection.collect(socket_timeout=0.1)
        except Exception as exc:  # noqa: BLE001 - whatever a transport makes of a lost connection
            logger.debug("a connection can't be closed: %r", exc)

    def close(self) -> None:
        """Say goodbye."""
        try:
            self._limit(time.monotonic() + 1.0)
            self._connection.release()
        except Exception as exc:  # noqa: BLE001 - as above
            logger.debug("a connection can't be closed: %r", exc)

    def forget(self) -> None:
        """Let go of a connection of the process that this one was forked from, which goes on using it."""
        sock = self._socket
        if sock is not None and sock.fileno() >= 0:
            os.close(sock.detach())
