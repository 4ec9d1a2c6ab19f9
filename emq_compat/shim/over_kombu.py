"""What an app on a broker of kombu's publishes by: its client, and kombu's own connections and pools."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Final

from emq_compat.errors import ConfigurationError
from emq_compat.extras import require_for_broker
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.kombu_client import KombuClient
from emq_compat.shim.kombu_line import KombuBroker
from emq_compat.upstream.kombu_queues import Queues

if TYPE_CHECKING:
    from kombu.connection import Connection, ConnectionPool
    from kombu.pools import ProducerPool

    from emq_compat.shim.sender import Sender

__all__ = ["KombuPools", "client_of", "connection_of"]

#: How long a broker may take to answer, where broker_connection_timeout doesn't say.
_LIMIT_S: Final = 4.0


class _AppQueues:
    """The kombu Queues of an app, by name; made anew when a setting has changed."""

    def __init__(self, app: Sender) -> None:
        self._app = app
        self._version = -1
        self._queues: Queues | None = None

    @property
    def current(self) -> Queues:
        """The queues under the settings as they are now."""
        app, conf = self._app, self._app.conf
        if self._queues is None or conf.version != self._version:
            table = app.amqp.queues
            self._queues = Queues(table.__getitem__, lambda: set(table), conf)
            self._version = conf.version
        return self._queues

    def __call__(self, name: str) -> Any:
        """Return the queue of this name."""
        return self.current(name)


def _broker_of(app: Sender, url: str) -> KombuBroker:
    """Raises ImproperlyConfigured where a package is missing that the broker's transport needs."""
    try:
        require_for_broker(url)
    except ConfigurationError as exc:
        raise ImproperlyConfigured(str(exc)) from exc
    conf = app.conf
    queues = _AppQueues(app)
    return KombuBroker(
        url=url,
        queue=queues,
        limit_s=float(conf.broker_connection_timeout or _LIMIT_S),
        transport_options=dict(conf.broker_transport_options or {}),
        ssl=conf.broker_use_ssl or False,
        login_method=conf.broker_login_method,
        failover=conf.broker_failover_strategy,
        delivery_mode=int(conf.task_default_delivery_mode or 2),
        accept=tuple(conf.accept_content or ("json",)),
        reply_to=lambda: app.reply_to,
        delays=bool(conf.worker_detect_quorum_queues) and queues.current.quorum,
    )


def client_of(app: Sender) -> KombuClient:
    """Return what an app publishes by, as its settings say."""
    conf = app.conf
    return KombuClient(
        _broker_of(app, app.broker_url),
        pool_limit=int(conf.broker_pool_limit or 0),
        retries=bool(conf.task_publish_retry),
    )


def connection_of(app: Sender, url: str | None = None, **kombu: Any) -> Connection:
    """Return a connection of kombu's to an app's broker, or to another one; it isn't connected yet.

    Further arguments are those of kombu's Connection, and win over settings.
    """
    kombu.setdefault("heartbeat", app.conf.broker_heartbeat)
    if kombu.get("connect_timeout") is None:
        kombu.pop("connect_timeout", None)
    return _broker_of(app, url or app.broker_url).connection(**kombu)


class KombuPools:
    """An app's pools of kombu's, made when they are first asked for, and again in a forked process."""

    def __init__(self, app: Sender) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._pid = 0
        self._connections: ConnectionPool | None = None
        self._producers: ProducerPool | None = None

    @property
    def connections(self) -> ConnectionPool:
        """The pool of connections (broker_pool_limit)."""
        with self._lock:
            return self._made()[0]

    @property
    def producers(self) -> ProducerPool:
        """The pool of producers over those connections."""
        with self._lock:
            return self._made()[1]

    def _made(self) -> tuple[ConnectionPool, ProducerPool]:
        from kombu.pools import ProducerPool  # noqa: PLC0415 - heavy

        if self._pid != os.getpid():
            limit = self._app.conf.broker_pool_limit
            # Of the parent's nothing is closed: it goes on using them.
            self._connections = connection_of(self._app).Pool(limit)
            self._producers = ProducerPool(self._connections, limit=limit)
            self._pid = os.getpid()
        assert self._connections is not None
        assert self._producers is not None
        return self._connections, self._producers

    def close(self) -> None:
        """Close the connections that this process has made; the next use makes new ones."""
        with self._lock:
            connections, self._connections, self._producers = self._connections, None, None
            made_here, self._pid = self._pid == os.getpid(), 0
        if connections is not None and made_here:
            connections.force_close_all()
