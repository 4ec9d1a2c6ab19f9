"""Sending events: EventDispatcher, and what it publishes by."""

from __future__ import annotations

import logging
import os
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from emq_compat.address import is_kombu
from emq_compat.errors import LocalProtocolError
from emq_compat.shim import current
from emq_compat.shim.codec import dumps
from emq_compat.shim.events.event import Event, get_exchange, group_from, routing_key_of
from emq_compat.shim.surface.names import anon_nodename
from emq_compat.shim.surface.times import utcoffset

if TYPE_CHECKING:
    from kombu.entity import Exchange

    from emq_compat.shim.events.over_kombu import KombuSpeaker

__all__ = ["EventDispatcher", "EventProducer", "Speaker"]

logger = logging.getLogger(__name__)

#: Events that wait for the broker to come back; what comes beyond that takes the place of the oldest.
OFFLINE_LIMIT = 10_000
#: Events are sent together up to so many bytes.
_TOGETHER_BYTES = 1 << 18


class Speaker(Protocol):
    """What an announcement leaves by: a client, or a worker's connection."""

    def announce(self, topic: str, payload: bytes) -> None:
        """Announce it; raises OperationalError where there is no broker."""


class EventProducer:
    """Publishes events by a speaker, with kombu's ``publish``, of whose arguments two count."""

    def __init__(self, speaker: Speaker, exchange: str, own: KombuSpeaker | None = None) -> None:
        self._speaker = speaker
        self._exchange = exchange
        self._own = own

    def publish(
        self, event: Mapping[str, Any] | Sequence[Mapping[str, Any]], routing_key: str, **kombu: Any
    ) -> None:
        """Announce an event, or several.

        Raises:
            OperationalError: there is no broker.
            TypeError, ValueError: a field can't be carried as JSON.
        """
        payload = dumps(event).encode()
        if len(payload) > _TOGETHER_BYTES and isinstance(event, list) and len(event) > 1:
            half = len(event) // 2  # a broker may take no message so large
            self.publish(event[:half], routing_key)
            self.publish(event[half:], routing_key)
            return
        self._speaker.announce(f"{self._exchange}.{routing_key}", payload)

    def close(self) -> None:
        """Give back the connection that is only for events, if there is one."""
        if self._own is not None:
            self._own.close()


class EventDispatcher:
    """Sends events.

    Without a broker an event is kept (the last ten thousand, until ``flush``) or dropped; the caller never
    hears of it.

    Args:
        connection: a connection of the app's (``app.connection()``); None: one is made.
        hostname: who sends; by default a name of this process.
        enabled: whether anything is sent.
        channel: in place of a connection.
        buffer_while_offline: keep what can't be sent.
        app: the app; ``app.events.Dispatcher`` has its own.
        groups: the groups that are sent (``task``, ``worker`` …); empty: all.
        buffer_group: groups whose events are collected and sent together, by ``flush`` or once there are
            ``buffer_limit``.
        on_send_buffered: called whenever one is collected.
        serializer, delivery_mode: without effect: events are JSON, and nothing keeps them.

    Attributes:
        on_enabled, on_disabled: functions that ``enable`` and ``disable`` call.
    """

    app: Any = None

    def __init__(
        self,
        connection: Any = None,
        hostname: str | None = None,
        enabled: bool = True,
        channel: Any = None,
        buffer_while_offline: bool = True,
        app: Any = None,
        serializer: str | None = None,
        groups: Collection[str] | None = None,
        delivery_mode: int = 1,
        buffer_group: Collection[str] | None = None,
        buffer_limit: int = 24,
        on_send_buffered: Callable[[], object] | None = None,
    ) -> None:
        self.app = app or self.app or current.get_app()
        self.connection = connection if connection is not None else getattr(channel, "connection", None)
        self.channel = channel
        self.hostname = hostname or anon_nodename()
        self.pid = os.getpid()
        self.buffer_while_offline = buffer_while_offline
        self.buffer_group = frozenset(buffer_group or ())
        self.buffer_limit = buffer_limit
        self.on_send_buffered = on_send_buffered
        self.groups = set(groups or ())
        self.clock = self.app.clock
        self.serializer = serializer or "json"
        self.delivery_mode = delivery_mode
        self.headers = {"hostname": self.hostname}
        self.on_enabled: set[Callable[[], object]] = set()
        self.on_disabled: set[Callable[[], object]] = set()
        self.mutex = threading.RLock()
        self.producer: Any = None
        self.enabled = enabled
        self._closed = False
        self._told_offline = False
        self._outbound_buffer: deque[tuple[Any, str]] = deque(maxlen=OFFLINE_LIMIT)
        self._group_buffer: dict[str, list[dict[str, Any]]] = defaultdict(list)
        if enabled:
            self.enable()

    def __enter__(self) -> EventDispatcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    @property
    def exchange(self) -> Exchange:
        """Where events go, as kombu's object."""
        return get_exchange(self.connection, name=self.app.conf.event_exchange)

    @property
    def publisher(self) -> Any:
        """What events are published by: ``producer`` under its older name."""
        return self.producer

    @publisher.setter
    def publisher(self, producer: Any) -> None:
        self.producer = producer

    def sends(self, group: str) -> bool:
        """Whether an event of a group would be sent."""
        return self.enabled and (not self.groups or group in self.groups)

    def enable(self) -> None:
        """Send from now on."""
        with self.mutex:
            self.producer = self._producer_for(self.connection)
            self._closed = False
            self.enabled = True
        for callback in list(self.on_enabled):
            callback()

    def disable(self) -> None:
        """Send nothing from now on."""
        if self.enabled:
            self.enabled = False
            self.close()
            for callback in list(self.on_disabled):
                callback()

    def _producer_for(self, connection: Any) -> EventProducer:
        speaker = connection
        if not hasattr(speaker, "announce") and is_kombu(self.app.broker_url):
            from emq_compat.shim.events.over_kombu import KombuSpeaker  # noqa: PLC0415 - heavy
            from emq_compat.shim.remote_kombu import connected  # noqa: PLC0415 - likewise

            app = self.app
            own = KombuSpeaker(app.conf.event_exchange, lambda: connected(app, connection))
            return EventProducer(own, app.conf.event_exchange, own)
        if not hasattr(speaker, "announce"):
            speaker = (connection if connection is not None else self.app.connection_for_write()).client
        return EventProducer(speaker, self.app.conf.event_exchange)

    def publish(
        self,
        type: str,  # noqa: A002 - Celery's name
        fields: Mapping[str, Any],
        producer: Any,
        blind: bool = False,
        Event: Callable[..., dict[str, Any]] = Event,  # noqa: N803 - Celery's name
        **kwargs: Any,
    ) -> None:
        """Send an event by a producer of one's own: one of the app's, or anything that has ``publish``.

        ``blind``: without a clock's value.
        """
        if not hasattr(producer, "publish"):
            producer = self._producer_for(getattr(producer, "connection", producer))
        event = self._event(type, fields, blind, Event)
        with self.mutex:
            self._publish(event, producer, routing_key_of(type))

    def send(
        self,
        type: str,  # noqa: A002 - Celery's name
        blind: bool = False,
        utcoffset: Callable[[], int] = utcoffset,
        retry: bool = False,
        retry_policy: Mapping[str, Any] | None = None,
        Event: Callable[..., dict[str, Any]] = Event,  # noqa: N803 - Celery's name
        **fields: Any,
    ) -> None:
        """Send an event of a type, ``group-name``, with these fields, which are JSON values.

        ``blind``: without a clock's value. ``retry`` and ``retry_policy`` mean nothing.

        Raises:
            TypeError, ValueError: a field can't be carried as JSON.
        """
        group = group_from(type)
        if not self.enabled or (self.groups and group not in self.groups):
            return
        event = self._event(type, fields, blind, Event, utcoffset)
        if group not in self.buffer_group:
            with self.mutex:
                if not self._closed:
                    self._publish(event, self.producer, routing_key_of(type))
            return
        with self.mutex:
            collected = self._group_buffer[group]
            collected.append(event)
        if len(collected) >= self.buffer_limit:
            self.flush(errors=False)
        elif self.on_send_buffered is not None:
            self.on_send_buffered()

    def _event(
        self,
        type: str,  # noqa: A002 - Celery's name
        fields: Mapping[str, Any],
        blind: bool,
        make: Callable[..., dict[str, Any]],
        utcoffset: Callable[[], int] = utcoffset,
    ) -> dict[str, Any]:
        return make(
            type,
            hostname=self.hostname,
            utcoffset=utcoffset(),
            pid=self.pid,
            clock=None if blind else self.clock.forward(),
            **fields,
        )

    def _publish(self, event: Any, producer: Any, routing_key: str, *, kept: bool = False) -> bool:
        """Publish; False: there is no broker: the event is kept or dropped, unless it is kept already."""
        if producer is None:
            return False
        try:
            producer.publish(
                event, routing_key=routing_key, headers=self.headers, delivery_mode=self.delivery_mode
            )
        except (TypeError, ValueError, LocalProtocolError):
            raise  # it is the event's fault: another time it would be no better
        except Exception as exc:  # noqa: BLE001 - whatever a producer of the project's own raises
            level = logging.DEBUG if self._told_offline else logging.WARNING
            done = "kept for later" if self.buffer_while_offline else "dropped"
            logger.log(level, "events can't be sent, and are %s: %s", done, exc)
            self._told_offline = True
            if self.buffer_while_offline and not kept:
                self._outbound_buffer.append((event, routing_key))
            return False
        self._told_offline = False
        return True

    def flush(self, errors: bool = True, groups: bool = True) -> None:
        """Send what was kept while there was no broker (``errors``), and what was collected (``groups``)."""
        with self.mutex:
            if self._closed:
                return
            while errors and self._outbound_buffer:
                event, routing_key = self._outbound_buffer[0]
                if not self._publish(event, self.producer, routing_key, kept=True):
                    break
                self._outbound_buffer.popleft()
            for group, collected in self._group_buffer.items() if groups else ():
                # Those that are collected meanwhile, or that can't be carried, stay.
                batch = list(collected)
                if len(batch) == 1:
                    self._publish(batch[0], self.producer, routing_key_of(batch[0]["type"]))
                elif batch:
                    self._publish(batch, self.producer, f"{group}.multi")
                del collected[: len(batch)]

    def extend_buffer(self, other: EventDispatcher) -> None:
        """Take over what another dispatcher has kept."""
        self._outbound_buffer.extend(other._outbound_buffer)

    def close(self) -> None:
        """Send nothing more by its own producer; what was kept or collected waits for ``enable``."""
        with self.mutex:
            self._closed = True
            producer, self.producer = self.producer, None
            if isinstance(producer, EventProducer):
                producer.close()
