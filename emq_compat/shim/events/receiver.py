"""Receiving events: EventReceiver."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from emq_compat.address import is_kombu
from emq_compat.client import Client
from emq_compat.errors import OperationalError
from emq_compat.message import new_id
from emq_compat.protocol.commands import PublishTopic
from emq_compat.shim import current
from emq_compat.shim.codec import revive
from emq_compat.shim.events.event import get_exchange, matches, routing_key_of
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.surface.times import adjust_timestamp

if TYPE_CHECKING:
    from emq_compat.shim.events.over_kombu import KombuSubscription
    from emq_compat.subscription import Subscription

__all__ = ["EventReceiver"]

logger = logging.getLogger(__name__)

#: How often ``should_stop`` is looked at while nothing comes.
_LOOK_S = 1.0
_PAUSE_S, _PAUSE_STEP_S, _PAUSE_MAX_S = 1.0, 2.0, 30.0

_WHEN = itemgetter("utcoffset", "timestamp")


class Queue:
    """What stands for a receiver's queue: a subscription on the receiver's connection.

    ``exclusive`` and ``durable`` are as they were asked for; it is gone with the connection.
    """

    def __init__(self, receiver: EventReceiver, name: str, *, exclusive: bool, durable: bool) -> None:
        self._receiver = receiver
        self.name = name
        self.exclusive = exclusive
        self.durable = durable
        self.routing_key = receiver.routing_key
        self.exchange = receiver.exchange

    def __call__(self, channel: Any) -> Queue:
        return self

    def declare(self, **kombu: Any) -> str:
        """Subscribe now: what is sent from now on waits for ``capture``."""
        self._receiver.subscription.open()
        self._receiver.declared = True
        return self.name


class EventReceiver:
    """Takes in events and calls handlers with them.

    A connection that is lost is made again, without end unless ``connect_max_retries`` says how often; what
    is sent meanwhile is missed: events are kept nowhere.

    Args:
        channel: a connection of the app's (``app.connection()``), or its channel.
        handlers: type of an event → function that is called with it; ``*``: for types that have none.
        routing_key: which events: ``#``, ``task.#``, ``worker.heartbeat`` …
        node_id: the receiver's name.
        app: the app; ``app.events.Receiver`` has its own.
        queue_exclusive, queue_durable: not both.
        queue_prefix, queue_ttl, queue_expires, accept: of the queue on a kombu broker (seconds); no effect
            on ours.

    Attributes:
        should_stop: set it, and capturing ends within a second.
    """

    app: Any = None
    should_stop = False
    connect_max_retries: int | None = None

    def __init__(
        self,
        channel: Any,
        handlers: dict[str, Callable[[dict[str, Any]], object]] | None = None,
        routing_key: str = "#",
        node_id: str | None = None,
        app: Any = None,
        queue_prefix: str | None = None,
        accept: Collection[str] | None = None,
        queue_ttl: float | None = None,
        queue_expires: float | None = None,
        queue_exclusive: bool | None = None,
        queue_durable: bool | None = None,
    ) -> None:
        self.app = app or self.app or current.get_app()
        conf = self.app.conf
        exclusive = conf.event_queue_exclusive if queue_exclusive is None else queue_exclusive
        durable = conf.event_queue_durable if queue_durable is None else queue_durable
        self._exclusive, self._durable = bool(exclusive), bool(durable)
        self._ttl_s = conf.event_queue_ttl if queue_ttl is None else queue_ttl
        self._expires_s = conf.event_queue_expires if queue_expires is None else queue_expires
        if self._exclusive and self._durable:
            raise ImproperlyConfigured("a queue of events can be exclusive or durable, not both")
        self._connection = _connection_of(channel)
        self.channel = getattr(self._connection, "default_channel", None)
        self.handlers = {} if handlers is None else handlers
        self.routing_key = routing_key
        self.node_id = node_id or new_id()
        self.queue_prefix = queue_prefix or conf.event_queue_prefix
        self.accept = accept or {str(conf.event_serializer), "json"}
        self.clock = self.app.clock
        self.adjust_clock = self.clock.adjust
        self.forward_clock = self.clock.forward
        #: It is subscribed while nobody captures, too.
        self.declared = False
        self._subscription: Subscription | KombuSubscription | None = None
        self._waiting: deque[dict[str, Any]] = deque()

    @property
    def connection(self) -> Any:
        """The connection that it was given."""
        return self._connection

    @property
    def exchange(self) -> Any:
        """Where events come from, as kombu's object."""
        return get_exchange(self._connection, name=self.app.conf.event_exchange)

    @property
    def queue(self) -> Queue:
        """What stands for its queue."""
        name = f"{self.queue_prefix}.{self.node_id}"
        return Queue(self, name, exclusive=self._exclusive, durable=self._durable)

    @property
    def subscription(self) -> Subscription | KombuSubscription:
        """What events come by."""
        if self._subscription is None and is_kombu(self.app.broker_url):
            self._subscription = self._kombu_subscription()
        if self._subscription is None:
            connection = self._connection if self._connection is not None else self.app.connection()
            # The connection of a genuine app is kombu's.
            client = connection.client if hasattr(connection, "client") else self.app.client
            if not isinstance(client, Client):
                raise ImproperlyConfigured("events need an emq:// broker")
            self._subscription = client.subscribe([self._topic()])
        return self._subscription

    def _kombu_subscription(self) -> KombuSubscription:
        from emq_compat.shim.events.over_kombu import KombuSubscription  # noqa: PLC0415 - heavy
        from emq_compat.shim.remote_kombu import connected  # noqa: PLC0415 - likewise

        app, given = self.app, self._connection
        return KombuSubscription(
            app.conf.event_exchange, self._kombu_queue, self.accept, lambda: connected(app, given)
        )

    def _kombu_queue(self, exchange: Any) -> Any:
        from kombu.entity import Queue as KombuQueue  # noqa: PLC0415 - heavy

        return KombuQueue(
            f"{self.queue_prefix}.{self.node_id}",
            exchange=exchange,
            routing_key=self.routing_key,
            auto_delete=not self._durable,
            durable=self._durable,
            exclusive=self._exclusive,
            message_ttl=self._ttl_s,
            expires=self._expires_s,
        )

    def _topic(self) -> str:
        """Return what the topics of the events begin with; the routing key's rest is looked at here.

        Those of one group may come together, under a topic of their own.
        """
        exchange = self.app.conf.event_exchange
        group, dot, _ = self.routing_key.partition(".")
        if "#" in group or "*" in group:
            return f"{exchange}."
        return f"{exchange}.{group}{dot}"

    # Handling

    def process(self, type: str, event: dict[str, Any]) -> None:  # noqa: A002 - Celery's name
        """Call the handler of an event's type."""
        handler = self.handlers.get(type) or self.handlers.get("*")
        if handler is not None:
            handler(event)

    def event_from_message(
        self,
        body: dict[str, Any],
        localize: bool = True,
        now: Callable[[], float] = time.time,
        tzfields: Callable[[Mapping[str, Any]], Any] = _WHEN,
        adjust_timestamp: Callable[[float, int], float] = adjust_timestamp,
    ) -> tuple[str, dict[str, Any]]:
        """Return an event's type and the event, with what is known here only.

        That is ``local_received``; a ``clock`` where it has none (and this process's is adjusted to it); the
        ``timestamp`` in local time, if ``localize``.
        """
        clock = body.get("clock")
        if clock is None:
            body["clock"] = self.forward_clock()
        else:
            self.adjust_clock(clock)
        if localize:
            try:
                offset, timestamp = tzfields(body)
            except KeyError:
                pass
            else:
                body["timestamp"] = adjust_timestamp(timestamp, offset)
        body["local_received"] = now()
        return body["type"], body

    def _receive(self, body: Any, message: Any = None) -> None:
        """Handle an event, or a list of them."""
        for event in body if isinstance(body, list) else [body]:
            self.process(*self.event_from_message(event))

    # Capturing

    def wakeup_workers(self, channel: Any = None) -> None:
        """Have all workers send a heartbeat now."""
        self.app.control.broadcast("heartbeat")

    def _wake(self) -> None:
        try:
            self.wakeup_workers()
        except OperationalError as exc:
            logger.warning("workers can't be asked for a heartbeat: %s", exc)

    def capture(
        self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True
    ) -> None:
        """Handle events: ``limit`` of them, or until ``should_stop``.

        Args:
            timeout: seconds without any event after which it ends.
            wakeup: have all workers send a heartbeat, whenever it has connected.

        Raises:
            TimeoutError: nothing came for ``timeout`` seconds.
            OperationalError: there is no broker, and it was tried ``connect_max_retries`` times.
        """
        for _ in self.consume(limit=limit, timeout=timeout, wakeup=wakeup):
            pass

    def itercapture(
        self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True
    ) -> Iterator[None]:
        """``capture`` as a generator: it yields after each event that was handled."""
        return self.consume(limit=limit, timeout=timeout, wakeup=wakeup)

    def run(self) -> None:
        """Handle events until ``should_stop``."""
        self.should_stop = False
        self.capture()

    def consume(
        self,
        limit: int | None = None,
        timeout: float | None = None,
        safety_interval: float = _LOOK_S,
        wakeup: bool = True,
        **kombu: Any,
    ) -> Iterator[None]:
        """See ``itercapture``; ``should_stop`` is looked at every ``safety_interval`` seconds."""
        try:
            self._connect(timeout)
            handled, heard, opened = 0, time.monotonic(), 0
            while not self.should_stop and (limit is None or handled < limit):
                if wakeup and opened != self.subscription.opened:
                    # After a cut, too: what workers have told of themselves meanwhile was missed.
                    opened = self.subscription.opened
                    self._wake()
                if not self._waiting:
                    until = time.monotonic() + safety_interval
                    if timeout is not None:
                        until = min(until, heard + timeout)
                    if self._take(until, timeout):
                        heard = time.monotonic()
                    elif timeout is not None and time.monotonic() >= heard + timeout:
                        raise TimeoutError(f"no event came for {timeout:g} s")
                    continue
                handled += 1
                self.process(*self.event_from_message(self._waiting.popleft()))
                yield
        finally:
            if not self.declared:
                self.close()

    def close(self) -> None:
        """Take in nothing more; ``capture`` begins anew, with what was taken in and not handled yet."""
        self.declared = False
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    def on_connection_error(self, exc: BaseException, interval: float) -> None:
        """Called where there is no broker; it is tried again after ``interval`` seconds."""
        logger.warning("no events: %s; trying again in %g s", exc, interval)

    def on_connection_revived(self) -> None:
        """Called when there is one again."""
        logger.info("events come again")

    def _connect(self, timeout_s: float | None) -> None:
        """Subscribe, and again where no broker answers."""
        tries, pause_s = 0, _PAUSE_S
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.should_stop:
            try:
                left_s = None if until is None else max(0.0, until - time.monotonic())
                self.subscription.open(left_s)
            except OperationalError as exc:
                tries += 1
                if self.connect_max_retries is not None and tries > self.connect_max_retries:
                    raise
                if until is not None and time.monotonic() + pause_s >= until:
                    raise
                self.on_connection_error(exc, pause_s)
                time.sleep(pause_s)
                pause_s = min(pause_s + _PAUSE_STEP_S, _PAUSE_MAX_S)
            else:
                if tries:
                    self.on_connection_revived()
                return

    def _take(self, until: float, timeout_s: float | None) -> bool:
        """Wait for the next message; returns whether it brought an event that is wanted."""
        if not self.subscription.connected:
            self._connect(timeout_s)
        try:
            command = self.subscription.take(until)
        except OperationalError:
            return False  # `_connect` says it
        if command is None:
            return False
        events = _events_in(command)
        wanted = [event for event in events if matches(self.routing_key, routing_key_of(event["type"]))]
        self._waiting.extend(wanted)
        return bool(wanted)


def _connection_of(channel: Any) -> Any:
    """Return the connection that a channel is of, or that was given; ours or kombu's."""
    if hasattr(channel, "ensure_connection"):
        return channel
    connection = getattr(channel, "connection", channel)
    if not hasattr(connection, "ensure_connection") and hasattr(connection, "client"):
        return connection.client  # kombu's channels know that of their transport
    return connection


def _events_in(command: PublishTopic) -> list[dict[str, Any]]:
    """Return the events of an announcement; what is none is logged and dropped."""
    try:
        document = json.loads(command.payload)
        found = document if isinstance(document, list) else [document]
        events = [revive(event) for event in found]
        if not all(isinstance(event, dict) and isinstance(event.get("type"), str) for event in events):
            raise ValueError("it is no event")
    except (ValueError, TypeError, RecursionError) as exc:
        logger.warning("dropped what came under the topic %s: %s", command.topic, exc)
        return []
    return events
