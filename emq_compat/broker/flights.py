"""Hand-outs in flight: tracked, given back, lost, put aside.

A hand-out ends in one of five ways: its outcome comes (the engine finishes it), it never began and is given
back uncounted, its worker was shut down and returns it, it was lost and is handed out again or ends as
WorkerLostError, or the task rejected it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from emq_compat.broker.askers import Askers
from emq_compat.broker.desk import Desk
from emq_compat.broker.endings import Endings
from emq_compat.broker.entry import Entry
from emq_compat.broker.gates import Gates
from emq_compat.broker.queues import QueueSet
from emq_compat.broker.records import InFlight, Moment, Waiting, queue_of
from emq_compat.broker.results import Results, failure_body
from emq_compat.broker.workers import Worker
from emq_compat.message import FAILURE, FINAL_STATES, RETRY
from emq_compat.words import amount

__all__ = ["Flights"]


class Flights:
    """Every hand-out that has no outcome yet.

    Attributes:
        by_msgid: msgid → hand-out.
        by_key: the message's key → hand-out.
        by_task: task id → msgid.
        astray: msgid → the hand-out that counted as lost with its worker; of messages that wait since then.
        askers: which workers have asked for messages.
        gates: what a message passes to be handed out.
        entry, endings: how messages come into the queues, and what follows when they have ended.
    """

    def __init__(self, desk: Desk, results: Results, now: Moment) -> None:
        self._desk = desk
        self._results = results
        self.by_msgid: dict[str, InFlight] = {}
        self.by_key: dict[int, InFlight] = {}
        self.by_task: dict[str, str] = {}
        self.astray: dict[str, InFlight] = {}
        self.queues = QueueSet(desk.journal, self.by_key.__contains__)
        self.gates = Gates(desk, self.queues, now)
        self.entry = Entry(desk, self.queues, self.gates)
        self.endings = Endings(desk, results, self.queues, self.entry)
        #: where hand-outs are counted as held: every worker the engine knows.
        self.workers: dict[bytes, Worker] = {}
        self.askers = Askers()

    def track(self, flight: InFlight, worker: Worker) -> None:
        """Note a hand-out to a worker."""
        worker.in_flight[flight.msgid] = flight
        self.askers.changed[worker] = None
        self._note(flight)

    def _note(self, flight: InFlight) -> None:
        self.astray.pop(flight.msgid, None)
        self.by_msgid[flight.msgid] = flight
        self.by_key[flight.key] = flight
        if flight.headers.task_id:
            self.by_task[flight.headers.task_id] = flight.msgid

    def end(self, flight: InFlight) -> None:
        """Forget a hand-out; what becomes of its message is the caller's to say."""
        msgid = flight.msgid
        del self.by_msgid[msgid]
        del self.by_key[flight.key]
        if flight.gate:
            self.gates.leave(flight.gate)
        worker = self.workers.get(flight.worker)
        if worker is not None:
            worker.in_flight.pop(msgid, None)
            self.askers.changed[worker] = None
        if self.by_task.get(flight.headers.task_id) == msgid:
            del self.by_task[flight.headers.task_id]

    def give_back(self, flights: Iterable[InFlight]) -> None:
        """Put hand-outs that never began back into their queues, uncounted."""
        for flight in flights:
            self._requeue(flight, flight.losses)

    def take_back(self, flight: InFlight) -> None:
        """Put a hand-out back that had begun when its worker was shut down: flagged, but not a loss."""
        self._desk.counters["redelivered"] += 1
        self._desk.journal.mark_redelivered(flight.key)
        self._runs_no_more(flight)
        self._requeue(flight, flight.losses)

    def lose(self, flight: InFlight, now: Moment, how: str) -> bool:
        """Hand a lost task out again if it acknowledges late and may be, else end it as WorkerLostError.

        ``how`` completes the sentence of the error. Returns whether it waits again.
        """
        counters, limit = self._desk.counters, self._desk.options.max_redeliveries
        counters["lost"] += 1
        losses = flight.losses + 1
        if flight.late and not (limit and losses > limit):
            counters["redelivered"] += 1
            self._runs_no_more(flight)
            self._requeue(flight, losses)
            return True
        self.end(flight)
        more = {}
        if flight.late:
            more["exhausted"] = "redeliveries"
            allowed = amount(limit, "redelivery", "redeliveries")
            how += f"; it was lost {losses} times, and the limit is {allowed}"
        payload = self.payload(flight)
        self.bury(flight, f"WorkerLostError: {how}", now, losses)
        body = failure_body("WorkerLostError", how, extra=more)
        queue = self.queues.by_id[queue_of(flight.key)]
        self.endings.unattended(flight.msgid, flight.headers, queue, payload, FAILURE, body, now)
        return False

    def by_queue(self) -> Counter[int]:
        """Return the id of each queue → how many of its messages workers have."""
        return Counter(map(queue_of, self.by_key))

    def payload(self, flight: InFlight) -> bytes:
        """Return what an epilogue needs of a hand-out's message: its payload; nothing where it has none."""
        if not flight.headers.epilogue:
            return b""
        message = self._desk.journal.read_message(flight.key)
        return b"" if message is None else message.payload

    def found(self, identity: bytes, msgid: str, attempt: int) -> InFlight | None:
        """Take up a hand-out that counted as lost: a worker turns out to have it, or its outcome.

        Returns None where its message has gone another way meanwhile: handed out again, revoked, purged.
        """
        flight = self.astray.get(msgid)
        if flight is None or flight.attempt != attempt:
            return None
        del self.astray[msgid]
        task_id = flight.headers.task_id
        told = self._results.get((task_id,)).get(task_id) if task_id else None
        if told is not None and told.state in FINAL_STATES:
            return None
        if not self.queues.by_id[queue_of(flight.key)].take(flight.key, flight.headers.priority):
            return None
        journal = self._desk.journal
        journal.give_back(flight.key, flight.attempt, flight.losses)
        journal.hand_out(flight.key, flight.attempt, identity, flight.late)
        if self.gates.concern(flight.headers):
            self.gates.gone(flight.key, flight.headers)
            flight.gate = self.gates.occupy(flight.headers)
        flight.worker = identity
        self._note(flight)
        worker = self.workers.get(identity)
        if worker is not None:
            worker.in_flight[msgid] = flight
            self.askers.changed[worker] = None
        return flight

    def forget_astray(self, queue_id: int) -> None:
        """Forget which of a queue's messages counted as lost: the queue was purged."""
        for flight in [flight for flight in self.astray.values() if queue_of(flight.key) == queue_id]:
            del self.astray[flight.msgid]

    def bury(self, flight: InFlight, reason: str, now: Moment, losses: int) -> None:
        """Move the message of a hand-out that was ended to the dead letters."""
        self._desk.counters["dead"] += 1
        queue = self.queues.by_id[queue_of(flight.key)]
        name, attempt = queue.name, flight.attempt
        self._desk.journal.bury(
            flight.key, flight.msgid, name, reason, now.wall, attempt=attempt, losses=losses
        )

    def worker_lost(self, worker: Worker, now: Moment, how: str) -> None:
        """End or give back all that a lost worker held."""
        if worker.in_flight:
            held = amount(len(worker.in_flight), "task")
            self._desk.note("warning", f"worker {worker.name} {how}; it held {held}")
        for flight in list(worker.in_flight.values()):
            if flight.late and flight.msgid in worker.not_begun:
                self._requeue(flight, flight.losses)
            elif not self.lose(flight, now, f"the worker {worker.name} {how}"):
                continue
            self.astray[flight.msgid] = flight

    def _runs_no_more(self, flight: InFlight) -> None:
        """Forget what a run told of itself (STARTED, PROGRESS …) that did not come to its end."""
        task_id = flight.headers.task_id
        told = self._results.get((task_id,)).get(task_id) if task_id else None
        if told is not None and told.state != RETRY and told.state not in FINAL_STATES:
            self._results.forget((task_id,))

    def _requeue(self, flight: InFlight, losses: int) -> None:
        message = self._desk.journal.read_message(flight.key)
        self.end(flight)
        if message is None:
            return
        self._desk.journal.give_back(flight.key, flight.attempt, losses)
        waiting = Waiting(
            flight.key,
            flight.msgid,
            flight.headers,
            message.header_text,
            message.payload,
            flight.attempt,
            losses,
        )
        self.queues.by_id[queue_of(flight.key)].put_back((waiting,))
        if self.gates.concern(flight.headers):
            self.gates.entered(flight.key, flight.headers)
