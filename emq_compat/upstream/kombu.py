"""The upstream of brokers that kombu speaks to: RabbitMQ, Redis, SQS, a folder, this process's memory.

A thread of its own has the connection (kombu_thread.py); this side only hands over what is said and heard.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from emq_compat.message import Delivery, Reply
from emq_compat.upstream.base import Connected, Key, Upstream, UpstreamEvent
from emq_compat.upstream.kombu_pipe import Pipe
from emq_compat.upstream.kombu_tap import KombuSettings
from emq_compat.upstream.kombu_thread import Worker
from emq_compat.words import amount

__all__ = ["KombuUpstream"]

logger = logging.getLogger(__name__)

#: Events taken in one step, so that children and signals get their turn.
BATCH = 256
#: So long (seconds) the end waits for a thread that seeks a broker and has nothing to tell it: a silent one
#: holds it up until the connection is given up.
_AWAY_S = 0.5


class KombuUpstream(Upstream):
    """One broker, over any of its addresses.

    Args:
        name: the worker's node name.
        queues: (weight, name) of each queue listened on; the weight means nothing to these brokers.
        settings: of the broker and the app.
    """

    def __init__(
        self, *, name: str, queues: Sequence[tuple[int, str]], settings: KombuSettings
    ) -> None:
        self.name = name
        self.settings = settings
        self._queues = tuple(queue for _, queue in queues)
        self._events: deque[tuple[int, UpstreamEvent]] = deque()
        self._heard = Pipe()
        self._worker = Worker(name, self._queues, settings, self._tell)
        #: Which connection the job manager knows of: credit for an earlier one is void.
        self._connection = 0
        self._deadline: float | None = None
        self._stopped = False
        self._slots = 0

    def _tell(self, connection: int, event: UpstreamEvent) -> None:
        self._events.append((connection, event))
        self._heard.wake()

    def start(self) -> None:
        self._heard.open()
        self._worker.start()

    def fds(self) -> Sequence[int]:
        return (self._heard.fileno(),) if self._runs else ()

    @property
    def _runs(self) -> bool:
        return self._worker.ident is not None and not self._stopped

    def deadline(self) -> float | None:
        return 0.0 if self._events else None

    def step(self, now: float) -> list[UpstreamEvent]:
        self._heard.drain()
        told: list[UpstreamEvent] = []
        events = self._events
        while events and len(told) < BATCH:
            connection, event = events.popleft()
            if isinstance(event, Connected):
                self._connection = connection
            told.append(event)
        return told

    def ready(self, count: int) -> None:
        self._worker.do("ready", self._connection, count)

    def recall(self) -> bool:
        self._worker.do("recall", self._connection)
        return True

    @property
    def limits(self) -> bool:
        """None of these brokers knows how often a task may run."""
        return False

    @property
    def max_losses(self) -> int:
        return self.settings.max_losses

    def reply(self, key: Key, reply: Reply) -> None:
        self._worker.unanswered += 1
        self._worker.do("reply", key[0], reply)

    def update(self, key: Key, state: str, body: bytes) -> None:
        """Do nothing: whoever runs a task stores its states in the result backend."""

    def nack(self, keys: Sequence[Key]) -> None:
        self._worker.do("nack", [msgid for msgid, _ in keys])

    def began(self, keys: Sequence[Key]) -> None:
        self._worker.do("began", [msgid for msgid, _ in keys])

    def answer(self, asked: str, body: bytes) -> None:
        self._worker.do("answer", asked, body)

    def unacknowledged(self) -> int:
        return self._worker.unanswered

    @property
    def remembers(self) -> bool:
        """Only some of these brokers know a worker again after a cut."""
        return bool(self._worker.survives)

    def listen(self, queues: Sequence[tuple[int, str]]) -> bool:
        self._queues = tuple(queue for _, queue in queues)
        self._worker.do("listen", self._queues)
        return True

    @property
    def announces(self) -> bool:
        return self.settings.control is not None

    def announce(self, topic: str, payload: bytes) -> bool:
        if not self._worker.connected:
            return False
        self._worker.do("announce", topic, payload)
        return True

    @property
    def keeps_revokes(self) -> bool:
        return False

    def scheduled(self) -> list[Delivery]:
        return self._worker.scheduled()

    def stats(self) -> dict[str, Any]:
        return self._worker.stats()

    def resize(self, slots: int) -> None:
        if slots != self._slots:
            self._slots = slots
            self._worker.do("resize", slots)

    def leave(self) -> None:
        self._worker.do("leave")

    def epilogues(self) -> list[Delivery]:
        if not self._runs or not self._worker.has_business:
            return []
        found: list[Delivery] = []
        done = threading.Event()
        self._worker.do("epilogues", found, done)
        if not done.wait(2.0):
            logger.warning("%s: the broker's thread doesn't answer", self.name)
            return []
        return list(found)

    def stop(self, timeout_s: float) -> None:
        if not self._runs:
            return
        self._stopped = True
        end = time.monotonic() + timeout_s
        has_business = self._worker.has_business
        self._worker.do("stop", end)
        ended = self._worker.ended(timeout_s + 1.0 if has_business else _AWAY_S)
        if has_business and not ended:
            logger.error("%s: the broker didn't let go within %g s", self.name, timeout_s)
        elif self._worker.unanswered:
            logger.error(
                "%s could not be settled within %g s: the broker hands out again what they answer",
                amount(self._worker.unanswered, "reply", "replies"),
                timeout_s,
            )
        if ended:
            self._heard.close()
