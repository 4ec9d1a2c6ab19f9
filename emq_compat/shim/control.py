"""Remote control: ``app.control`` and ``app.control.inspect()``.

What is asked goes to the broker, which asks the workers and answers with what has come in time. Revoking is
the broker's own: it remembers, so that a worker that starts later doesn't run the task either.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from emq_compat.client import Client
from emq_compat.shim import current
from emq_compat.shim.exceptions import ImproperlyConfigured, join_kombu

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["Control", "Inspect", "flatten_reply"]

Replies = list[dict[str, Any]]


def flatten_reply(reply: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the replies of several nodes as one dict."""
    merged: dict[str, Any] = {}
    for one in reply:
        merged.update(one)
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
        """Return no tasks: those with an ETA wait in the broker, not in a worker."""
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
        if destination is None:
            self._client().ask("revoke", ids=ids, terminate=terminate, signal=str(signal))
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

    def revoke_by_stamped_headers(self, headers: Mapping[str, Any], *args: Any, **kwargs: Any) -> NoReturn:
        """Not here yet."""
        raise _lacks("revoke_by_stamped_headers")

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
        if command == "revoked":
            return self._revoked(client, nodes, timeout)
        wait_s = min(60.0, 1.0 if timeout is None else timeout) if reply else 0.0
        try:
            answers = client.inspect(command, given, nodes, wait_s)
        except Exception:
            join_kombu()
            raise
        if not reply:
            return None
        replies = [
            {_node(worker): _celery_shape(command, given, answer)} for worker, answer in answers.items()
        ][:limit]
        for one in replies if callback is not None else ():
            callback(one)  # type: ignore[misc]
        return replies

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

    def _revoked(self, client: Client, nodes: Sequence[str] | None, timeout: float | None) -> Replies:
        ids = client.ask("revoked")
        present = client.inspect("ping", None, nodes, 1.0 if timeout is None else timeout)
        return [{_node(worker): list(ids)} for worker in present]


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
Control.revoke_by_stamped_headers.__unsupported__ = True  # type: ignore[attr-defined]


def _matches(node: str, pattern: str, matcher: Any) -> bool:
    if callable(matcher):
        return bool(matcher(node, pattern))
    if matcher == "pcre":
        return re.search(pattern, node) is not None
    return fnmatch.fnmatch(node, pattern)


def _node(worker: str) -> str:
    """Return the node name of a worker, whose identity has a suffix."""
    return worker.rpartition(".")[0] or worker


def _celery_shape(command: str, arguments: Mapping[str, Any], answer: Mapping[str, Any]) -> Any:
    """Return a worker's answer as Celery's worker would have put it."""
    if "error" in answer:
        error = answer["error"]
        told = f"{error.get('type')}({error.get('message')!r})" if isinstance(error, Mapping) else str(error)
        return {"error": told}
    value = answer.get("ok")
    shape = _SHAPES.get(command)
    return value if shape is None else shape(arguments, value)


def _queue(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a queue with the keys that kombu's have."""
    absent = (
        "alias", "binding_arguments", "consumer_arguments", "expires", "max_length", "max_length_bytes",
        "max_priority", "message_ttl", "no_declare", "queue_arguments",
    )  # fmt: skip
    return {
        **dict.fromkeys(absent),
        "name": entry["name"],
        "routing_key": entry["name"],
        "exchange": {
            "name": entry["name"], "type": "direct", "arguments": None, "durable": True, "passive": False,
            "auto_delete": False, "delivery_mode": None, "no_declare": False,
        },
        "bindings": [],
        "durable": True,
        "exclusive": False,
        "auto_delete": False,
        "no_ack": False,
    }  # fmt: skip


def _of_revoke(arguments: Mapping[str, Any], value: Any) -> Any:
    ids = set(arguments.get("ids") or ())
    ending = [one for one, what in (value or {}).items() if what == "terminating"]
    if arguments.get("terminate"):
        return {"ok": f"terminate: {', '.join(ending) or 'tasks unknown'}"}
    return {"ok": f"tasks {ids} flagged as revoked"}


_SHAPES: dict[str, Callable[[Mapping[str, Any], Any], Any]] = {
    "ping": lambda arguments, value: {"ok": value},
    "active_queues": lambda arguments, value: [_queue(entry) for entry in value],
    "add_consumer": lambda arguments, value: {"ok": f"add consumer {arguments.get('queue')}"},
    "cancel_consumer": lambda arguments, value: {"ok": f"no longer consuming from {arguments.get('queue')}"},
    "pool_grow": lambda arguments, value: {"ok": "pool will grow"},
    "pool_shrink": lambda arguments, value: {"ok": "pool will shrink"},
    "revoke": _of_revoke,
    "stats": lambda arguments, value: {"prefetch_count": 0, **value},
}
