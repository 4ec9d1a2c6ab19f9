"""Which kind of broker an address means, its connections, and how queues are declared on it."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from emq_compat.decompression import bound
from emq_compat.errors import OperationalError
from emq_compat.extras import require_for_broker
from emq_compat.upstream.kombu_tap import Arrival, KombuSettings, Tap

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kombu.asynchronous.hub import Hub
    from kombu.connection import Connection

__all__ = ["Broker"]

logger = logging.getLogger("emq_compat.upstream.kombu")

#: Scheme → which of kombu_….py has its tap; any other: kombu_plain.py.
_MODULES = {
    "amqp": "amqp",
    "amqps": "amqp",
    "pyamqp": "amqp",
    "redis": "redis",
    "rediss": "redis",
    "sentinel": "redis",
    "sqs": "sqs",
}


class Broker:
    """One broker, over any of its addresses.

    Args:
        name: the worker's.
        settings: of the upstream.

    Attributes:
        errors: what a lost connection raises.
        confirms: publishing waits for the broker's confirmation.

    Raises:
        ConfigurationError: a package is missing that its transport needs.
    """

    def __init__(self, name: str, settings: KombuSettings) -> None:
        require_for_broker(settings.url)
        self._name = name
        self._settings = settings
        scheme = urlsplit(settings.url).scheme.lower()
        self._whole = scheme == "sentinel"  # its addresses are one broker's, kombu wants them all
        self._urls = [url.strip() for url in settings.url.split(";") if url.strip()]
        self._next = 0
        self._connection: Connection | None = None
        self._told: set[str] = set()
        module = _MODULES.get(scheme, "plain")
        self._kind: Any = import_module(f"emq_compat.upstream.kombu_{module}")
        self._tap_class: type[Tap] = self._kind.TAP
        self.confirms = module == "amqp"
        self.survives = self._tap_class.survives
        self.errors: tuple[type[BaseException], ...] = ()
        self.shown = _shown(settings.url)

    # Connections.

    def connection(self, *, confirm: bool = False) -> Connection:
        """Return a connection that isn't connected: to the address that is next.

        ``confirm``: it is for publishing.
        """
        from kombu.connection import Connection  # noqa: PLC0415 - heavy

        bound()
        settings = self._settings
        url = settings.url if self._whole else self._urls[self._next % len(self._urls)]
        options = dict(settings.transport_options)
        if self.confirms:
            options["confirm_publish"] = confirm
        connection = Connection(
            url,
            ssl=settings.ssl,
            login_method=settings.login_method,
            heartbeat=0 if confirm else settings.heartbeat_s,  # nobody looks after one that publishes
            connect_timeout=settings.connect_s,
            transport_options=options,
        )
        if not confirm:
            self._kind.prepare(connection)
        return connection

    def connect(self) -> Connection:
        """Connect to one of the addresses; the next call tries the next one if this one fails.

        Raises:
            Exception: whatever kombu's transport makes of a broker that isn't there.
        """
        connection = self.connection()
        try:
            connection.connect()
        except BaseException:
            self._next += 1
            connection.collect()
            raise
        self._connection = connection
        self.errors = connection.connection_errors + connection.channel_errors
        return connection

    def drop(self) -> None:
        """Give a lost connection up."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._next += 1
        try:
            connection.collect(socket_timeout=0.1)
        except Exception as exc:  # noqa: BLE001 - whatever a transport makes of a lost connection
            logger.debug("a lost connection can't be closed: %r", exc)

    def close(self) -> None:
        """Say goodbye."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()

    def tap(self, connection: Connection, hub: Hub, take: Callable[[Arrival], None]) -> Tap:
        """Return what takes this connection's messages."""
        return self._tap_class(connection, hub, self._settings, self._name, take, self.declare)

    def purge(self, queues: Sequence[str]) -> int:
        """Drop what waits in these queues; return how much it was. There is a connection for this only.

        Raises:
            OperationalError: the broker isn't there.
        """
        dropped = 0
        try:
            with self.connection(confirm=True) as connection:
                connection.connect()
                for queue in queues:
                    channel = connection.channel()
                    try:
                        dropped += channel.queue_purge(queue) or 0
                        channel.close()
                    except connection.channel_errors as exc:
                        logger.debug("the queue %s can't be purged: %s", queue, exc)  # it isn't there
        except Exception as exc:
            raise OperationalError(f"{self.shown} can't be purged: {exc}") from exc
        return dropped

    # Queues.

    def declare(self, channel: Any, queue: Any) -> Any:
        """Declare a queue with its exchange and bindings, as settings say; return the channel to go on with.

        One that exists with other arguments stays as it is, and the log names it.
        """
        from amqp.exceptions import PreconditionFailed  # noqa: PLC0415 - heavy

        try:
            queue(channel).declare()
        except PreconditionFailed as exc:
            if queue.name not in self._told:
                self._told.add(queue.name)
                logger.error(
                    "the queue %r, or its exchange, is on the broker with other arguments than the settings "
                    "say: %s. It is used as it is: make task_queues (or task_default_queue_type, "
                    "task_queue_max_priority …) say what it has, or delete it.",
                    queue.name,
                    exc.reply_text,
                )
            channel = channel.connection.channel()
            channel.queue_declare(queue.name, passive=True)
        return channel

    def delayed(self, queue: Any, after_s: float) -> tuple[str, str]:
        """Return exchange and routing key by which a message reaches a queue after so many seconds.

        Where the broker holds none, they lead to the queue at once.
        """
        if after_s >= 1 and self._settings.quorum and self.confirms and self._kind.delays(queue):
            exchange, key = self._kind.delayed(queue, after_s)
            return exchange, key
        return "", queue.name


def _shown(url: str) -> str:
    from kombu.utils.url import maybe_sanitize_url  # noqa: PLC0415 - heavy

    return ";".join(str(maybe_sanitize_url(part)) for part in url.split(";"))
