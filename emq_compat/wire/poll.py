"""Waiting for everything at once: one epoll, and ZeroMQ's sockets where there are any.

zmq.Poller asks each socket for its events before and after every sleep: some 25 system calls for a broker's
sockets. Here descriptors are polled, and only the sockets of ZeroMQ themselves are asked, once, before
sleeping: what their descriptors tell is edge-triggered.
"""

from __future__ import annotations

import contextlib
import select
import socket
from typing import Protocol

__all__ = ["Poll", "Polled", "Wake"]

_AT_ONCE = 512


class Polled(Protocol):
    """What is told of its descriptors' events."""

    def noted(self, fd: int, events: int) -> None:
        """Take note of what the poll has found."""

    def ready(self) -> bool:
        """Tell whether there is something to be taken though its descriptors tell nothing."""


class Poll:
    """Tells which of its members have something to be taken. Used by one thread."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._by_fd: dict[int, Polled] = {}
        self._events: dict[int, int] = {}
        self._members: dict[Polled, None] = {}
        self._muted: set[Polled] = set()

    def add(self, member: Polled) -> None:
        """Ask a member, before each sleep, whether it is ``ready``."""
        self._members[member] = None

    def watch(self, fd: int, member: Polled, events: int = select.EPOLLIN) -> None:
        """Tell a member of a descriptor's events (epoll's, level-triggered)."""
        self._by_fd[fd] = member
        self._events[fd] = events
        if member not in self._muted:
            self._poll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        """Look for other events of a descriptor."""
        self._events[fd] = events
        if self._by_fd[fd] not in self._muted:
            self._poll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Look no more at a descriptor; to be called before it is closed."""
        member = self._by_fd.pop(fd, None)
        if member is not None:
            del self._events[fd]
            if member not in self._muted:
                self._poll.unregister(fd)

    def mute(self, member: Polled) -> None:
        """Tell nothing of a member, until ``unmute``."""
        if member not in self._muted:
            for fd, owner in self._by_fd.items():
                if owner is member:
                    self._poll.unregister(fd)
            self._muted.add(member)

    def unmute(self, member: Polled) -> None:
        """Tell again of a member, also of what has come meanwhile."""
        if member in self._muted:
            self._muted.remove(member)
            for fd, owner in self._by_fd.items():
                if owner is member:
                    self._poll.register(fd, self._events[fd])

    def wait(self, timeout_s: float) -> set[Polled]:
        """Return the members that have something, after ``timeout_s`` at the latest."""
        ready = {member for member in self._members if member.ready()}
        if self._muted:
            ready -= self._muted
        by_fd = self._by_fd
        for fd, events in self._poll.poll(0 if ready else timeout_s, _AT_ONCE):
            if (member := by_fd.get(fd)) is not None:
                member.noted(fd, events)
                ready.add(member)
        return ready

    def close(self) -> None:
        """Close."""
        self._poll.close()


class Wake:
    """By which other threads, and signals, end a sleep."""

    def __init__(self, poll: Poll) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        poll.watch(self._reader.fileno(), self)

    def fileno(self) -> int:
        """Return the descriptor of which a byte that is written wakes (signal.set_wakeup_fd)."""
        return self._writer.fileno()

    def wake(self) -> None:
        """End the sleep that is on, or the next one; from any thread, and after ``close`` in vain."""
        with contextlib.suppress(BlockingIOError, OSError):
            self._writer.send(b"\0")

    def noted(self, fd: int, events: int) -> None:
        """Forget what woke."""
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(4096)

    def ready(self) -> bool:
        """Return False: it has nothing but wakes."""
        return False

    def close(self) -> None:
        """Close."""
        self._reader.close()
        self._writer.close()
