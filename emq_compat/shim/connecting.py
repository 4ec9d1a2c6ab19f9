"""The part of an app that hands out connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from emq_compat.shim import later
from emq_compat.shim.configured import Configured

if TYPE_CHECKING:
    from emq_compat.shim.connections import Connection, Given, Pool, Producer
    from emq_compat.shim.over_kombu import KombuPools
    from emq_compat.shim.pipeline import Publisher
    from emq_compat.shim.sender import Sender

__all__ = ["Connecting"]


class Connecting(Configured):
    """The part of an app that hands out connections."""

    _kombu_pools: KombuPools | None = None

    def _refresh(self) -> None:
        """Take in settings that were read or changed since the last call."""
        raise NotImplementedError

    @property
    def _kombu(self) -> KombuPools:
        self._refresh()  # or the settings, read later, would leave these connections to the garbage collector
        if self._kombu_pools is None:
            self._kombu_pools = later.KombuPools(cast("Sender", self))
        return self._kombu_pools

    @property
    def broker_url(self) -> str:
        """Where tasks are published."""
        raise NotImplementedError

    @property
    def client(self) -> Publisher:
        """The connection that they are published by."""
        raise NotImplementedError

    def connection_for_write(self, url: str | None = None, **kombu: Any) -> Connection:
        """Return the connection that tasks are published by.

        Over a broker of kombu's it is kombu's own, made with these arguments; else they mean nothing.
        """
        if later.is_kombu(url or self.broker_url):
            return cast("Connection", later.connection_of(cast("Sender", self), url, **kombu))
        timeout_s = self.conf.broker_connection_timeout
        if url is None:
            return later.Connection(self.broker_url, timeout_s=timeout_s, client=self.client)
        return later.Connection(url, timeout_s=timeout_s)

    def connection_for_read(self, url: str | None = None, **kombu: Any) -> Connection:
        """Return a connection to where workers take tasks from (broker_read_url)."""
        read = url or self.conf["broker_read_url"]
        read = read if read is None or isinstance(read, str) else ";".join(read)
        return self.connection_for_write(read, **kombu)

    def connection(self, hostname: str | None = None, **kombu: Any) -> Connection:
        """Return a connection to the broker, or to the one at an address."""
        url = hostname or kombu.pop("url", None)
        return self.connection_for_write(url, **kombu)

    broker_connection = connection

    def connection_or_acquire(
        self, connection: Connection | None = None, pool: bool = True, *_: Any, **__: Any
    ) -> Given[Connection]:
        """Return a ``with`` block around ``connection``, or a new one; over kombu's, one of the pool."""
        if connection is None and later.is_kombu(self.broker_url):
            return cast("Given[Connection]", self._kombu.connections.acquire(block=True))
        return later.Given(self.connection_for_write() if connection is None else connection)

    default_connection = connection_or_acquire

    def producer_or_acquire(self, producer: Producer | None = None) -> Given[Producer]:
        """Return a ``with`` block around ``producer``, or a new one; over kombu's, one of the pool."""
        if producer is None and later.is_kombu(self.broker_url):
            return cast("Given[Producer]", self._kombu.producers.acquire(block=True))
        return later.Given(later.Producer(self.connection_for_write()) if producer is None else producer)

    default_producer = producer_or_acquire

    @property
    def pool(self) -> Pool[Connection]:
        """A pool of connections; over a broker of kombu's it is kombu's."""
        if later.is_kombu(self.broker_url):
            return cast("Pool[Connection]", self._kombu.connections)
        return later.Pool(self.connection_for_write, self.conf.broker_pool_limit)

    @property
    def producer_pool(self) -> Pool[Producer]:
        """A pool of producers, likewise."""
        if later.is_kombu(self.broker_url):
            return cast("Pool[Producer]", self._kombu.producers)
        return later.Pool(lambda: later.Producer(self.connection_for_write()), self.conf.broker_pool_limit)
