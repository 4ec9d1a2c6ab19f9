"""How a message enters its queue: at once, or when its time comes."""

from __future__ import annotations

from emq_compat.broker.desk import Desk
from emq_compat.broker.queues import MessageQueue, QueueSet
from emq_compat.broker.records import Moment, StoredMessage, home_key, marked, priority_of, queue_of
from emq_compat.message import Headers

__all__ = ["Entry"]

#: Delayed messages made ready in one turn.
DUE_BATCH = 1000


class Entry:
    """The way into the queues.

    Attributes:
        next_due_ms: when the next delayed message is due, unix milliseconds; None: none waits.
    """

    def __init__(self, desk: Desk, queues: QueueSet) -> None:
        self._desk = desk
        self._journal = desk.journal
        self._queues = queues
        self.next_due_ms = self._journal.next_due_ms()

    def add(
        self,
        queue: MessageQueue,
        msgid: str,
        headers: Headers,
        header_text: str,
        payload: bytes,
        now: Moment,
    ) -> None:
        """Take in a new message."""
        self._desk.counters["published"] += 1
        sequence = self._journal.next_sequence()
        if headers.eta > now.wall:
            due_ms = int(headers.eta * 1000)
            home = home_key(queue.id, headers.priority)
            self._journal.add_delayed(sequence, home, due_ms, msgid, header_text, payload, marked(headers))
            self._delay(queue, due_ms)
        else:
            queue.append(sequence, msgid, headers, header_text, payload)

    def release(
        self, key: int, queue: MessageQueue, msgid: str, headers: Headers, payload: bytes, now: Moment
    ) -> None:
        """Let a message that was held on disk into its queue, with the headers and payload it has now."""
        text = headers.encode()
        if headers.eta > now.wall:
            due_ms = int(headers.eta * 1000)
            self._journal.release(key, key, home_key(queue.id, headers.priority), due_ms, text, payload)
            self._delay(queue, due_ms)
        else:
            sequence = self._journal.next_sequence()
            new_key = home_key(queue.id, headers.priority) | sequence
            self._journal.release(key, new_key, None, None, text, payload)
            queue.append(sequence, msgid, headers, text, payload, stored=True)

    def withdraw(self, message: StoredMessage, home: int | None) -> MessageQueue:
        """Take out a message that waits, or waits for its time (it has a ``home``); returns its queue.

        It stays on disk.
        """
        where = message.key if home is None else home
        queue = self._queues.by_id[queue_of(where)]
        if home is None:
            queue.withdraw(message.key, priority_of(where))
        else:
            queue.delayed -= 1
            queue.changed = True
        return queue

    def _delay(self, queue: MessageQueue, due_ms: int) -> None:
        queue.delayed += 1
        queue.changed = True
        if self.next_due_ms is None or due_ms < self.next_due_ms:
            self.next_due_ms = due_ms

    def make_due_ready(self, now: Moment) -> None:
        """Move delayed messages whose time has come into their queues."""
        if self.next_due_ms is None or self.next_due_ms > now.wall * 1000:
            return
        due = self._journal.due(int(now.wall * 1000), DUE_BATCH)
        moves = [(key, home | self._journal.next_sequence()) for key, home in due]
        self._journal.make_ready(moves)
        for _, key in moves:
            self._queues.by_id[queue_of(key)].arrived(priority_of(key))
        self.next_due_ms = self._journal.next_due_ms()
