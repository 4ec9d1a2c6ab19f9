"""``app.connection()`` and ``app.pool``: kombu's connection objects, as far as they make sense here.

The client keeps its own connections to the broker, one for each thread that publishes. What Celery's API
hands out is a view of it: projects use it as a health check, in ``with`` blocks, and to pass it on as
``connection=`` or ``producer=``, which then change nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

from emq_compat.errors import OperationalError
from emq_compat.shim.exceptions import join_kombu
from emq_compat.shim.pipeline import Publisher
from emq_compat.shim.settings_text import censored_url

__all__ = ["Channel", "Connection", "Given", "Pool", "Producer"]

T = TypeVar("T")


class Declared(NamedTuple):
    """What the broker says of a queue."""

    queue: str
    message_count: int
    consumer_count: int


class Transport(NamedTuple):
    """What monitors look at to know a kind of broker."""

    driver_type: str
    driver_name: str


class Channel:
    """The questions about a queue that projects ask an AMQP channel."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def queue_declare(self, queue: str = "", passive: bool = False, **kombu: Any) -> Declared:
        """Return how many messages wait in a queue, and how many workers listen on it.

        Raises:
            OperationalError: the broker doesn't answer.
        """
        for row in self.connection.ask("queues"):
            if row["name"] == queue:
                return Declared(queue, row["waiting"], row["workers"])
        return Declared(queue, 0, 0)

    def queue_purge(self, queue: str, **kombu: Any) -> int:
        """Drop what waits in a queue; returns how much that was."""
        return int(self.connection.ask("purge", queue=queue))

    def close(self) -> None:
        """Nothing: it holds nothing."""


class Connection:
    """A broker's address and the client for it; ``client`` may be given, else it is the process's."""

    def __init__(self, url: str, *, timeout_s: float | None = None, client: Publisher | None = None) -> None:
        self.url = url
        self._timeout_s = timeout_s
        self._client = client
        self._connected = False

    @property
    def client(self) -> Publisher:
        """The client that asks."""
        if self._client is None:
            from emq_compat.client import client_for  # noqa: PLC0415 - it brings ZeroMQ

            self._client = client_for(self.url)
        return self._client

    def ask(self, verb: str, **arguments: Any) -> Any:
        """Ask the broker (docs/protocol.md, verbs).

        Raises:
            OperationalError: it doesn't answer within broker_connection_timeout; it is kombu's, too.
        """
        try:
            answer = self.client.ask(verb, self._timeout_s, **arguments)
        except OperationalError:
            self._connected = False
            join_kombu()
            raise
        self._connected = True
        return answer

    def connect(self) -> Connection:
        """Ask the broker for a sign of life.

        Raises:
            OperationalError: it doesn't answer.
        """
        if self.client.stock:
            return self  # it answers no question
        self.ask("queues")
        return self

    def ensure_connection(
        self,
        errback: Callable[[BaseException, float], object] | None = None,
        max_retries: int | None = None,
        interval_start: float = 2,
        interval_step: float = 2,
        interval_max: float = 30,
        callback: Callable[[], object] | None = None,
        reraise_as_library_errors: bool = True,
        timeout: float | None = None,
    ) -> Connection:
        """``connect``, and again where there is no answer.

        Args:
            errback: called with the error and the seconds until the next try.
            max_retries: tries after the first one; None or 0: without end.
            interval_start, interval_step, interval_max: pauses between tries, in seconds.
            callback: called before each pause.
            timeout: seconds for all of it.

        Raises:
            OperationalError: the broker never answered.
        """
        until = None if timeout is None else time.monotonic() + timeout
        tries, pause_s = 0, interval_start
        while True:
            try:
                return self.connect()
            except OperationalError as exc:
                tries += 1
                late = until is not None and time.monotonic() + pause_s > until
                if late or (max_retries and tries > max_retries):
                    raise
                if errback is not None:
                    errback(exc, pause_s)
            if callback is not None:
                callback()
            time.sleep(pause_s)
            pause_s = min(pause_s + interval_step, interval_max)

    def ensure(self, obj: object, fun: Callable[..., T], *args: Any, **kombu: Any) -> Callable[..., T]:
        """Return ``fun`` itself: the client connects again on its own."""
        return fun

    def as_uri(self, include_password: bool = False, mask: str = "**", **kombu: Any) -> str:
        """Return the address; a password in it masked unless it is asked for."""
        return self.url if include_password else censored_url(self.url, mask)

    def info(self) -> Mapping[str, Any]:
        """Return what an address is made of, under kombu's names."""
        return {"transport": self.transport_cls, "uri_prefix": None, "hostname": self.as_uri()}

    @property
    def connected(self) -> bool:
        """Whether the broker answered when it was last asked."""
        return self._connected

    @property
    def transport_cls(self) -> str:
        """The kind of address: ``emq``, ``emq+ipc``, ``tcp``."""
        return self.url.partition("://")[0]

    @property
    def transport(self) -> Transport:
        """What kind of broker it is, as kombu's transports tell it."""
        return Transport(driver_type=self.transport_cls, driver_name="emq-compat")

    @property
    def default_channel(self) -> Channel:
        """The questions that can be asked about a queue."""
        return Channel(self)

    def channel(self) -> Channel:
        """Return the same as ``default_channel``."""
        return Channel(self)

    def clone(self, **kombu: Any) -> Connection:
        """Return another view of the same client."""
        return Connection(self.url, timeout_s=self._timeout_s, client=self._client)

    def release(self) -> None:
        """Nothing: the client stays connected for the next use."""

    close = release

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.as_uri()}>"


class Producer:
    """What is passed on as ``producer=``; messages go their own way."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @property
    def channel(self) -> Channel:
        """The questions that can be asked about a queue."""
        return self.connection.default_channel

    def release(self) -> None:
        """Nothing: it holds nothing."""

    close = release

    def __enter__(self) -> Producer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.release()


class Pool(Generic[T]):
    """Gives out connections, or producers, without a limit: they cost nothing."""

    def __init__(self, make: Callable[[], T], limit: int | None) -> None:
        self._make = make
        self.limit = limit

    def acquire(self, block: bool = False, timeout: float | None = None) -> T:
        """Return one; there always is."""
        return self._make()

    def release(self, resource: T) -> None:
        """Nothing."""

    def force_close_all(self, close_pool: bool = True) -> None:
        """Nothing: ``app.close()`` closes the client's connections."""


class Given(Generic[T]):
    """A ``with`` block around what was given, which stays open, or around a new one."""

    def __init__(self, given: T) -> None:
        self._given = given

    def __enter__(self) -> T:
        return self._given

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        return None
