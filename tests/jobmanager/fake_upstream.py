"""An upstream that a test feeds, and a job manager that runs beside the test."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from emq_compat.jobmanager import JobManager
from emq_compat.manager.signals import Stage
from emq_compat.message import Delivery, Headers, Job, Reply
from emq_compat.upstream.base import Asked, Connected, Delivered, Key, Upstream, UpstreamEvent
from tests.processes import wait_until

NO_HEADERS = Headers()


class FakeUpstream(Upstream):
    """Gives what ``put`` was given, and keeps all that it is told.

    Attributes:
        credit: the sum of all ``ready``.
        replies, returned, begun, updates, answers: in order.
    """

    def __init__(self) -> None:
        self.credit = 0
        self.replies: dict[str, Reply] = {}
        self.returned: list[Key] = []
        self.begun: list[Key] = []
        self.updates: list[tuple[Key, str]] = []
        self.answers: dict[str, bytes] = {}
        self.queues: Sequence[tuple[int, str]] = ()
        self.left = self.stopped = False
        self._events: list[UpstreamEvent] = []
        self._lock = threading.Lock()
        self._read, self._write = os.pipe()

    def put(self, *events: UpstreamEvent) -> None:
        """Have the job manager see these; from any thread."""
        with self._lock:
            self._events += events
            os.write(self._write, b"x")

    def deliver(self, msgid: str, path: str, name: str, *args: Any, headers: Headers = NO_HEADERS) -> None:
        """Deliver a job."""
        payload = Job(path=path, callable=name, args=args).encode()
        self.put(Delivered(delivery=Delivery(msgid=msgid, queue="default", headers=headers, payload=payload)))

    def ask(self, verb: str, **arguments: Any) -> bytes:
        """Ask by remote control; returns the answer's document."""
        self.put(Asked(asked=verb, verb=verb, arguments=arguments))
        return wait_until(lambda: self.answers.pop(verb, b""), what=f"the answer to {verb}")

    def reply_to(self, msgid: str, timeout_s: float = 20.0) -> Reply:
        """Wait for the reply to a job."""
        return wait_until(lambda: self.replies.get(msgid), timeout_s, what=f"the reply to {msgid}")  # type: ignore[return-value]

    # The contract.

    def start(self) -> None:
        self.put(Connected(address="tcp://fake"))

    def fds(self) -> Sequence[int]:
        return (self._read,)

    def deadline(self) -> float | None:
        return None

    def step(self, now: float) -> list[UpstreamEvent]:
        with self._lock:
            os.read(self._read, 4096)
            events, self._events = self._events, []
        return events

    def ready(self, count: int) -> None:
        self.credit += count

    def reply(self, key: Key, reply: Reply) -> None:
        self.replies[key[0]] = reply

    def update(self, key: Key, state: str, body: bytes) -> None:
        self.updates.append((key, state))

    def nack(self, keys: Sequence[Key]) -> None:
        self.returned += keys

    def began(self, keys: Sequence[Key]) -> None:
        self.begun += keys

    def answer(self, asked: str, body: bytes) -> None:
        self.answers[asked] = body

    def unacknowledged(self) -> int:
        return 0

    def listen(self, queues: Sequence[tuple[int, str]]) -> bool:
        self.queues = queues
        return True

    def leave(self) -> None:
        self.left = True

    def stop(self, timeout_s: float) -> None:
        self.stopped = True

    def close(self) -> None:
        """Close its pipe."""
        os.close(self._read)
        os.close(self._write)


@contextmanager
def running(manager: JobManager, upstream: FakeUpstream) -> Iterator[list[int]]:
    """Run a job manager in a thread during the block, end it warm; the list then holds its exit status."""
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(manager.start()))
    thread.start()
    try:
        wait_until(lambda: upstream.credit or not thread.is_alive(), what="the job manager's first READY")
        yield statuses
    finally:
        # As a signal would: noted here, acted upon by the loop.
        manager.sigterm_handler(15)
        thread.join(20)
        assert not thread.is_alive()
        assert manager.received_disconnect
        assert upstream.stopped
        assert manager._stage >= Stage.WARM
