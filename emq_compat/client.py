"""A producer's connection to the broker: publish with confirm, wait for results, ask."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from emq_compat.address import Address
from emq_compat.message import Publish

__all__ = ["Client", "StoredResult", "client_for"]


class StoredResult:
    """What the broker keeps of a task: its state and, decoded on first use, the reply's JSON object."""

    __slots__ = ("_body", "_reply", "state")

    def __init__(self, state: str, *, body: bytes = b"", reply: dict[str, Any] | None = None) -> None:
        self.state = state
        self._body = body
        self._reply = reply

    @property
    def reply(self) -> dict[str, Any]:
        """The reply's JSON object, ``{"value", "state", "error", "traceback", …}`` (docs/protocol.md)."""
        if self._reply is None:
            self._reply = json.loads(self._body)
        return self._reply

    def __repr__(self) -> str:
        return f"StoredResult({self.state!r}, {self.reply!r})"


class Client:
    """Synchronous, for any number of threads, and safe across fork.

    Every call ends within its time limit, whatever the broker does. ``addresses`` is a URL (``;`` separates
    failover addresses) or what Address.parse made of one. ``timeout_s`` bounds each call that names no other
    limit. ``identity`` begins the names under which the broker sees this client's connections.
    ``pool_limit`` is the number of idle connections kept (Celery's broker_pool_limit).

    A stock router (``tcp://``, ``?stock=1``) confirms nothing, keeps no results: publish returns once sent,
    and ask, results and wait raise OperationalError at once.
    """

    def __init__(
        self,
        addresses: str | Sequence[Address],
        *,
        timeout_s: float = 4.0,
        identity: str | None = None,
        pool_limit: int = 10,
    ) -> None:
        parsed = Address.parse(addresses) if isinstance(addresses, str) else tuple(addresses)
        self.addresses: tuple[Address, ...] = parsed
        self.timeout_s = timeout_s

    @property
    def stock(self) -> bool:
        """True when the first address is a stock router's: nothing is confirmed, no results exist."""
        return self.addresses[0].stock

    def publish(self, message: Publish) -> None:
        """Publish one message; returns once it is on the broker's disk.

        Calling it again with the same Publish (the same msgid) after an error never makes a second message.

        Raises:
            QueueFull, BrokerRefused: the broker refused it.
            OperationalError: not confirmed within ``timeout_s``; it names the address and the limit.
        """
        raise NotImplementedError

    def publish_all(self, messages: Iterable[Publish]) -> None:
        """Publish many, pipelined; returns once all are on the broker's disk.

        ``timeout_s`` bounds the time without any progress, not the whole.

        Raises:
            NotPublished: ``msgids`` are those that were refused (the message says why) or not confirmed.
        """
        raise NotImplementedError

    def ask(self, verb: str, timeout_s: float | None = None, **arguments: Any) -> Any:
        """Ask the broker (docs/protocol.md, verbs) and return the answer's ``ok``.

        Raises:
            BrokerRefused: the answer is an error; the message holds its type and message.
            OperationalError: no answer in time.
        """
        raise NotImplementedError

    def results(self, ids: Sequence[str]) -> dict[str, StoredResult | None]:
        """Return what is stored of each task id now; None: nothing (pending, unknown or expired)."""
        raise NotImplementedError

    def wait(
        self,
        ids: Iterable[str],
        timeout_s: float | None,
        on_result: Callable[[str, StoredResult], object] | None = None,
    ) -> Iterator[tuple[str, StoredResult]]:
        """Yield (task id, result) of each id as soon as its result is final, in the order they become so.

        The broker pushes; nothing is polled. Lasts over restarts of the broker. ``timeout_s`` is for all of
        them (None: for ever). ``on_result`` is called with each before it is yielded.

        Raises:
            TimeoutError: some are not final within ``timeout_s``; those that were have been yielded.
            OperationalError: the address is a stock router's.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close idle connections; those in use close when their call ends. A later call opens new ones."""
        raise NotImplementedError


def client_for(url: str) -> Client:
    """Return this process's client for ``url``: the same one for the same text, made on first use."""
    raise NotImplementedError
