"""What is declared of queues, which are paused, and how those end that are there for somebody or for a time.

    exclusive    ends with the connection that declared it last
    auto_delete  ends when its last consumer has left (a worker of whatever kind)
    expires      ends when nobody has consumed, fetched or declared it for so long

Of these, those that aren't durable end with the broker, too. A queue that nobody declared (it was named by a
publish or a worker) is kept for good.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

from emq_compat.broker.desk import Desk
from emq_compat.broker.exchanges import Exchanges
from emq_compat.broker.flights import Flights
from emq_compat.broker.queue import MessageQueue
from emq_compat.broker.records import Moment, queue_of
from emq_compat.broker.withdrawals import Withdrawals

__all__ = ["Declared", "Terms"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is declared of a queue.

    Attributes:
        owner: the client's identity, of an exclusive queue; empty: of another.
        expires_s: seconds after which it ends unused; None: never.
        ttl_s: seconds that a message may wait in it; None: without end.
    """

    durable: bool = True
    auto_delete: bool = False
    owner: bytes = b""
    expires_s: float | None = None
    ttl_s: float | None = None

    @property
    def passing(self) -> bool:
        """Whether it ends with the broker."""
        return not self.durable and bool(self.auto_delete or self.owner or self.expires_s is not None)


class Declared:
    """The queues of which something was declared."""

    def __init__(
        self, desk: Desk, flights: Flights, exchanges: Exchanges, withdrawals: Withdrawals, now: Moment
    ) -> None:
        self._desk = desk
        self._journal = desk.journal
        self._broker = str(desk.about.get("broker", ""))
        self._flights = flights
        self._queues = flights.queues
        self._exchanges = exchanges
        self._withdrawals = withdrawals
        self._terms: dict[int, Terms] = {}
        #: queue's id → monotonic time at which it was last used.
        self._used: dict[int, float] = {}
        self._load(now)

    def _load(self, now: Moment) -> None:
        for queue_id, text in self._journal.queue_options():
            told = json.loads(text)
            terms = Terms(
                durable=told["durable"],
                auto_delete=told["auto_delete"],
                owner=bytes.fromhex(told["owner"]),
                expires_s=told["expires_s"],
                ttl_s=told["ttl_s"],
            )
            queue = self._queues.by_id[queue_id]
            queue.pause(paused=told.get("paused", False))
            self._keep(queue, terms, now)
            if terms.passing and told["broker"] != self._broker:
                self.delete(queue, now)

    def _keep(self, queue: MessageQueue, terms: Terms, now: Moment) -> None:
        self._terms[queue.id] = terms
        self._used[queue.id] = now.mono
        queue.ttl_s = terms.ttl_s

    def declare(self, name: str, terms: Terms, now: Moment) -> MessageQueue:
        """Make a queue, or change what is declared of it."""
        queue = self._queues.get(name)
        self._set(queue, terms, now)
        return queue

    def _set(self, queue: MessageQueue, terms: Terms, now: Moment) -> None:
        known = self._terms.get(queue.id, Terms())
        self._keep(queue, terms, now)
        if terms != known:
            self._write(queue, terms)

    def _write(self, queue: MessageQueue, terms: Terms) -> None:
        options = {
            "durable": terms.durable,
            "auto_delete": terms.auto_delete,
            "owner": terms.owner.hex(),
            "expires_s": terms.expires_s,
            "ttl_s": terms.ttl_s,
            "broker": self._broker,
            "paused": queue.paused,
        }
        plain = terms == Terms() and not queue.paused
        self._journal.set_queue_options(queue.id, None if plain else json.dumps(options))

    def pause(self, queue: MessageQueue, *, paused: bool) -> bool:
        """Hand out nothing of a queue, also after a restart, or go on; False: that is so already.

        What is handed out already ends as ever, and what is published is taken in.
        """
        if queue.paused == paused:
            return False
        queue.pause(paused=paused)
        self._write(queue, self._terms.get(queue.id, Terms()))
        return True

    def used(self, queue: MessageQueue, now: Moment) -> None:
        """Note that somebody has fetched from a queue."""
        if queue.id in self._used:
            self._used[queue.id] = now.mono

    def consumers(self, queue: MessageQueue) -> int:
        """Return how many workers listen on a queue."""
        return sum(queue in worker.queues for worker in self._flights.workers.values() if worker.present)

    def delete(self, queue: MessageQueue, now: Moment) -> int:
        """Drop a queue's messages and bindings, and the queue; returns how many messages.

        A queue on which somebody listens, or of which something is handed out, is only emptied and unbound.
        It goes later, if it was there for somebody or for a time; another one may be meant for more.
        """
        dropped = self._withdrawals.purge(queue, now, quietly=True)
        self._exchanges.forget_queue(queue.name)
        terms = self._terms.pop(queue.id, Terms())
        self._used.pop(queue.id, None)
        queue.ttl_s = None
        if not (self.consumers(queue) or self._in_flight(queue) or queue.held):
            self._queues.remove(queue)
        elif terms.passing:
            self._set(queue, Terms(durable=False, auto_delete=True, expires_s=0.0), now)
        else:
            self._write(queue, Terms())
        return dropped

    def _in_flight(self, queue: MessageQueue) -> bool:
        return any(queue_of(key) == queue.id for key in self._flights.by_key)

    def left(self, queues: Iterable[MessageQueue], now: Moment) -> None:
        """Note that a consumer listens no more on these: they may end with it."""
        for queue in queues:
            terms = self._terms.get(queue.id)
            if terms is None:
                continue
            self._used[queue.id] = now.mono
            if terms.auto_delete and not self.consumers(queue):
                self.delete(queue, now)

    def client_gone(self, identity: bytes, now: Moment) -> None:
        """End the exclusive queues of a client whose connection is gone."""
        for queue_id in [queue_id for queue_id, terms in self._terms.items() if terms.owner == identity]:
            self.delete(self._queues.by_id[queue_id], now)

    def tick(self, now: Moment) -> None:
        """End the queues that were not used for as long as they may be."""
        for queue_id, terms in list(self._terms.items()):
            until = self._used[queue_id] + (math.inf if terms.expires_s is None else terms.expires_s)
            if until > now.mono:
                continue
            queue = self._queues.by_id[queue_id]
            if self.consumers(queue):
                self._used[queue_id] = now.mono
            else:
                self.delete(queue, now)
