"""``app.events``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from emq_compat.address import is_kombu

__all__ = ["Events"]


class Events:
    """The classes of events, each with the app as ``app``; the paths say which they are."""

    receiver_cls: Any = "emq_compat.shim.events.receiver:EventReceiver"
    dispatcher_cls: Any = "emq_compat.shim.events.dispatcher:EventDispatcher"
    state_cls: Any = "emq_compat.shim.events.state:State"

    def __init__(self, app: Any = None) -> None:
        self.app = app

    @cached_property
    def Receiver(self) -> Any:  # noqa: N802 - Celery's name
        """Receives events: ``app.events.Receiver(connection, handlers={"*": fun}).capture()``."""
        return self.app.subclass_with_self(self.receiver_cls, reverse="events.Receiver")

    @cached_property
    def Dispatcher(self) -> Any:  # noqa: N802 - Celery's name
        """Sends events: ``app.events.Dispatcher(connection).send("group-name", field=1)``."""
        return self.app.subclass_with_self(self.dispatcher_cls, reverse="events.Dispatcher")

    @cached_property
    def State(self) -> Any:  # noqa: N802 - Celery's name
        """The state of a cluster, made of its events."""
        return self.app.subclass_with_self(self.state_cls, reverse="events.State")

    @contextmanager
    def default_dispatcher(
        self, hostname: str | None = None, enabled: bool = True, buffer_while_offline: bool = False
    ) -> Iterator[Any]:
        """A dispatcher for a block, on the connection that tasks are published by."""
        # On a broker of kombu's the dispatcher takes a connection of the pool, and gives it back.
        connection = None if is_kombu(self.app.broker_url) else self.app.connection_for_write()
        with self.Dispatcher(connection, hostname, enabled, None, buffer_while_offline) as dispatcher:
            yield dispatcher
