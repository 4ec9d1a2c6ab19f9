"""The contract of a result store, and what all stores do the same way."""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from emq_compat.backends.watcher import PollingWatcher, Watcher
from emq_compat.message import FINAL_STATES
from emq_compat.stored import StoredResult
from emq_compat.words import amount

if TYPE_CHECKING:
    from emq_compat.backends.chords import ChordCounter

__all__ = ["ResultStore", "Tree", "polled", "without_password"]

#: A result as plain data, Celery's ``as_tuple()``: ``[[id, parent's tree], members' trees]``, each or None.
Tree: TypeAlias = Sequence[Any]


class ResultStore(ABC):
    """Task id → StoredResult, whose reply is the reply JSON of docs/protocol.md in whatever store it is.

    Made once for an app; any number of threads use it, and processes forked from the one that made it.

    Attributes:
        url: where it is, as the setting result_backend says it.
        kept_by_broker: results get there by REPLYs alone; nobody has to call ``write``.
        pushes: ``wait`` is told of results; otherwise it asks again and again.
        expires: the store itself deletes what is too old; otherwise ``cleanup`` does.
    """

    kept_by_broker: ClassVar[bool] = False
    pushes: ClassVar[bool] = False
    expires: ClassVar[bool] = True

    #: What counts chords there, where the broker doesn't; None: nothing does.
    chords: ChordCounter | None = None
    #: Whether what it keeps can be read again at all: chords need that.
    readable: ClassVar[bool] = True
    #: Whether results go to a place that each message names: ``write_to`` takes them.
    addressed: ClassVar[bool] = False

    url: str
    _watcher: Watcher | None = None

    @abstractmethod
    def read(self, ids: Sequence[str]) -> Mapping[str, StoredResult | None]:
        """Return what is stored of each id now; None: nothing.

        Raises:
            OperationalError: the store doesn't answer.
        """

    @abstractmethod
    def write(self, task_id: str, reply: Mapping[str, Any]) -> None:
        """Store a state (``reply["state"]``) with all that the reply JSON says; a SUCCESS is never replaced.

        Raises:
            OperationalError: the store doesn't answer, or refuses.
        """

    @property
    def reply_to(self) -> str:
        """The place that messages name, where the store is ``addressed``. Raises as ``write``."""
        return ""

    def write_to(self, queue: str, task_id: str, reply: Mapping[str, Any]) -> None:
        """Do as ``write``, where the store is ``addressed``."""
        self.write(task_id, reply)

    @abstractmethod
    def forget(self, ids: Sequence[str]) -> None:
        """Delete results; ids that are unknown don't matter. Raises as ``read``."""

    @abstractmethod
    def save_group(self, group_id: str, tree: Tree) -> None:
        """Keep a group's members. Raises as ``write``."""

    @abstractmethod
    def load_group(self, group_id: str) -> Tree | None:
        """Return what ``save_group`` kept; None: nothing, or it is too old. Raises as ``read``."""

    @abstractmethod
    def delete_group(self, group_id: str) -> None:
        """Forget a group's members, not their results. Raises as ``read``."""

    def wait(
        self, ids: Iterable[str], timeout_s: float | None, interval_s: float = 0.5
    ) -> Iterator[tuple[str, StoredResult]]:
        """Yield (task id, result) of each id as soon as its result is final.

        ``timeout_s`` is for all of them, from the first ``next`` (None: for ever); ``interval_s`` matters to
        stores that can't push.

        Raises:
            TimeoutError: some are not final in time; those that were have been yielded.
            OperationalError: the store doesn't answer.
        """
        return polled(self, ids, timeout_s, interval_s)

    def wait_behind(
        self, task_id: str, before: Iterable[str], timeout_s: float | None, interval_s: float = 0.5
    ) -> Iterator[tuple[str, StoredResult]]:
        """Do as ``wait`` for a task and those before it, of which only the ends that are no SUCCESS matter.

        The others may be left out; it may end once ``task_id`` has been yielded.
        """
        return self.wait([task_id, *before], timeout_s, interval_s)

    @property
    def watcher(self) -> Watcher:
        """Tells of results from a thread of its own; the same one at each call."""
        if self._watcher is None:
            self._watcher = self._new_watcher()
        return self._watcher

    def _new_watcher(self) -> Watcher:
        return PollingWatcher(self)

    def cleanup(self) -> None:  # noqa: B027 - most stores do so by themselves
        """Delete what is older than result_expires, where the store doesn't by itself. Raises as ``read``."""

    def close(self) -> None:  # noqa: B027 - not every store opens something
        """Close what is open; a later call opens it again."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {without_password(self.url)}>"


def polled(
    store: ResultStore, ids: Iterable[str], timeout_s: float | None, interval_s: float
) -> Iterator[tuple[str, StoredResult]]:
    """Wait as ``ResultStore.wait`` does, by reading every ``interval_s`` seconds."""
    pending = dict.fromkeys(ids)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        for task_id, stored in store.read(list(pending)).items():
            if stored is not None and stored.state in FINAL_STATES:
                del pending[task_id]
                yield task_id, stored
        if not pending:
            return
        pause_s = max(interval_s, 0.01)
        if deadline is not None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                missing = amount(len(pending), "result")
                raise TimeoutError(f"still not there: {missing}, {next(iter(pending))} is one")
            pause_s = min(pause_s, left_s)
        time.sleep(pause_s)


_PASSWORD = re.compile(r"(?<=//)([^/@:]*):[^/@]*@")


def without_password(url: str) -> str:
    """Return a URL that may be shown: ``**`` stands for its password."""
    return _PASSWORD.sub(r"\1:**@", url)
