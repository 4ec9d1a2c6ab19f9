"""``app.control.inspect()``: asks workers what they do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emq_compat.shim import current
from emq_compat.shim.exceptions import DuplicateNodenameWarning

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["Inspect", "flatten_reply"]


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
        return self._prepare(replies)

    def _prepare(self, reply: Iterable[Mapping[str, Any]] | None) -> Any:
        found = flatten_reply(reply or ())
        if isinstance(self.destination, str) and not self.pattern:
            return found.get(self.destination)
        return found or None

    def ping(self, destination: Sequence[str] | None = None) -> Any:
        """Return ``{"ok": "pong"}`` of each."""
        if destination:
            self.destination = destination
        return self._request("ping")

    def active(self, safe: bool | None = None) -> Any:
        """Return what runs: dicts with id, name, args, kwargs, hostname, time_start, worker_pid …

        ``safe``: with texts for the arguments.
        """
        return self._request("active", safe=bool(safe))

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
        return self._request("registered", taskinfoitems=list(taskinfoitems))

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

    def hello(self, from_node: str, revoked: Iterable[str] | None = None) -> Any:
        """Return what a worker that starts would ask of the others: ``revoked`` ids, and a ``clock``.

        ``from_node`` doesn't answer itself. What it says is ``revoked`` is revoked from then on.
        """
        return self._request("hello", from_node=from_node, revoked=list(revoked or ()))

    def memsample(self) -> Any:
        """Return the memory in use, which the worker notes for ``memdump``."""
        return self._request("memsample")

    def memdump(self, samples: int = 10) -> Any:
        """Return up to so many of the notes that ``memsample`` made, as text; they are forgotten then."""
        return self._request("memdump", samples=samples)

    def objgraph(self, type: str = "Request", n: int = 200, max_depth: int = 10) -> Any:  # noqa: A002
        """Return the file, on each worker's machine, into which it drew what keeps objects of a type alive.

        The workers need the library objgraph for it.
        """
        return self._request("objgraph", num=n, max_depth=max_depth, type=type)
