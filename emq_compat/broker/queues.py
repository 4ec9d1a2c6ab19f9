"""All queues of a broker."""

from __future__ import annotations

from collections.abc import Callable

from emq_compat.broker.journal import Journal
from emq_compat.broker.queue import Marks, MessageQueue
from emq_compat.broker.windows import WindowBudget

__all__ = ["DEFAULT_QUEUE", "QueueSet"]

#: The queue of an INFORM or REQUEST that names none (eventmq's).
DEFAULT_QUEUE = "default"


class QueueSet:
    """All queues: those of the journal, and each one that is named, made on first use.

    Args:
        skip: tells whether a message's key is handed out at the moment.

    Attributes:
        busy, touched: those that need a look, see Marks.
    """

    def __init__(self, journal: Journal, skip: Callable[[int], bool]) -> None:
        self._journal = journal
        self._skip = skip
        self._budget = WindowBudget()
        self._marks = Marks()
        self.busy = self._marks.busy
        self.touched = self._marks.touched
        self.by_name: dict[str, MessageQueue] = {}
        self.by_id: dict[int, MessageQueue] = {}
        for row in journal.queues():
            self._add(
                MessageQueue(
                    row.id,
                    row.name,
                    journal,
                    self._budget,
                    self._marks,
                    skip,
                    waiting=row.waiting,
                    delayed=row.delayed,
                    on_disk=True,
                )
            )

    def get(self, name: str) -> MessageQueue:
        """Return the queue of this name; '' is eventmq's default queue."""
        name = name or DEFAULT_QUEUE
        queue = self.by_name.get(name)
        if queue is None:
            queue_id = self._journal.add_queue(name)
            queue = self._add(
                MessageQueue(queue_id, name, self._journal, self._budget, self._marks, self._skip)
            )
        return queue

    def remove(self, queue: MessageQueue) -> None:
        """Remove a queue that holds nothing, and of which nothing is handed out."""
        del self.by_name[queue.name], self.by_id[queue.id]
        self.busy.discard(queue)
        self._marks.paused.discard(queue)
        self.touched.discard(queue)
        self._journal.drop_queue(queue.id)

    def _add(self, queue: MessageQueue) -> MessageQueue:
        self.by_name[queue.name] = self.by_id[queue.id] = queue
        return queue
