"""The workers: who is there, what they listen to and can run, who is silent.

    (unknown) ──INFORM──▶ present ──silence, KBYE──▶ lost: what it held is given back or ends
        ▲                    │
        └──HELLO "inform"────┘  (any message of an unknown one is answered so)

A worker that was known before a restart only by what it holds is absent: the same deadline runs for it. A
stock worker that left may still answer; its hand-outs stay until stock_timeout, and so does what a living one
doesn't answer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable

from emq_compat.broker.desk import Desk
from emq_compat.broker.flights import Flights
from emq_compat.broker.lost_events import events_of_loss
from emq_compat.broker.queue import MessageQueue
from emq_compat.broker.records import InFlight, Moment
from emq_compat.broker.stock import has_stock_name, overdue_at
from emq_compat.broker.topics import Topics
from emq_compat.broker.workers import Worker
from emq_compat.message import Headers, ReplyHeaders, new_id
from emq_compat.protocol.commands import (
    SCHEDULER,
    Ack,
    Heartbeat,
    Hello,
    Inform,
    Kbye,
    Nack,
    Ready,
    Reply,
)
from emq_compat.rate import TokenBucket

__all__ = ["Fleet"]

#: A loop that was away for so long (stopped, a slow fsync) condemns nobody before it has listened again.
PAUSE_S = 1.5
#: An unknown worker is asked to INFORM at most so often.
ASK_AGAIN_S = 0.25


class Fleet:
    """All workers and schedulers.

    Attributes:
        workers: identity → worker.
        known_tasks: task name → how many present workers have it registered.
        schedulers: identity of a stock scheduler → monotonic time at which it was last heard.
    """

    def __init__(self, desk: Desk, flights: Flights, topics: Topics, now: Moment) -> None:
        self._desk = desk
        self._flights = flights
        self._topics = topics
        self.workers = flights.workers
        self._askers = flights.askers
        #: Workers that limit how often they may have a task.
        self._paced: set[Worker] = set()
        self.known_tasks: dict[str, int] = {}
        self.schedulers: dict[bytes, float] = {}
        #: Is told on which queues a worker listens no more.
        self.left: Callable[[Iterable[MessageQueue], Moment], None] | None = None
        self._strangers: dict[bytes, float] = {}
        self._next_beat = self._next_check = self._last_tick = now.mono
        for message, attempt, identity, late in desk.journal.in_flight():
            worker = self.workers.get(identity)
            if worker is None:
                stock = has_stock_name(identity)
                worker = self.workers[identity] = Worker(identity, now.mono, present=False, stock=stock)
            flight = InFlight(
                key=message.key,
                msgid=message.msgid,
                attempt=attempt,
                losses=message.losses,
                headers=Headers.decode(message.header_text),
                worker=identity,
                late=late,
                since=now.mono,
            )
            flight.gate = flights.gates.occupy(flight.headers)
            flights.track(flight, worker)

    # Sessions

    def inform(self, identity: bytes, command: Inform, now: Moment) -> None:
        """Take up a worker, new or again; credit starts at 0."""
        about = command.capabilities
        self._strangers.pop(identity, None)
        worker = self.workers.get(identity)
        told_before = worker is not None and worker.present
        was_up = told_before and worker is not None and worker.gone is None
        if worker is None:
            worker = self.workers[identity] = Worker(identity, now.mono, present=True)
        self._forget_tasks(worker)
        worker.present, worker.leaving = True, False
        worker.heard, worker.gone = now.mono, None
        worker.credit = 0
        worker.stock = about is None
        worker.consumer = about is not None and about.consumer
        queues, before = self._flights.queues, worker.queues
        listed = command.queues or (() if worker.consumer else ((0, ""),))
        worker.listen([(w, queues.get(name)) for w, name in listed])
        self._askers.changed[worker] = None
        self._desk.to_worker(identity, Ack(msgid=new_id(), acked=(command.msgid,)), stock=worker.stock)
        if about is not None:
            worker.slots, worker.tasks = about.slots, about.tasks
            # A limit that stays as it was goes on from where it is.
            worker.paces = {
                task: known
                if (known := worker.paces.get(task)) is not None and known.interval_s == interval_s
                else TokenBucket(interval_s)
                for task, interval_s in about.intervals.items()
            }
            (self._paced.add if worker.paces else self._paced.discard)(worker)
            worker.pid, worker.hostname = about.pid, about.hostname
            worker.namespace = about.control
            for task in worker.tasks or ():
                self.known_tasks[task] = self.known_tasks.get(task, 0) + 1
            if about.shares is not None:
                flights = self._flights
                flights.gates.tell(worker.tasks or (), about.shares, flights.by_msgid.values())
            held = {(msgid, attempt) for msgid, attempt, _ in about.held}
            worker.not_begun = frozenset(msgid for msgid, _, begun in about.held if not begun)
            for msgid, attempt in held:
                self._flights.found(identity, msgid, attempt)
            # What isn't in the list never arrived: the worker drops what reaches it before this INFORM's ACK.
            self._flights.give_back(
                [f for f in worker.in_flight.values() if (f.msgid, f.attempt) not in held]
            )
            hello = {**self._desk.about, "dead_after_s": self._desk.options.dead_after_s}
            if not worker.consumer and not told_before and (name := self._namesake(worker)):
                hello["namesake"] = name
                self._desk.note("warning", f"a second worker is named {name}: give each its own name (-n)")
            self._desk.to_worker(identity, Hello(msgid=new_id(), about=hello))
        if self.left is not None and before:
            self.left([queue for queue in before if queue not in worker.queues], now)
        self._beat_one(worker, now)
        for queue in worker.queues:
            queue.release()
        self._next_check = min(self._next_check, now.mono + self._desk.options.dead_after_s)
        # A consumer of kombu's begins and ends to listen with each answer that it waits for; a worker says
        # INFORM again for much that nobody wants to read, for instance before it leaves.
        again = told_before if worker.consumer else was_up and worker.queues == before
        self._note_of(worker, ": " + ", ".join(q.name for q in worker.queues), "debug" if again else "info")

    def _note_of(self, worker: Worker, what: str, level: str = "info") -> None:
        self._desk.note(level, f"{'consumer' if worker.consumer else 'worker'} {worker.name}{what}")

    def _namesake(self, worker: Worker) -> str:
        """Return the node name of a worker where another one that is here has it, too; empty: none has."""
        name = worker.name.rpartition(".")[0]
        others = (one for one in self.workers.values() if one is not worker and not one.consumer)
        here = (one for one in others if one.present and one.gone is None)
        return name if any(one.name.rpartition(".")[0] == name for one in here) else ""

    def inform_scheduler(self, identity: bytes, command: Inform, now: Moment) -> None:
        """A stock scheduler is acknowledged and kept alive; the broker runs the schedules itself."""
        if command.role != SCHEDULER:
            text = "this is the clients' address; workers connect to the other one"
            body = b'{"value": null, "error": {"type": "ProtocolError", "message": "%s"}}' % text.encode()
            reply = Reply(
                msgid=new_id(), body=body, request_msgid=command.msgid, headers=ReplyHeaders(state="REFUSED")
            )
            self._desk.to_client(identity, reply, stock=True)
            return
        self.schedulers[identity] = now.mono
        self._desk.to_client(identity, Ack(msgid=new_id(), acked=(command.msgid,)), stock=True)
        self._desk.to_client(identity, Heartbeat(msgid=new_id(), timestamp=now.wall), stock=True)

    def ask_to_inform(self, identity: bytes, now: Moment) -> None:
        """Tell an unknown worker to say INFORM.

        A stock one does that only once it has heard nothing for 15 s.
        """
        if has_stock_name(identity):
            return
        if now.mono - self._strangers.get(identity, -1e9) < ASK_AGAIN_S:
            return
        if len(self._strangers) > 10_000:
            self._strangers.clear()
        self._strangers[identity] = now.mono
        self._desk.to_worker(identity, Hello(msgid=new_id(), about={**self._desk.about, "inform": True}))

    def ready(self, worker: Worker, command: Ready) -> None:
        """Add to a worker's credit."""
        if not worker.leaving:
            worker.credit += command.count
            self._askers.changed[worker] = None

    def nack(self, worker: Worker, command: Nack) -> None:
        """Take back what a worker has not begun."""
        flights = [
            flight
            for msgid, attempt in command.returned
            if (flight := worker.in_flight.get(msgid)) is not None and flight.attempt == attempt
        ]
        self._flights.give_back(flights)

    def kbye(self, worker: Worker, command: Kbye, now: Moment) -> None:
        """A worker leaves; ours has given back or answered what it held, a stock one may still answer."""
        worker.credit = 0
        worker.leaving = True
        self._askers.changed[worker] = None
        self._note_of(worker, " leaves")
        if not worker.stock:
            self._lost(worker, now, "left")
        self._next_check = now.mono

    def fetcher(self, identity: bytes, now: Moment) -> Worker:
        """Return the client that fetches single messages as who holds them."""
        worker = self.workers.get(identity)
        if worker is None or not worker.present:
            worker = self.workers[identity] = Worker(identity, now.mono, present=True)
            worker.consumer = worker.fetches = True
        return worker

    def client_gone(self, identity: bytes, now: Moment) -> None:
        """Note that a client's connection is gone: what it has fetched and not acknowledged is lost."""
        worker = self.workers.get(identity)
        if worker is not None and worker.fetches:
            self._lost(worker, now, "was lost")

    def connection_gone(self, identity: bytes, now: Moment) -> None:
        """Note that a worker's connection is gone; it has ``gone_after_s`` to be heard again."""
        worker = self.workers.get(identity)
        if worker is not None:
            worker.gone = now.mono
            self._askers.changed[worker] = None
            self._next_check = min(self._next_check, now.mono + self._desk.options.gone_after_s)

    def connection_back(self, worker: Worker) -> None:
        """Note that a worker whose connection was gone is heard."""
        worker.gone = None
        self._askers.changed[worker] = None

    # Time

    def tick(self, now: Moment) -> None:
        """Find who is lost, and send heartbeats that are due."""
        if now.mono - self._last_tick > PAUSE_S:
            floor = now.mono - self._desk.options.dead_after_s + PAUSE_S
            for worker in self.workers.values():
                worker.heard = max(worker.heard, floor)
                if worker.gone is not None:
                    worker.gone = now.mono
        self._last_tick = now.mono
        if now.mono >= self._next_check:
            self._check(now)
        if now.mono >= self._next_beat:
            self._next_beat = now.mono + min(3.0, self._desk.options.dead_after_s / 4)
            for worker in self.workers.values():
                if worker.present and not worker.fetches:
                    self._beat_one(worker, now)
            for identity in self.schedulers:
                self._desk.to_client(identity, Heartbeat(msgid=new_id(), timestamp=now.wall), stock=True)

    def _beat_one(self, worker: Worker, now: Moment) -> None:
        beat = Heartbeat(msgid=new_id(), timestamp=now.wall)
        self._desk.to_worker(worker.identity, beat, stock=worker.stock)

    def _check(self, now: Moment) -> None:
        options = self._desk.options
        next_check = now.mono + options.dead_after_s
        for worker in list(self.workers.values()):
            if worker.leaving and worker.stock:
                deadline = worker.heard + options.stock_timeout_s if worker.in_flight else now.mono
            else:
                deadline = worker.lost_at(options.dead_after_s, options.gone_after_s)
                if worker.stock:
                    next_check = min(next_check, self._give_up_overdue(worker, now))
            if deadline <= now.mono:
                self._lost(worker, now, "was lost")
                if worker.identity not in self.workers:
                    continue
                deadline = worker.heard + options.stock_timeout_s
            next_check = min(next_check, deadline)
        for identity, heard in list(self.schedulers.items()):
            if heard + max(60.0, options.dead_after_s) < now.mono:
                del self.schedulers[identity]
        self._next_check = next_check

    def _give_up_overdue(self, worker: Worker, now: Moment) -> float:
        """Count what a living stock worker doesn't answer as lost; returns when the next one is due."""
        next_due = math.inf
        for flight in list(worker.in_flight.values()):
            due = overdue_at(flight, self._desk.options.stock_timeout_s)
            if due <= now.mono:
                self._desk.note("warning", f"worker {worker.name} never answered {flight.msgid}")
                self._flights.lose(flight, now, f"the worker {worker.name} never answered")
            else:
                next_due = min(next_due, due)
        return next_due

    def by_queue(self) -> Counter[int]:
        """Return the id of each queue → how many listen on it now, consumers of kombu's included."""
        present = (worker for worker in self.workers.values() if worker.present)
        return Counter(queue.id for worker in present for queue in worker.listened)

    def next_deadline(self) -> float | None:
        """Return the monotonic time at which ``tick`` is due; None: nobody is here."""
        return min(self._next_beat, self._next_check) if self.workers or self.schedulers else None

    def next_token(self, now: Moment) -> float | None:
        """Return when a rate limit lets a waiting worker have one more (monotonic seconds); None: never."""
        coming = (
            pace.next_at
            for worker in self._paced
            if worker.credit > 0
            for pace in worker.paces.values()
            if pace.next_at > now.mono
        )
        return min(coming, default=None)

    def _lost(self, worker: Worker, now: Moment, how: str) -> None:
        told = [flight for flight in worker.in_flight.values() if worker.hears_ends(flight.headers.task)]
        self._forget_tasks(worker)
        if worker.in_flight and worker.stock and not worker.leaving:
            worker.leaving, worker.present, worker.credit = True, False, 0
            self._askers.changed[worker] = None
            return
        del self.workers[worker.identity]
        self._paced.discard(worker)
        self._flights.worker_lost(worker, now, how)
        self._askers.remove(worker)
        if self.left is not None:
            self.left(worker.queues, now)
        for announcement in events_of_loss(worker, told, self._flights.astray, how, now):
            self._topics.publish(announcement, now)

    def _forget_tasks(self, worker: Worker) -> None:
        if not worker.tasks:
            return
        for task in worker.tasks:
            left = self.known_tasks.get(task, 0) - 1
            if left > 0:
                self.known_tasks[task] = left
            else:
                self.known_tasks.pop(task, None)
        worker.tasks = None
        for queue in self._flights.queues.by_id.values():
            queue.release()
