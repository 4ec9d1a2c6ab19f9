"""Remote control: ``app.control``.

What is asked goes to the broker, which asks the workers and answers with what has come in time. Revoking is
the broker's own: it remembers, so that a worker that starts later doesn't run the task either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emq_compat.address import is_kombu
from emq_compat.client import Client
from emq_compat.control_shapes import (
    asked_of_workers,
    celery_shape,
    command_named,
    listed,
    signal_name,
    told_of_stamps,
)
from emq_compat.shim import current
from emq_compat.shim.control_nodes import (
    BROKER_TELLS,
    Replies,
    elected,
    matching,
    node_of,
    present,
    waiting_s,
)
from emq_compat.shim.exceptions import ImproperlyConfigured, join_kombu
from emq_compat.shim.inspection import Inspect, flatten_reply
from emq_compat.shim.mailbox import Mailbox
from emq_compat.stamps import stamps_in, tags_of

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery
    from emq_compat.shim.remote_kombu import RemoteKombu

__all__ = ["Control", "Inspect", "Mailbox", "flatten_reply"]


class Control:
    """``app.control``.

    Every method takes ``destination`` (node names), ``reply`` (wait for answers and return them as a list of
    ``{node: answer}``), ``timeout`` in seconds, ``limit`` and ``callback``. Errors are those of publishing.
    """

    Mailbox = Mailbox

    def __init__(self, app: Celery | None = None) -> None:
        self.app = app or current.get_app()
        self.mailbox = self.Mailbox(self)

    def inspect(self, *args: Any, **kwargs: Any) -> Inspect:
        """Return an Inspect: ``inspect(destination=None, timeout=1.0, …)``."""
        return Inspect(*args, **{"app": self.app, **kwargs})

    def purge(self, connection: Any = None) -> int:
        """Drop the messages that wait in the app's queues; returns how many."""
        if is_kombu(self.app.broker_url):
            return self._remote().purge(self._queues())
        client = self._client()
        return sum(client.ask("purge", queue=name) for name in self._queues())

    discard_all = purge

    def revoke(
        self,
        task_id: str | Sequence[str],
        destination: Sequence[str] | str | None = None,
        terminate: bool = False,
        signal: str | int | None = "SIGTERM",
        **kwargs: Any,
    ) -> Replies | None:
        """Keep tasks from running; with ``terminate`` also end those that run, by a signal.

        The broker revokes for all workers, now and later; with ``destination`` or ``pattern`` only those
        workers are told, and what they hold doesn't run.

        Raises:
            ValueError: there is no such signal.
        """
        ids, name = listed(task_id), signal_name(signal)
        terminate = bool(terminate)  # monitors pass what they were sent: a text
        if is_kombu(self.app.broker_url):
            given = {"task_id": ids, "terminate": terminate, "signal": name}
            return self._remote().broadcast("revoke", given, destination=_nodes(destination), **kwargs)
        client = self._client()
        if destination is None and not kwargs.get("pattern"):
            backend: Any = self.app.backend
            backend.revoke(ids, terminate, signal=name, timeout=client.timeout_s)
            if not kwargs.get("reply"):
                return None  # the broker has told who has them
        return self.broadcast(
            "revoke",
            destination=destination,
            arguments={"ids": ids, "terminate": terminate, "signal": name},
            **kwargs,
        )

    def terminate(
        self,
        task_id: str | Sequence[str],
        destination: Sequence[str] | None = None,
        signal: str = "SIGTERM",
        **kwargs: Any,
    ) -> Replies | None:
        """Revoke tasks and end those that run."""
        return self.revoke(task_id, destination=destination, terminate=True, signal=signal, **kwargs)

    def ping(self, destination: Sequence[str] | None = None, timeout: float = 1.0, **kwargs: Any) -> Replies:
        """Return a list of ``{node: {"ok": "pong"}}``."""
        return self.broadcast("ping", reply=True, destination=destination, timeout=timeout, **kwargs) or []

    def add_consumer(
        self,
        queue: str,
        exchange: str | None = None,
        exchange_type: str = "direct",
        routing_key: str | None = None,
        options: Mapping[str, Any] | None = None,
        destination: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Have workers listen on one more queue; exchanges and their options mean something to Celery's."""
        told = {"exchange": exchange, "exchange_type": exchange_type, "routing_key": routing_key}
        arguments = {"queue": queue, **told, **(options or {})}
        return self.broadcast("add_consumer", destination=destination, arguments=arguments, **kwargs)

    def cancel_consumer(self, queue: str, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Have workers stop listening on a queue."""
        return self.broadcast(
            "cancel_consumer", destination=destination, arguments={"queue": queue}, **kwargs
        )

    def pool_grow(self, n: int = 1, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Have workers run ``n`` tasks more at once."""
        return self.broadcast("pool_grow", destination=destination, arguments={"n": n}, **kwargs)

    def pool_shrink(self, n: int = 1, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Have workers run ``n`` tasks less at once."""
        return self.broadcast("pool_shrink", destination=destination, arguments={"n": n}, **kwargs)

    def rate_limit(
        self,
        task_name: str,
        rate_limit: float | str | None,
        destination: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Have workers run a task no more often than ``10/s``, ``100/m`` …; 0 or None: as often as it comes.

        It holds until a worker ends.
        """
        arguments = {"task_name": task_name, "rate_limit": rate_limit}
        return self.broadcast("rate_limit", destination=destination, arguments=arguments, **kwargs)

    def time_limit(
        self,
        task_name: str,
        soft: float | None = None,
        hard: float | None = None,
        destination: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Have workers run a task under other limits, in seconds (None: none); what runs keeps those it has.

        It holds until a worker ends.
        """
        arguments = {"task_name": task_name, "soft": soft, "hard": hard}
        return self.broadcast("time_limit", destination=destination, arguments=arguments, **kwargs)

    def autoscale(
        self,
        max: int,  # noqa: A002 - Celery's name
        min: int,  # noqa: A002 - Celery's name
        destination: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Have workers that scale themselves (``--autoscale``) do it between ``min`` and ``max``."""
        return self.broadcast(
            "autoscale", destination=destination, arguments={"max": max, "min": min}, **kwargs
        )

    def pool_restart(
        self,
        modules: Sequence[str] | None = None,
        reload: bool = False,
        reloader: Callable[..., object] | None = None,
        destination: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Have workers replace their processes or threads (where ``worker_pool_restarts`` is set).

        With ``reload``, or ``modules`` that a worker hasn't imported, it starts again once what runs is done,
        and imports those, too.

        Raises:
            ValueError: a ``reloader`` is given: a function can't be sent to a worker.
        """
        if reloader is not None:
            raise ValueError("a reloader can't be sent to a worker: reload=True starts it again")
        arguments = {"modules": None if modules is None else list(modules), "reload": reload}
        return self.broadcast("pool_restart", destination=destination, arguments=arguments, **kwargs)

    def enable_events(self, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Have workers send the events of tasks, as -E does."""
        return self.broadcast("enable_events", destination=destination, arguments={}, **kwargs)

    def disable_events(self, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Have workers send no events of tasks."""
        return self.broadcast("disable_events", destination=destination, arguments={}, **kwargs)

    def heartbeat(self, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Have workers that send events send a heartbeat now."""
        return self.broadcast("heartbeat", destination=destination, arguments={}, **kwargs)

    def election(self, id: str, topic: str, action: Any = None, connection: Any = None) -> None:  # noqa: A002
        """Have one of the workers do something: with the topic ``task``, send the task that ``action`` is.

        Args:
            id: of the election: while the workers are the same, the same one wins it.
            topic: which of the worker's ``election_handlers`` is called.
            action: with what.
        """
        self.broadcast("election", {"id": id, "topic": topic, "action": action})

    def shutdown(self, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Have workers end once what runs is done."""
        return self.broadcast("shutdown", destination=destination, arguments={}, **kwargs)

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any] | Sequence[str],
        destination: Sequence[str] | None = None,
        terminate: bool = False,
        signal: str | int | None = None,
        reply: bool = False,
        timeout: float | None = 1.0,
        limit: int | None = None,
        callback: Callable[[Any], object] | None = None,
        **kwargs: Any,
    ) -> Replies | None:
        """Keep tasks with one of these stamps from running, also those that are sent later.

        Args:
            headers: stamp → a value, or several; or texts ``stamp=value``.
            destination: whose answers are wanted; the broker revokes for all.
            terminate, signal: end those that run, too, by this signal (SIGTERM).
        """
        stamps = stamps_in(headers)
        if is_kombu(self.app.broker_url):
            given = {"headers": stamps, "terminate": terminate, "signal": signal_name(signal)}
            return self._remote().broadcast(
                "revoke_by_stamped_headers", given, destination=_nodes(destination),
                reply=reply, timeout=timeout, limit=limit, callback=callback,
            )  # fmt: skip
        client = self._client()
        ended = client.ask("revoke", tags=tags_of(stamps), terminate=terminate, signal=signal_name(signal))
        if not reply:
            return None
        told = told_of_stamps(stamps, terminate=terminate, ended=ended)
        return self._tell(
            [{node: {"ok": told}} for node in present(client, destination, timeout)], limit, callback
        )

    def broadcast(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        destination: Sequence[str] | str | None = None,
        connection: Any = None,
        reply: bool = False,
        timeout: float | None = 1.0,
        limit: int | None = None,
        callback: Callable[[Any], object] | None = None,
        channel: Any = None,
        pattern: str | None = None,
        matcher: Any = None,
        **extra_kwargs: Any,
    ) -> Replies | None:
        """Have workers run a command: one of Celery's, or one of the project's own.

        Args:
            command: its name.
            arguments: its keyword arguments; ``extra_kwargs`` are more of them.
            destination: node names; None: all workers.
            reply: wait for answers. Without it nothing is returned, and nothing is known of errors.
            timeout: seconds to wait, at most 60.
            limit: how many replies to take.
            callback: is called with each reply.
            pattern, matcher: node names that match ``pattern``: ``glob``, ``pcre`` or a function.

        Returns a list of ``{node: answer}``; an error there is ``{"error": text}``.

        Raises:
            OperationalError: the broker didn't answer.
        """
        given = {**(arguments or {}), **extra_kwargs}
        command = command_named(command)
        answering: dict[str, Any] = {
            "reply": reply, "timeout": timeout, "limit": limit, "callback": callback
        }  # fmt: skip
        if command in ("revoke", "terminate") and "task_id" in given:
            ending = command == "terminate" or bool(given.get("terminate"))
            return self.revoke(
                given["task_id"], destination, ending, given.get("signal"),
                pattern=pattern, matcher=matcher, **answering,
            )  # fmt: skip
        nodes = _nodes(destination)
        if is_kombu(self.app.broker_url):
            return self._remote().broadcast(
                command, given, destination=nodes, pattern=pattern, matcher=matcher, **answering
            )
        client = self._client()
        if pattern:
            nodes = matching(client, pattern, matcher)
        elif command == "election":
            nodes = elected(client, str(given.get("id")))
        if nodes is not None and not nodes:
            return [] if reply else None
        if command == "revoke_by_stamped_headers":
            return self.revoke_by_stamped_headers(destination=nodes, **answering, **given)
        if command in BROKER_TELLS:
            told = BROKER_TELLS[command](client, present(client, nodes, timeout) if reply else [], given)
            return self._tell(told, limit, callback) if reply else None
        wait_s = waiting_s(timeout) if reply else 0.0
        try:
            answers = client.inspect(asked_of_workers(command), given, nodes, wait_s)
        except Exception:
            join_kombu()
            raise
        if not reply:
            return None
        replies = [
            {node_of(worker): celery_shape(command, given, answer)} for worker, answer in answers.items()
        ]
        return self._tell(replies, limit, callback)

    def _tell(self, replies: Replies, limit: int | None, callback: Callable[[Any], object] | None) -> Replies:
        taken = replies[:limit]
        if callback is not None:
            for one in taken:
                callback(one)
        return taken

    def _remote(self) -> RemoteKombu:
        from emq_compat.shim.remote_kombu import RemoteKombu, connected, control_settings  # noqa: PLC0415

        app = self.app
        return RemoteKombu(control_settings(app.conf), lambda: connected(app))

    def _client(self) -> Client:
        client = self.app.client
        if not isinstance(client, Client):
            raise ImproperlyConfigured("remote control needs an emq:// broker")
        return client

    def _queues(self) -> list[str]:
        """Return the queues that a worker of the app listens on, unless it is told others."""
        conf = self.app.conf
        names = [queue if isinstance(queue, str) else str(queue.name) for queue in conf.task_queues or ()]
        return names or [str(conf.task_default_queue)]


def _nodes(destination: Sequence[str] | str | None) -> list[str] | None:
    if destination is None:
        return None
    return [destination] if isinstance(destination, str) else list(destination)
