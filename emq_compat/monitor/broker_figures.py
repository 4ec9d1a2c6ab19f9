"""The metrics of a broker: which there are, what is counted for them, and how its engine is read."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from emq_compat.broker.queue import MessageQueue
from emq_compat.broker.records import Moment
from emq_compat.broker.server import Server
from emq_compat.monitor.figures import OTHER, Family, Figures, Histogram

__all__ = ["BROKER_FAMILIES", "BrokerCounts"]

#: Queues that have series of their own.
MOST_QUEUES: Final = 200
#: What is counted on disk may take this share of the loop's time.
_COUNTING_SHARE: Final = 1 / 100

_LATENCIES_S = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
)

#: Counter of the engine → its metric.
_COUNTERS = {
    "published": Family(
        "emq_broker_messages_published_total", "counter", "Messages taken in, follow-ups included."
    ),
    "handed_out": Family(
        "emq_broker_messages_delivered_total", "counter", "Hand-outs to workers, given back ones included."
    ),
    "finished": Family("emq_broker_messages_acknowledged_total", "counter", "Hand-outs whose outcome came."),
    "redelivered": Family(
        "emq_broker_messages_redelivered_total", "counter", "Lost or returned hand-outs that waited again."
    ),
    "lost": Family(
        "emq_broker_messages_lost_total", "counter", "Hand-outs that were lost with their holder."
    ),
    "dead": Family(
        "emq_broker_messages_dead_lettered_total", "counter", "Messages put aside as dead letters."
    ),
    "expired": Family(
        "emq_broker_messages_expired_total", "counter", "Messages that expired before a worker had them."
    ),
    "revoked": Family(
        "emq_broker_messages_revoked_total", "counter", "Messages that ended as revoked, here or at a worker."
    ),
    "duplicates": Family(
        "emq_broker_messages_duplicate_total", "counter", "Publishes of a message that was known."
    ),
    "joined": Family(
        "emq_broker_messages_joined_total", "counter", "Publishes that a unique key led to another message."
    ),
    "unroutable": Family(
        "emq_broker_messages_unroutable_total", "counter", "Messages to an exchange that led to no queue."
    ),
    "stale": Family(
        "emq_broker_outcomes_stale_total", "counter", "Outcomes of hand-outs that counted no more."
    ),
    "malformed": Family(
        "emq_broker_commands_malformed_total", "counter", "Commands that could not be understood."
    ),
    "forbidden": Family(
        "emq_broker_commands_forbidden_total", "counter", "Commands that the sender's key doesn't allow."
    ),
    "topics": Family("emq_broker_announcements_total", "counter", "Events and other announcements taken in."),
    "topics_dropped": Family(
        "emq_broker_announcements_dropped_total", "counter", "Announcements that a subscriber missed."
    ),
}

_QUEUE = ("queue",)
BROKER_FAMILIES: Final = (
    Family("emq_broker_queue_messages_waiting", "gauge", "Messages that could be handed out now.", _QUEUE),
    Family(
        "emq_broker_queue_oldest_waiting_seconds",
        "gauge",
        "How long the oldest of them has been in its queue.",
        _QUEUE,
    ),
    Family(
        "emq_broker_queue_messages_delayed",
        "gauge",
        "Messages that wait for their time (eta, countdown).",
        _QUEUE,
    ),
    Family(
        "emq_broker_queue_messages_held",
        "gauge",
        "Messages that wait for their chord or another message.",
        _QUEUE,
    ),
    Family(
        "emq_broker_queue_messages_parked", "gauge", "Messages that wait for a shared place or pace.", _QUEUE
    ),
    Family(
        "emq_broker_queue_messages_in_flight",
        "gauge",
        "Messages that workers have and that have not ended.",
        _QUEUE,
    ),
    Family("emq_broker_queue_deliveries_total", "counter", "Hand-outs from the queue.", _QUEUE),
    Family("emq_broker_queue_workers", "gauge", "Workers that listen on the queue.", _QUEUE),
    *_COUNTERS.values(),
    Family("emq_broker_messages_refused_total", "counter", "Publishes that were refused.", ("reason",)),
    Family("emq_broker_dead_letters", "gauge", "Dead letters that are kept."),
    Family("emq_broker_results", "gauge", "Results that are kept."),
    Family("emq_broker_clients", "gauge", "Clients that are connected."),
    Family("emq_broker_workers", "gauge", "Workers that are there."),
    Family("emq_broker_journal_bytes", "gauge", "Bytes of the journal on disk.", ("file",)),
    Family(
        "emq_broker_journal_writable",
        "gauge",
        "1; 0 while publishes are refused because it can't be written.",
    ),
    Family(
        "emq_broker_journal_write_seconds",
        "histogram",
        "Writes of the journal: records, and the database's commits.",
        ("step",),
    ),
    Family(
        "emq_broker_loop_turn_seconds", "histogram", "Turns of the loop, without the waiting between them."
    ),
    Family("emq_broker_uptime_seconds", "gauge", "Since its start."),
)


class BrokerCounts:
    """What is counted of a running broker beside what its engine counts; used in its loop only.

    Args:
        server: from now on it tells this of its turns and writes.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._turns = Histogram(_LATENCIES_S)
        self._writes = {step: Histogram(_LATENCIES_S) for step in ("record", "database")}
        self._labelled: set[int] = set()
        self._began = time.monotonic()
        self._sizes: dict[str, int] = {}
        self._sizes_from = 0.0
        server.on_turn = self._turn
        server.store.on_write = self._wrote

    def _turn(self, turn: Callable[[], bool]) -> bool:
        began = time.monotonic()
        try:
            return turn()
        finally:
            self._turns.note(time.monotonic() - began)

    def _wrote(self, step: str, took_s: float) -> None:
        self._writes[step].note(took_s)

    def figures(self) -> Figures:
        """Return all figures; called in the broker's loop."""
        server, engine = self._server, self._server.engine
        now = server.now()
        found: dict[str, dict[tuple[str, ...], float | Histogram]] = self._of_queues(now)
        for name, family in _COUNTERS.items():
            found[family.name] = {(): engine.desk.counters[name]}
        refused = dict(engine.desk.refusals)
        for reason, count in server.refusals.items():
            refused[reason] = refused.get(reason, 0) + count
        found["emq_broker_messages_refused_total"] = {(reason,): n for reason, n in refused.items()}
        sizes = self._counted_on_disk()
        found["emq_broker_dead_letters"] = {(): sizes["dead"]}
        found["emq_broker_results"] = {(): sizes["results"]}
        found["emq_broker_clients"] = {(): server.frontend.connections()}
        present = [worker for worker in engine.fleet.workers.values() if worker.present]
        found["emq_broker_workers"] = {(): len(present)}
        found["emq_broker_journal_writable"] = {(): 0 if server.trouble else 1}
        found["emq_broker_journal_write_seconds"] = {(step,): h.copy() for step, h in self._writes.items()}
        found["emq_broker_loop_turn_seconds"] = {(): self._turns.copy()}
        found["emq_broker_uptime_seconds"] = {(): time.monotonic() - self._began}
        return found

    def _of_queues(self, now: Moment) -> dict[str, dict[tuple[str, ...], float | Histogram]]:
        engine = self._server.engine
        in_flight, listening = engine.flights.by_queue(), engine.fleet.by_queue()
        queues = engine.queues.by_id
        readable = not self._server.trouble
        self._labelled &= queues.keys()
        rows: dict[str, list[float]] = {}
        for queue in queues.values():
            row = [
                queue.waiting,
                (engine.oldest_s(queue, now) if readable else None) or 0.0,
                queue.delayed,
                queue.held,
                queue.parked,
                in_flight[queue.id],
                queue.handed_out,
                listening[queue.id],
            ]
            known = rows.setdefault(self._label(queue), [0.0] * len(row))
            known[:] = (
                max(a, b) if i == 1 else a + b for i, (a, b) in enumerate(zip(known, row, strict=True))
            )
        names = [family.name for family in BROKER_FAMILIES if family.labels == _QUEUE]
        return {name: {(label,): row[i] for label, row in rows.items()} for i, name in enumerate(names)}

    def _label(self, queue: MessageQueue) -> str:
        if queue.id not in self._labelled:
            if len(self._labelled) >= MOST_QUEUES:
                return OTHER
            self._labelled.add(queue.id)
        return queue.name

    def _counted_on_disk(self) -> dict[str, int]:
        """Return how many results and dead letters there are; counting many takes time, so not each time."""
        began = time.monotonic()
        if began >= self._sizes_from and not self._server.trouble:
            self._sizes = self._server.engine.desk.journal.sizes()
            now = time.monotonic()
            self._sizes_from = now + (now - began) / _COUNTING_SHARE
        return self._sizes or {"dead": 0, "results": 0}
