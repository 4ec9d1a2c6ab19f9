"""Our broker keeps the results: what a REPLY brings is stored in the transaction that ends its task."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from emq_compat.backends.base import ResultStore, Tree
from emq_compat.backends.watcher import PipedWatcher, Watcher
from emq_compat.errors import ConfigurationError
from emq_compat.message import Headers, Publish
from emq_compat.stored import StoredResult

if TYPE_CHECKING:
    from emq_compat.waiting import Waiting

__all__ = ["BrokerStore", "BrokerWatcher", "ResultClient"]

#: A saved group is a result of its own: no task has such an id.
_GROUP = "group:"
#: The state of one: not final, so that the group can be saved again.
_SAVED = "SAVED"
#: A settled message is no job: the queue that it names is never read.
_QUEUE = "default"


class ResultClient(Protocol):
    """What is needed of emq_compat.client.Client."""

    @property
    def stock(self) -> bool: ...
    def publish(self, message: Publish) -> object: ...
    def ask(self, verb: str, /, timeout_s: float | None = None, **arguments: Any) -> Any: ...
    def results(self, ids: Sequence[str]) -> Mapping[str, StoredResult | None]: ...
    def wait(
        self, ids: Iterable[str], timeout_s: float | None, *, unless_done: Iterable[str] = ()
    ) -> Iterable[tuple[str, StoredResult]]: ...


class BrokerWatcher(PipedWatcher):
    """Tells of results that the broker pushes, all over one connection."""

    def __init__(self, client: Callable[[], Any], *, every: bool = False) -> None:
        """``client`` gives an emq_compat.client.Client; ``every``: it tells of states on the way, too."""
        self._client = client
        self._more = {"every": True} if every else {}
        super().__init__("results from the broker")

    def _begin_anew(self) -> None:
        super()._begin_anew()
        self._waiting: Waiting | None = None

    def _arrived(
        self, new: set[str], gone: set[str], pending: list[str]
    ) -> Iterable[tuple[str, StoredResult]]:
        if self._waiting is None:
            self._waiting = self._client().waiting(pending, **self._more)
        else:
            self._waiting.discard(gone)
            self._waiting.add(new)
        one = self._waiting.take(math.inf, self.wake_fd)
        self._woken()
        return () if one is None else (one,)

    def _finish(self, gone: set[str]) -> None:
        if self._waiting is not None:
            self._waiting.discard(gone)
            self._waiting.close()
            self._waiting = None
        super()._finish(gone)


class BrokerStore(ResultStore):
    """Implements ResultStore over a client of our broker.

    Args:
        client: gives the client at each call.
        keep_s: how long groups and written results are kept, 0: without end; None: as the broker is told.
    """

    kept_by_broker: ClassVar[bool] = True
    pushes: ClassVar[bool] = True

    def __init__(
        self, client: Callable[[], ResultClient], *, url: str = "emq://", keep_s: float | None = None
    ) -> None:
        self.url = url
        self._client = client
        self._keep_s = keep_s

    def read(self, ids: Sequence[str]) -> Mapping[str, StoredResult | None]:
        return self._ours().results(ids)

    def write(self, task_id: str, reply: Mapping[str, Any]) -> None:
        """Settle a task from outside: the broker stores and counts it as if a worker had replied."""
        headers = Headers(
            guarantee=True, task_id=task_id, settled=str(reply.get("state")), keep_s=self._keep_s
        )
        payload = json.dumps(dict(reply), separators=(",", ":")).encode()
        self._ours().publish(Publish(queue=_QUEUE, headers=headers, payload=payload))

    def forget(self, ids: Sequence[str]) -> None:
        self._ours().ask("forget", ids=list(ids))

    def save_group(self, group_id: str, tree: Tree) -> None:
        self.write(_GROUP + group_id, {"value": tree, "state": _SAVED})

    def load_group(self, group_id: str) -> Tree | None:
        stored = self.read([_GROUP + group_id])[_GROUP + group_id]
        return None if stored is None else stored.reply.get("value")

    def delete_group(self, group_id: str) -> None:
        self.forget([_GROUP + group_id])

    def wait(
        self, ids: Iterable[str], timeout_s: float | None, interval_s: float = 0.5
    ) -> Iterator[tuple[str, StoredResult]]:
        yield from self._ours().wait(ids, timeout_s)

    def wait_behind(
        self, task_id: str, before: Iterable[str], timeout_s: float | None, interval_s: float = 0.5
    ) -> Iterator[tuple[str, StoredResult]]:
        yield from self._ours().wait([task_id], timeout_s, unless_done=before)

    def _new_watcher(self) -> Watcher:
        waiting = getattr(self._ours(), "waiting", None)
        return super()._new_watcher() if waiting is None else BrokerWatcher(self._ours)

    def _ours(self) -> ResultClient:
        client = self._client()
        if client.stock:
            raise ConfigurationError(
                "a stock eventmq router keeps no results: set result_backend, or use an emq:// broker"
            )
        return client
