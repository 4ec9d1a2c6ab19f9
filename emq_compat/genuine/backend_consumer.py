"""How those who wait for results of a genuine app hear of them: the broker pushes, nothing is polled."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Iterator, MutableMapping
from typing import Any

from celery import states
from celery.backends.asynchronous import BaseResultConsumer
from celery.result import ResultSet

from emq_compat.backends.emq import BrokerWatcher
from emq_compat.client import client_for
from emq_compat.stored import StoredResult

__all__ = ["ResultConsumer", "watcher_for"]

logger = logging.getLogger(__name__)

_watchers: dict[str, BrokerWatcher] = {}


def watcher_for(url: str) -> BrokerWatcher:
    """Return what tells this process of results at ``url``: one thread and connection for all its users."""
    watcher = _watchers.get(url)
    if watcher is None:
        # setdefault is atomic: threads that come here at once all get the same one.
        watcher = _watchers.setdefault(url, BrokerWatcher(lambda: client_for(url), every=True))
    return watcher


class _Members:
    """Which members of a group have ended, whichever thread has heard of it.

    A group counts the ends of its members (vine's barrier), and what iterates over it is given them by a
    bucket. Neither is meant for an end that another thread hears of while the group is being made, or
    the iteration begun: that end would be missing for good.
    """

    def __init__(self, group: ResultSet, buckets: MutableMapping[Any, deque[Any]]) -> None:
        self._group = group
        self._buckets = buckets
        self._missing = deque(group.results)

    def look(self) -> bool:
        """Have those that have ended count; returns whether all have."""
        missing = self._missing
        while missing and self._has_ended(missing[0]):
            missing.popleft()
        if not missing and not self._group.on_ready.ready:
            self._group.on_ready()
        return not missing

    def _has_ended(self, member: Any) -> bool:
        if isinstance(member, ResultSet):
            return _Members(member, self._buckets).look()
        if not member.on_ready.ready:
            return False
        bucket = self._buckets.pop(member, None)
        if bucket is not None:
            bucket.append(member)
        return True


class ResultConsumer(BaseResultConsumer):
    """Celery's contract of a result consumer, over a thread that the broker tells of results.

    What has arrived is taken by the threads that wait in ``drain_events``, as in Celery; where none does
    (only ``then`` is waited for), by a thread of its own that ends with the last of it.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._pid = os.getpid()
        self._arrived: deque[tuple[str, StoredResult]] = deque()
        self._cancelled: deque[str] = deque()
        self._watched: set[str] = set()
        # Reentrant: a generator that is collected ends its waiting within whatever this thread is doing.
        self._changed = threading.Condition(threading.RLock())
        #: Counts what was taken, so that a thread hears of what another took for it.
        self._turn = 0
        self._seen = threading.local()
        self._waiting = 0
        self._telling = False

    def _here(self) -> None:
        """Begin anew in a forked process: threads and waits stayed with the parent."""
        if self._pid != os.getpid():
            self._begin_anew()

    def on_after_fork(self) -> None:
        self._here()

    # What is waited for

    def start(self, initial_task_id: str, **kwargs: Any) -> None:
        self.consume_from(initial_task_id)

    def consume_from(self, task_id: str) -> None:
        self._here()
        self._forget_cancelled()
        if task_id not in self._watched:
            self._watched.add(task_id)
            watcher_for(self.backend.address).add([task_id], self._told)

    def cancel_for(self, task_id: str) -> None:
        # Called by __del__ of results, at any moment, within whatever this thread is doing: no lock is taken.
        if task_id in self._watched:
            self._cancelled.append(task_id)

    def _forget_cancelled(self) -> None:
        gone = []
        while self._cancelled:
            try:
                task_id = self._cancelled.popleft()
            except IndexError:  # another thread had it
                break
            if task_id in self._watched:
                self._watched.discard(task_id)
                gone.append(task_id)
        if gone:
            watcher_for(self.backend.address).discard(gone, self._told)

    def stop(self) -> None:
        self._cancelled.extend(self._watched)
        self._forget_cancelled()

    # What arrives

    def on_state_change(self, meta: dict[str, Any], message: Any) -> None:
        super().on_state_change(meta, message)
        if meta["status"] in states.READY_STATES:
            self.cancel_for(meta["task_id"])

    def _told(self, task_id: str, stored: StoredResult) -> None:
        """Take a result, or a state on the way to it, from the watcher's thread."""
        if stored.state in states.READY_STATES:
            self._watched.discard(task_id)
        elif not self._waiting:
            return
        self._arrived.append((task_id, stored))
        with self._changed:
            self._changed.notify_all()
        self._tell_if_nobody_waits()

    def _tell_if_nobody_waits(self) -> None:
        with self._changed:
            if self._waiting or self._telling or not self._arrived:
                return
            self._telling = True
        threading.Thread(target=self._tell, name="results that are told", daemon=True).start()

    def _tell(self) -> None:
        while True:
            with self._changed:
                if not self._arrived:
                    self._telling = False
                    return
            try:
                self._take()
            except Exception:  # a callback of then()
                logger.exception("telling of a result failed")

    def _take(self) -> bool:
        """Deal with all that has arrived; returns whether there was anything."""
        taken = False
        try:
            while self._arrived:
                try:
                    task_id, stored = self._arrived.popleft()
                except IndexError:  # another thread had it
                    break
                taken = True
                self.on_state_change(self.backend.meta_for(task_id, stored), None)
        finally:
            if taken:
                with self._changed:
                    self._turn += 1
                    self._changed.notify_all()
        return taken

    def drain_events(self, timeout: float | None = None) -> None:
        self._here()
        self._forget_cancelled()
        if not self._take():
            seen = getattr(self._seen, "turn", None)
            with self._changed:
                self._changed.wait_for(lambda: bool(self._arrived) or self._turn != seen, timeout)
                changed = bool(self._arrived) or self._turn != seen
            if not changed:
                raise TimeoutError  # an interval without news, to Celery's drainer
            self._take()
        self._seen.turn = self._turn

    def _wait_for_pending(self, result: Any, *args: Any, **kwargs: Any) -> Iterator[None]:
        self._here()
        with self._changed:
            self._waiting += 1
            self._seen.turn = self._turn
        members = _Members(result, self.buckets) if isinstance(result, ResultSet) else None
        try:
            for _ in super()._wait_for_pending(result, *args, **kwargs):
                if members is not None:
                    members.look()
                yield
            on_interval, meta = kwargs.get("on_interval"), getattr(result, "_cache", None)
            if on_interval and isinstance(meta, dict) and meta["status"] in states.PROPAGATE_STATES:
                # What failed in front of it is raised instead, however soon both were known.
                on_interval()
        finally:
            with self._changed:
                self._waiting -= 1
            self._tell_if_nobody_waits()

    def on_wait_for_pending(self, result: Any, timeout: float | None = None, **kwargs: Any) -> None:
        # What is there already needs no waiting, and a broker that isn't there is told of at once.
        for meta in result._iter_meta(**kwargs):
            if meta is not None:
                self.on_state_change(meta, None)
                self.backend.drop_buffered(meta)
        if isinstance(result, ResultSet):
            _Members(result, self.buckets).look()
