"""The part of an app that hands out connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emq_compat.shim import later
from emq_compat.shim.configured import Configured

if TYPE_CHECKING:
    from emq_compat.shim.connections import Connection, Given, Pool, Producer
    from emq_compat.shim.pipeline import Publisher

__all__ = ["Connecting"]


class Connecting(Configured):
    """The part of an app that hands out connections."""

    @property
    def broker_url(self) -> str:
        """Where tasks are published."""
        raise NotImplementedError

    @property
    def client(self) -> Publisher:
        """The connection that they are published by."""
        raise NotImplementedError

    def connection_for_write(self, url: str | None = None, **kombu: Any) -> Connection:
        """Return the connection that tasks are published by; kombu's arguments mean nothing."""
        timeout_s = self.conf.broker_connection_timeout
        if url is None:
            return later.Connection(self.broker_url, timeout_s=timeout_s, client=self.client)
        return later.Connection(url, timeout_s=timeout_s)

    def connection_for_read(self, url: str | None = None, **kombu: Any) -> Connection:
        """Return a connection to where workers take tasks from (broker_read_url)."""
        read = url or self.conf["broker_read_url"]
        return self.connection_for_write(read if read is None or isinstance(read, str) else ";".join(read))

    def connection(self, hostname: str | None = None, **kombu: Any) -> Connection:
        """Return a connection to the broker, or to the one at an address."""
        return self.connection_for_write(hostname or kombu.get("url"))

    broker_connection = connection

    def connection_or_acquire(
        self, connection: Connection | None = None, pool: bool = True, *_: Any, **__: Any
    ) -> Given[Connection]:
        """Return a ``with`` block around ``connection``, or a new one."""
        return later.Given(self.connection_for_write() if connection is None else connection)

    default_connection = connection_or_acquire

    def producer_or_acquire(self, producer: Producer | None = None) -> Given[Producer]:
        """Return a ``with`` block around ``producer``, or a new one."""
        return later.Given(later.Producer(self.connection_for_write()) if producer is None else producer)

    default_producer = producer_or_acquire

    @property
    def pool(self) -> Pool[Connection]:
        """A pool of connections."""
        return later.Pool(self.connection_for_write, self.conf.broker_pool_limit)

    @property
    def producer_pool(self) -> Pool[Producer]:
        """A pool of producers."""
        return later.Pool(lambda: later.Producer(self.connection_for_write()), self.conf.broker_pool_limit)
