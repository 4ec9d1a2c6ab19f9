"""kombu's transport ``emq://``: genuine Celery, and whatever else uses kombu, on our broker.

Exchanges, queues and bindings live in the broker, which routes; a connection here publishes and asks over its
Link, and each channel that consumes has a Session. As with AMQP a connection that is lost is an error, which
kombu's retry policy and Celery's consumer deal with by connecting anew, to the next broker where there are
several; what was not acknowledged is handed out again.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from typing import Any

from kombu.transport import virtual as kombu_virtual

from emq_compat import __version__
from emq_compat.address import Address
from emq_compat.errors import ConfigurationError
from emq_compat.genuine.concluding import prepare_apps
from emq_compat.genuine.transport_channel import Channel as KombuChannel
from emq_compat.genuine.transport_link import BrokerLost, Link, Refused
from emq_compat.genuine.transport_session import Session

__all__ = ["Transport", "url_of"]

virtual: Any = kombu_virtual  # its types say less than it does

#: How long connecting may take where the connection doesn't say (Celery's default).
_LIMIT_S = 4.0
#: Messages given to callbacks before an event loop has its turn again.
_AT_ONCE = 100
#: How often a drain without consumers looks whether the broker is still there.
_LOOK_S = 1.0


class Transport(virtual.Transport):
    """One connection of kombu's; its URL is that of address.py, options included."""

    Channel: Any = KombuChannel

    can_parse_url = True
    default_port = None
    driver_type = "emq"
    driver_name = "emq-compat"
    connection_errors = (*virtual.Transport.connection_errors, BrokerLost)
    channel_errors = (*virtual.Transport.channel_errors, Refused)
    recoverable_connection_errors = connection_errors
    recoverable_channel_errors = ()
    implements = virtual.Transport.implements.extend(
        asynchronous=True, exchange_type=frozenset({"direct", "topic", "fanout"}), heartbeats=False
    )

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        prepare_apps()
        _keep_options(client)
        self.link: Link | None = None
        #: An earlier connection had consumers, which are gone.
        self._orphaned = False
        self._loop: Any = None
        self._watched: dict[Session, tuple[int, ...]] = {}

    def driver_version(self) -> str:
        return __version__

    # The connection

    def establish_connection(self) -> Any:
        """Connect to the broker.

        Raises:
            BrokerLost: none answers.
            ConfigurationError: the URL, or its key folder, can't be used, or it is a stock router's.
        """
        self._forget()
        client = self.client
        [address] = Address.parse(url_of(client))[:1]
        if address.stock:
            raise ConfigurationError(
                f"{address} is a stock eventmq router, which has neither queues that can be asked for nor "
                "exchanges: kombu needs an emq-compat broker (emq://HOST)"
            )
        limit_s = client.connect_timeout or _LIMIT_S
        self.link = Link(address, limit_s / max(len(client.alt), 1))
        self.link.open()
        return super().establish_connection()

    def _forget(self) -> None:
        """Close what is left of an earlier connection, which was lost, or is another process's."""
        link, self.link = self.link, None
        self._orphaned = bool(self._sessions())
        super().close_connection(self)
        if link is not None:
            link.close()

    def close_connection(self, connection: Any) -> None:
        super().close_connection(connection)
        if self.link is not None:
            self.link.close()

    def verify_connection(self, connection: Any) -> bool:
        """Tell whether the connection stands, as far as is known; a forked process's does not.

        Where there are consumers, they tell: a loss must be heard by who drains, before kombu connects anew.
        """
        if self.link is None:
            return False
        sessions = self._sessions()
        if not sessions:
            return self.link.usable
        return not any(session.lost for session in sessions)

    @property
    def connected(self) -> bool:
        """Whether the connection stands (this object is its own connection, as kombu's virtual ones are)."""
        return self.verify_connection(self)

    def session(self) -> Session:
        """Return a new session for a channel that begins to consume."""
        assert self.link is not None
        return Session(self.link.address, self.link.limit_s)

    def _sessions(self) -> list[Session]:
        return [channel.session for channel in self.channels if channel.session is not None]

    # Taking messages, called by whoever waits

    def drain_events(self, connection: Any, timeout: float | None = None, **kwargs: Any) -> None:
        """Give one message to its consumer.

        Raises:
            TimeoutError: none has come within ``timeout`` seconds (None: wait for ever).
            BrokerLost: the connection is lost.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            for channel in self._in_turn():
                if channel.deliver():
                    return
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise socket.timeout  # noqa: UP041 - TimeoutError, as kombu calls it
            self._wait(left_s)

    def _in_turn(self) -> Iterator[KombuChannel]:
        """Yield the channels that consume, another one first each time."""
        channels = [channel for channel in self.channels if channel.session is not None]
        if len(channels) > 1:
            self.channels.append(self.channels.pop(0))
        yield from channels

    def _wait(self, left_s: float | None) -> None:
        sessions = self._sessions()
        if any(session.waiting for session in sessions):
            return
        if self._orphaned:
            self._orphaned = False
            if not sessions:
                raise BrokerLost("the connection was lost, and its consumers with it")
        poll = select.poll()
        for session in sessions:
            for fd in session.fds():
                poll.register(fd, select.POLLIN)
        if not sessions:
            if self.link is None or not self.link.usable:
                raise BrokerLost("there is no connection to the broker")
            left_s = _LOOK_S if left_s is None else min(left_s, _LOOK_S)
        poll.poll(None if left_s is None else max(0.0, left_s * 1000))

    # Taking messages, called by an event loop

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Have an event loop (kombu's Hub) take what comes for these channels, now and later."""
        self._loop = loop
        for channel in self.channels:
            if channel.session is not None:
                self.watch(channel)

    def unregister_from_event_loop(self, connection: Any, loop: Any) -> None:
        """End that."""
        for session in list(self._watched):
            self.unwatch(session)
        self._loop = None

    def watch(self, channel: KombuChannel) -> None:
        """Have the event loop, if there is one, look after a channel that consumes."""
        session = channel.session
        if self._loop is None or session is None:
            return
        self._watched[session] = fds = session.fds()
        for fd in fds:
            self._loop.add_reader(fd, self._readable, channel, session)
        self._loop.call_soon(self._readable, channel, session)

    def unwatch(self, session: Session) -> None:
        """End that, before the session is closed."""
        for fd in self._watched.pop(session, ()):
            if self._loop is not None:
                self._loop.remove_reader(fd)

    def _readable(self, channel: KombuChannel, session: Session) -> None:
        if session not in self._watched:
            return
        try:
            for _ in range(_AT_ONCE):
                if not channel.deliver():
                    break
        except BrokerLost:
            self.unwatch(session)
            raise
        if session in self._watched and session.waiting:
            self._loop.call_soon(self._readable, channel, session)

    # URLs

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return the URL; it holds no password."""
        return url_of(self.client)


def url_of(client: Any) -> str:
    """Return the URL of a kombu connection, as address.py reads it."""
    host = client.hostname or ""
    if "://" in host:
        return f"{client.uri_prefix}+{host}" if client.uri_prefix else str(host)
    if host.startswith("//"):
        return f"emq:{host}"
    if host.startswith("ipc:/"):
        return f"emq+ipc://{host[len('ipc:') :]}"
    quoted = f"[{host}]" if ":" in host else host
    return f"emq://{quoted}:{client.port}" if client.port else f"emq://{quoted}"


def _keep_options(client: Any) -> None:
    """Write the alternates so that kombu hands them over whole when it switches to one.

    What has a scheme it takes apart, and chokes on options behind a ``?``.
    """
    if not any(alternate.startswith(("emq://", "emq+ipc://")) for alternate in client.alt):
        return
    client.alt = [
        alternate.removeprefix("emq:")
        if alternate.startswith("emq://")
        else f"ipc:{alternate.removeprefix('emq+ipc://')}"
        if alternate.startswith("emq+ipc://")
        else alternate
        for alternate in client.alt
    ]
    client.cycle = client.failover_strategy(client.alt)
    next(client.cycle)  # the first is the one in use
