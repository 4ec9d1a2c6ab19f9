"""Remote control: ``app.control`` and ``app.control.inspect()``.

What is asked goes to the broker, which asks the workers and answers with what has come in time. Revoking is
the broker's own: it remembers, so that a worker that starts later doesn't run the task either.
"""

from __future__ import annotations

import fnmatch
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from emq_compat.client import Client
from emq_compat.shim import current
from emq_compat.shim.canvas.stamping import tags_of
from emq_compat.shim.control_shapes import celery_shape, scheduled_shape
from emq_compat.shim.exceptions import DuplicateNodenameWarning, ImproperlyConfigured, join_kombu

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["Control", "Inspect", "flatten_reply"]

Replies = list[dict[str, Any]]


def flatten_reply(reply: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the replies of several nodes as one dict; of nodes of one name, the last one's.

    Warns:
        DuplicateNodenameWarning: some have one name.
    """
    merged: dict[str, Any] = {}
    twice: set[str] = set()
    for one in reply:
        twice.update(node for node in one if node in merged)
        merged.update(one)
    if twice:
        told = f"several workers are named {', '.join(sorted(twice))}: give each a name of its own (-n)"
        warnings.warn(DuplicateNodenameWarning(told), stacklevel=2)
    return merged


class Inspect:
    """Asks workers what they do. Every method returns node name → answer, or None where nobody answered.

    Args:
        destination: the node names to ask, or one; None: all.
        timeout: seconds to wait for answers.
        callback: is called with each reply.
        app: the app; the current one by default.
        limit: how many replies to take.
        pattern, matcher: ask the nodes whose names match: ``glob`` (the default) or ``pcre``.
    """

    def __init__(
        self,
        destination: Sequence[str] | str | None = None,
        timeout: float = 1.0,
        callback: Callable[[Any], object] | None = None,
        connection: Any = None,
        app: Celery | None = None,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: Any = None,
    ) -> None:
        self.app = app or current.get_app()
        self.destination = destination
        self.timeout = timeout
        self.callback = callback
        self.connection = connection
        self.limit = limit
        self.pattern = pattern
        self.matcher = matcher

    def _request(self, command: str, **arguments: Any) -> Any:
        replies = self.app.control.broadcast(
            command,
            arguments=arguments,
            destination=self.destination,
            callback=self.callback,
            timeout=self.timeout,
            reply=True,
            limit=self.limit,
            pattern=self.pattern,
            matcher=self.matcher,
        )
        found = flatten_reply(replies or ())
        if isinstance(self.destination, str) and not self.pattern:
            return found.get(self.destination)
        return found or None

    def ping(self, destination: Sequence[str] | None = None) -> Any:
        """Return ``{"ok": "pong"}`` of each."""
        if destination:
            self.destination = destination
        return self._request("ping")

    def active(self, safe: bool | None = None) -> Any:
        """Return what runs: dicts with id, name, args, kwargs, hostname, time_start, worker_pid …"""
        return self._request("active")

    def reserved(self) -> Any:
        """Return what was taken in and hasn't begun."""
        return self._request("reserved")

    def scheduled(self) -> Any:
        """Return the tasks that wait for their ETA, at most 1,000: dicts with eta, priority and request.

        They wait in the broker. Each is told once, by the first node (by name) that listens on its queue.
        """
        return self._request("scheduled")

    def revoked(self) -> Any:
        """Return the ids of the revoked tasks, which the broker remembers for all workers."""
        return self._request("revoked")

    def registered(self, *taskinfoitems: str) -> Any:
        """Return the names of the registered tasks; with attributes asked for: ``name [rate_limit=10/s]``."""
        return self._request("task_info", items=list(taskinfoitems))

    registered_tasks = registered

    def stats(self) -> Any:
        """Return pid, uptime, the pool, resource usage."""
        return self._request("stats")

    def active_queues(self) -> Any:
        """Return the queues that are listened on, each with kombu's keys."""
        return self._request("active_queues")

    def query_task(self, *ids: Any) -> Any:
        """Return id → (``active`` or ``reserved``, what ``active`` shows), of the tasks that a worker has."""
        given = ids[0] if len(ids) == 1 and isinstance(ids[0], (list, tuple)) else ids
        return self._request("query_task", ids=list(given))

    def conf(self, with_defaults: bool = False) -> Any:
        """Return the settings, secrets masked."""
        return self._request("conf", with_defaults=with_defaults)

    def report(self) -> Any:
        """Return versions and settings as text."""
        return self._request("report")

    def clock(self) -> Any:
        """Return a number that grows."""
        return self._request("clock")

    def memsample(self) -> Any:
        """Return the memory in use."""
        return self._request("memsample")


class Control:
    """``app.control``.

    Every method takes ``destination`` (node names), ``reply`` (wait for answers and return them as a list of
    ``{node: answer}``), ``timeout`` in seconds, ``limit`` and ``callback``. Errors are those of publishing.
    """

    def __init__(self, app: Celery | None = None) -> None:
        self.app = app or current.get_app()

    def inspect(self, *args: Any, **kwargs: Any) -> Inspect:
        """Return an Inspect: ``inspect(destination=None, timeout=1.0, …)``."""
        return Inspect(*args, **{"app": self.app, **kwargs})

    def purge(self, connection: Any = None) -> int:
        """Drop the messages that wait in the app's queues; returns how many."""
        client = self._client()
        return sum(client.ask("purge", queue=name) for name in self._queues())

    discard_all = purge

    def revoke(
        self,
        task_id: str | Sequence[str],
        destination: Sequence[str] | None = None,
        terminate: bool = False,
        signal: str = "SIGTERM",
        **kwargs: Any,
    ) -> Replies | None:
        """Keep tasks from running; with ``terminate`` also end those that run, by a signal."""
        ids = [task_id] if isinstance(task_id, str) else [str(one) for one in task_id]
        client = self._client()
        if destination is None:
            backend: Any = self.app.backend
            backend.revoke(ids, terminate, signal=str(signal), timeout=client.timeout_s)
        return self.broadcast(
            "revoke",
            destination=destination,
            arguments={"ids": ids, "terminate": terminate, "signal": str(signal)},
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
        self, queue: str, *args: Any, destination: Sequence[str] | None = None, **kwargs: Any
    ) -> Any:
        """Have workers listen on one more queue; exchanges and their options have no meaning here."""
        for meaningless in ("exchange", "exchange_type", "routing_key", "options"):
            kwargs.pop(meaningless, None)
        return self.broadcast("add_consumer", destination=destination, arguments={"queue": queue}, **kwargs)

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

    def shutdown(self, destination: Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Have workers end once what runs is done."""
        return self.broadcast("shutdown", destination=destination, arguments={}, **kwargs)

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any] | Sequence[str],
        destination: Sequence[str] | None = None,
        terminate: bool = False,
        signal: str | None = None,
        reply: bool = False,
        timeout: float | None = 1.0,
        **kwargs: Any,
    ) -> Replies | None:
        """Keep tasks with one of these stamps from running, also those that are sent later.

        Args:
            headers: stamp → a value, or several; or texts ``stamp=value``.
            destination: whose answers are wanted; the broker revokes for all.
            terminate, signal: end those that run, too, by this signal (SIGTERM).
        """
        stamps = headers if isinstance(headers, Mapping) else dict(one.split("=", 1) for one in headers)
        client = self._client()
        ended = client.ask(
            "revoke", tags=tags_of(stamps), terminate=terminate, signal=str(signal or "SIGTERM")
        )
        if not reply:
            return None
        if not terminate:
            told = f"headers {dict(stamps)} flagged as revoked, but not terminated"
        elif "terminating" in ended.values():
            told = f"headers {dict(stamps)} revoked"
        else:
            told = f"headers {dict(stamps)} were not terminated"
        return [{node: {"ok": told}} for node in self._present(client, destination, timeout)]

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
        client = self._client()
        given = {**(arguments or {}), **extra_kwargs}
        nodes = [destination] if isinstance(destination, str) else destination
        if pattern:
            nodes = [node for node in self._nodes(client) if _matches(node, pattern, matcher)]
        if nodes is not None and not nodes:
            return [] if reply else None
        if command == "revoke_by_stamped_headers":
            return self.revoke_by_stamped_headers(destination=nodes, reply=reply, timeout=timeout, **given)
        if command in ("revoked", "scheduled"):
            present = self._present(client, nodes, timeout) if reply else []
            told = (_revoked if command == "revoked" else _scheduled)(client, present)
            return self._given(told, limit, callback) if reply else None
        wait_s = min(60.0, 1.0 if timeout is None else timeout) if reply else 0.0
        try:
            answers = client.inspect(command, given, nodes, wait_s)
        except Exception:
            join_kombu()
            raise
        if not reply:
            return None
        replies = [
            {_node(worker): celery_shape(command, given, answer)} for worker, answer in answers.items()
        ]
        return self._given(replies, limit, callback)

    def _given(
        self, replies: Replies, limit: int | None, callback: Callable[[Any], object] | None
    ) -> Replies:
        for one in replies[:limit] if callback is not None else ():
            callback(one)  # type: ignore[misc]
        return replies[:limit]

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

    def _nodes(self, client: Client) -> list[str]:
        return [_node(worker["name"]) for worker in client.ask("workers") if not worker["stock"]]

    def _present(self, client: Client, nodes: Sequence[str] | None, timeout: float | None) -> list[str]:
        """Return the nodes, of these or all, that answer in time."""
        answers = client.inspect("ping", None, nodes, min(60.0, 1.0 if timeout is None else timeout))
        return [_node(worker) for worker in answers]


def _revoked(client: Client, nodes: Sequence[str]) -> Replies:
    ids = client.ask("revoked")
    return [{node: list(ids)} for node in nodes]


def _scheduled(client: Client, nodes: Sequence[str]) -> Replies:
    """Return what waits for its time, each message under one node: the first that listens on its queue."""
    teller: dict[str, str] = {}
    for worker in sorted(client.ask("workers"), key=lambda worker: str(worker["name"])):
        if worker["present"] and not worker["stock"]:
            for queue in worker["queues"]:
                teller.setdefault(queue, _node(worker["name"]))
    told: dict[str, list[Any]] = {node: [] for node in nodes}
    for row in client.ask("delayed", queues=sorted(teller)) if told else ():
        node = teller[row["queue"]]
        if node in told:
            told[node].append(scheduled_shape(row, node))
    return [{node: rows} for node, rows in told.items()]


def _unsupported(name: str) -> Callable[..., NoReturn]:
    def refuse(self: Control, *args: Any, **kwargs: Any) -> NoReturn:
        raise _lacks(name)

    refuse.__name__ = refuse.__qualname__ = name
    refuse.__unsupported__ = True  # type: ignore[attr-defined]
    refuse.__doc__ = "Not here: raises NotImplementedError."
    return refuse


def _lacks(name: str) -> NotImplementedError:
    return NotImplementedError(f"emq-compat's remote control lacks {name} (docs/compatibility.md)")


for _name in (
    "autoscale", "disable_events", "election", "enable_events", "heartbeat", "pool_restart",
):  # fmt: skip
    setattr(Control, _name, _unsupported(_name))


def _matches(node: str, pattern: str, matcher: Any) -> bool:
    if callable(matcher):
        return bool(matcher(node, pattern))
    if matcher == "pcre":
        return re.search(pattern, node) is not None
    return fnmatch.fnmatch(node, pattern)


def _node(worker: str) -> str:
    """Return the node name of a worker, whose identity has a suffix."""
    return worker.rpartition(".")[0] or worker
