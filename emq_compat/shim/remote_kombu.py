"""Remote control of workers on a kombu broker: kombu's own mailbox, asked as ``app.control`` asks.

No broker remembers anything there: a worker that starts later knows of a revoke only if one that lives has
told it (docs/monitoring.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from emq_compat.upstream.kombu_control import ControlSettings

if TYPE_CHECKING:
    from kombu.connection import Connection

    from emq_compat.shim.control_nodes import Replies
    from emq_compat.shim.settings import Settings

__all__ = ["RemoteKombu", "connected", "control_settings"]

#: How long a broker may take to answer, where broker_connection_timeout doesn't say.
_CONNECT_S = 4.0


@contextmanager
def connected(app: Any, given: Any = None) -> Iterator[Connection]:
    """Open a block in which there is a connection of kombu's to an app's broker: one of its pool.

    Args:
        given: one that is used instead if it is kombu's; it stays open.

    Raises:
        OperationalError: kombu's: no broker answers within broker_connection_timeout.
    """
    from kombu.connection import Connection  # noqa: PLC0415 - heavy

    limit_s = float(app.conf.broker_connection_timeout or _CONNECT_S)
    with ExitStack() as borrowed:
        if isinstance(given, Connection):
            connection = given
        else:
            connection = borrowed.enter_context(app.pool.acquire(block=True))
        if not connection.connected:
            connection.collect(socket_timeout=0.1)  # kombu would leave its socket open
        connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=limit_s)
        yield connection


def control_settings(conf: Settings) -> ControlSettings:
    """Return what an app's settings say of remote control and events.

    Raises:
        ImproperlyConfigured: its queues are to be exclusive and durable.
    """
    from emq_compat.shim.exceptions import ImproperlyConfigured  # noqa: PLC0415 - rarely needed
    from emq_compat.upstream import factory  # noqa: PLC0415 - likewise

    if conf.control_queue_exclusive and conf.control_queue_durable:
        raise ImproperlyConfigured(
            "control_queue_exclusive and control_queue_durable can't both be true: "
            "an exclusive queue ends with its connection"
        )
    return factory.control_settings(conf)


class RemoteKombu:
    """Asks the workers of a broker.

    Args:
        settings: of the app.
        connect: opens a block in which there is a connection of kombu's.
    """

    def __init__(
        self, settings: ControlSettings, connect: Callable[[], AbstractContextManager[Connection]]
    ) -> None:
        self._settings = settings
        self._connect = connect

    def broadcast(
        self,
        command: str,
        arguments: Mapping[str, Any],
        *,
        destination: Sequence[str] | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
        reply: bool = False,
        timeout: float | None = 1.0,
        limit: int | None = None,
        callback: Callable[[Any], object] | None = None,
    ) -> Replies | None:
        """Have workers run a command; the arguments are those of ``app.control.broadcast``.

        Raises:
            OperationalError: kombu's: the broker can't be reached.
            ValueError: the matcher is a function, which can't be sent.
        """
        if callable(matcher):
            raise ValueError("a matcher can't be sent to workers: name one of them, glob or pcre")
        with self._connect() as connection:
            mailbox = self._settings.mailbox()(connection)
            found = mailbox._broadcast(
                command,
                dict(arguments),
                destination=None if destination is None else list(destination),
                reply=reply,
                timeout=timeout,
                limit=limit,
                callback=callback,
                pattern=pattern or None,
                matcher=(matcher or "glob") if pattern else None,
            )
        return list(found or ()) if reply else None

    def purge(self, queues: Iterable[str]) -> int:
        """Drop what waits in these queues, as far as they are there; returns how many messages that were.

        Raises:
            OperationalError: kombu's: the broker can't be reached.
        """
        dropped = 0
        with self._connect() as connection:
            for queue in queues:
                channel = connection.channel()  # of its own: a broker closes it where there is no such queue
                try:
                    dropped += channel.queue_purge(queue) or 0
                    channel.close()
                except connection.channel_errors:
                    pass
        return dropped
