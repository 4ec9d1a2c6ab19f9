"""Waiting for several wires and plain descriptors at once.

zmq.Poller asks each socket for its events before and after every sleep: some 25 system calls for a broker's
sockets. Here ZeroMQ's descriptors are polled, and only the wires themselves are asked, once, before sleeping.
"""

from __future__ import annotations

import select
from collections.abc import Iterable
from typing import TypeAlias

from emq_compat.wire.monitor import Watched

__all__ = ["Poll", "Polled"]

Polled: TypeAlias = "Watched | int"


class Poll:
    """Tells which wires have something to be received, and which descriptors are readable."""

    def __init__(self, wires: Iterable[Watched], fds: Iterable[int]) -> None:
        self._wires = tuple(wires)
        self._by_fd: dict[int, Polled] = {fd: fd for fd in fds}
        for wire in self._wires:
            self._by_fd.update(dict.fromkeys(wire.fds(), wire))
        self._poll = select.poll()
        for fd in self._by_fd:
            self._poll.register(fd, select.POLLIN)

    def wait(self, timeout_ms: int) -> set[Polled]:
        """Return those that are readable, after ``timeout_ms`` at the latest.

        ``receive`` must be called on each wire that is returned; it may find nothing.
        """
        ready: set[Polled] = {wire for wire in self._wires if wire.ready()}
        by_fd = self._by_fd
        ready.update(by_fd[fd] for fd, _ in self._poll.poll(0 if ready else timeout_ms))
        return ready
