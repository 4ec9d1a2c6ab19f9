"""How a message enters its queue: at once, or when its time comes."""

from __future__ import annotations

from dataclasses import replace

from emq_compat.broker.desk import Desk
from emq_compat.broker.gates import Gates
from emq_compat.broker.queue import MessageQueue
from emq_compat.broker.queues import QueueSet
from emq_compat.broker.records import MarkedMessage, Moment, home_key, marked, priority_of, queue_of
from emq_compat.message import Headers

__all__ = ["Entry"]

#: Delayed messages made ready in one turn.
DUE_BATCH = 1000


class Entry:
    """The way into the queues.

    Attributes:
        next_due_ms: when the next delayed message is due, unix milliseconds; None: none waits.
    """

    def __init__(self, desk: Desk, queues: QueueSet, gates: Gates) -> None:
        self._desk = desk
        self._journal = desk.journal
        self._queues = queues
        self._gates = gates
        self._shares = gates.shares
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
        if queue.ttl_s is not None:
            until = max(headers.eta, now.wall) + queue.ttl_s
            if not headers.expires or headers.expires > until:
                headers = replace(headers, expires=until)
                header_text = headers.encode()
        sequence = self._journal.next_sequence()
        if headers.eta > now.wall:
            due_ms = int(headers.eta * 1000)
            home = home_key(queue.id, headers.priority)
            self._journal.add_delayed(sequence, home, due_ms, msgid, header_text, payload, marked(headers))
            self._delay(queue, due_ms)
        elif headers.slots or headers.pace or headers.task in self._shares:
            home = home_key(queue.id, headers.priority)
            gate = self._gates.full(headers, home, now)
            if gate is not None:
                self._gates.park_new(sequence, home, gate, msgid, headers, header_text, payload)
            else:
                queue.append(sequence, msgid, headers, header_text, payload)
                self._gates.entered(home | sequence, headers)
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
            if self._gates.concern(headers):
                self._gates.entered(new_key, headers)

    def withdraw(self, marked: MarkedMessage, headers: Headers) -> MessageQueue:
        """Take out a message that waits, is parked, or waits for its time; returns its queue.

        It stays on disk.
        """
        message, home, gate = marked
        where = message.key if home is None else home
        queue = self._queues.by_id[queue_of(where)]
        if home is None:
            queue.withdraw(message.key, priority_of(where))
            if self._gates.concern(headers):
                self._gates.gone(message.key, headers)
        elif gate is not None:
            self._gates.withdrawn(gate, home)
        else:
            queue.delayed -= 1
            queue.touch()
        return queue

    def _delay(self, queue: MessageQueue, due_ms: int) -> None:
        queue.delayed += 1
        queue.touch()
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
