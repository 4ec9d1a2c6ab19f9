"""Drives a pool as the job manager's loop does, for tests."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Callable
from typing import TypeVar

import psutil

from emq_compat.message import Delivery, Headers, Reply
from emq_compat.pool.base import Assignment, Begun, Finished, Key, Lost, Pool, PoolEvent, Updated

E = TypeVar("E", Begun, Finished, Lost, Updated)


def assignment(
    payload: bytes | str, msgid: str = "m", *, limit_s: float | None = None, soft_limit_s: float | None = None
) -> Assignment:
    """An assignment whose payload is what the tests' work understands."""
    data = payload.encode() if isinstance(payload, str) else payload
    delivery = Delivery(msgid=msgid, queue="q", headers=Headers(attempt=1, task_id=msgid), payload=data)
    return Assignment(delivery=delivery, limit_s=limit_s, soft_limit_s=soft_limit_s)


class Driver:
    """Steps a pool until something is true, and keeps every event."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.events: list[PoolEvent] = []

    def step(self, timeout_s: float) -> list[PoolEvent]:
        """One round of the loop."""
        poller = select.poll()
        for fd in self.pool.fds():
            poller.register(fd, select.POLLIN)
        deadline = self.pool.next_deadline()
        if deadline is not None:
            timeout_s = min(timeout_s, max(0.0, deadline - time.monotonic()))
        readable = [fd for fd, _ in poller.poll(1000 * timeout_s)]
        events = self.pool.step(readable, time.monotonic())
        self.events += events
        return events

    def until(self, done: Callable[[], object], timeout_s: float = 10.0) -> None:
        """Step until ``done()`` is true."""
        deadline = time.monotonic() + timeout_s
        while not done():
            left = deadline - time.monotonic()
            assert left > 0, f"not within {timeout_s} s; events: {self.events!r}"
            self.step(min(left, 0.2))

    def idle(self, n: int) -> None:
        """Wait until n slots are idle."""
        self.until(lambda: self.pool.idle() >= n)

    def submit(self, item: Assignment, *, reserve: bool = False) -> Key:
        """Submit; it must be taken."""
        assert self.pool.submit(item, reserve=reserve)
        return item.key

    def of(self, kind: type[E], msgid: str | None = None) -> list[E]:
        """The events of one kind, and of one message."""
        return [e for e in self.events if isinstance(e, kind) and (msgid is None or e.key[0] == msgid)]

    def finished(self, *msgids: str, timeout_s: float = 10.0) -> list[Finished]:
        """Wait until these have finished, and return how."""
        self.until(lambda: all(self.of(Finished, msgid) for msgid in msgids), timeout_s)
        return [self.of(Finished, msgid)[0] for msgid in msgids]

    def lost(self, msgid: str, timeout_s: float = 10.0) -> Lost:
        """Wait until it is lost, and return how."""
        self.until(lambda: self.of(Lost, msgid), timeout_s)
        return self.of(Lost, msgid)[0]

    def begun(self, msgid: str) -> Begun:
        """Wait until it has begun."""
        self.until(lambda: self.of(Begun, msgid))
        return self.of(Begun, msgid)[0]

    def told(self, msgid: str, state: str) -> Updated:
        """Wait until it has reported this state."""
        self.until(lambda: any(e.state == state for e in self.of(Updated, msgid)))
        return next(e for e in self.of(Updated, msgid) if e.state == state)


def pool_processes() -> set[psutil.Process]:
    """Zygotes and children below this process, zombies included."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name().startswith("emq-"):
                found.add(process)
    return found


def replies(found: list[Finished]) -> list[bytes]:
    """Their bodies."""
    return [event.reply.body for event in found]


def success(body: bytes) -> Reply:
    """A reply."""
    return Reply(state="SUCCESS", body=body)
