"""The broker's engine: commands and the time go in, commands come out, the journal is told what to keep.

One turn is: commands of clients and workers, then ``tick`` (what is due, who is lost), then ``hand_out``,
then ``close_turn``; the caller commits the journal and only then sends what ``take_outbox`` gives. So
whatever leaves is on disk: an ACK means stored, a hand-out is journalled before its REQUEST is sent, and a
result, the end of its hand-out and its follow-ups are one transaction.

The life of a message:

    held ──its chord is complete──▶ delayed or waiting
    delayed ──due──▶ waiting ──hand_out──▶ in flight ──outcome──▶ finished
                        ▲                      │
                        └──nack, lost (late)───┤
                                               └──lost (early), too many losses──▶ dead letter + FAILURE
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from emq_compat.broker.ages import Ages
from emq_compat.broker.declared import Declared
from emq_compat.broker.desk import Desk, EngineOptions
from emq_compat.broker.exchanges import Exchanges
from emq_compat.broker.fleet import Fleet
from emq_compat.broker.flights import Flights
from emq_compat.broker.handout import HandOut
from emq_compat.broker.intake import Intake
from emq_compat.broker.journal import Journal
from emq_compat.broker.periodic import Periodic
from emq_compat.broker.queue import MessageQueue
from emq_compat.broker.queues import DEFAULT_QUEUE
from emq_compat.broker.receipts import Receipts
from emq_compat.broker.records import Dispatch, Moment, Send, queue_of
from emq_compat.broker.results import Results
from emq_compat.broker.schedules import Schedules
from emq_compat.broker.stock import reply_body
from emq_compat.broker.topics import Topics
from emq_compat.broker.withdrawals import Withdrawals
from emq_compat.broker.workers import Worker
from emq_compat.errors import MessageError
from emq_compat.message import (
    ACKNOWLEDGED,
    FINAL_STATES,
    IGNORED,
    REJECTED,
    REQUEUED,
    RETRY,
    RETURNED,
    REVOKED,
    SUCCESS,
)
from emq_compat.protocol.commands import (
    Answer,
    Ask,
    Command,
    Heartbeat,
    Hello,
    Inform,
    Kbye,
    Nack,
    PublishTopic,
    Ready,
    Reply,
    Request,
    Schedule,
    Unschedule,
    Update,
)

__all__ = ["Engine", "EngineOptions"]

#: Finished msgids are remembered for one to two of these.
FINISHED_ROTATION_S = 60.0
#: How often expired results and unique keys are deleted.
EXPIRY_S = 5.0


class Engine:
    """Queues, credit, redelivery, eta, schedules and results of one broker.

    Args:
        journal: where it keeps everything; what is in it is taken up.
        about: what HELLO tells of this broker.
        now: the time of the start.
    """

    def __init__(self, journal: Journal, options: EngineOptions, about: dict[str, Any], now: Moment) -> None:
        self.desk = Desk(journal, options, about)
        self.results = Results(self.desk, options.result_expires_s)
        self.flights = Flights(self.desk, self.results, now)
        self.queues = self.flights.queues
        self.topics = Topics(self.desk)
        self.fleet = Fleet(self.desk, self.flights, self.topics, now)
        self.gates = self.flights.gates
        self.endings = self.flights.endings
        self.failing = self.endings.failing
        self.steps = self.endings.steps
        self.receipts = Receipts(self.desk)
        self._reply_acks = self.receipts.replies
        self.exchanges = Exchanges(self.desk, self.queues)
        self.intake = Intake(
            self.desk, self.flights, self.results, self.receipts, self.exchanges, self.topics
        )
        self._request = self.intake.request
        self.publish = self.intake.publish
        self.schedules = Schedules(journal, self.publish)
        self.periodic = Periodic(self.desk, self.publish, now)
        self.chords = self.endings.chords
        self._entry = self.flights.entry
        self.withdrawals = Withdrawals(self.desk, self.results, self.flights, now)
        self.declared = Declared(self.desk, self.flights, self.exchanges, self.withdrawals, now)
        self.fleet.left = self.declared.left
        self._hand_out = HandOut(self.desk, self.fleet, self.flights, self.withdrawals)
        self.fetch = self._hand_out.fetch
        self._journal = journal
        self.started = now
        self.ages = Ages(journal.last_sequence(), now)
        #: how many dead letters there were at the start, less those deleted since; None: not counted yet.
        self._dead: int | None = None
        self._next_rotation = now.mono + FINISHED_ROTATION_S
        self._next_expiry = now.mono
        #: What answers a client's ASK, and what takes a worker's ANSWER (asks.py).
        self.asker: Callable[[bytes, Ask, Moment], None] | None = None
        self.answered: Callable[[bytes, Answer, Moment], None] | None = None

    # Clients

    def begin_turn(self, publishes: Sequence[Request]) -> None:
        """Look up, all at once, what is known already of the messages about to be published."""
        unique = [text for command in publishes if (text := command.headers.once)]
        self.intake.begin_turn([command.msgid for command in publishes], unique)

    def from_client(self, identity: bytes, command: Command, now: Moment) -> None:
        """Take a client's or scheduler's command."""
        if type(command) is Request:
            self._request(identity, command, now)
        elif isinstance(command, Hello):
            self.receipts.welcome(identity, command)
        elif isinstance(command, Ask):
            if self.asker is not None:
                self.asker(identity, command, now)
        elif isinstance(command, PublishTopic):
            self.topics.publish(command, now)
        elif isinstance(command, Schedule | Unschedule):
            self._on_schedule(identity, command, now)
        elif isinstance(command, Inform):
            self.fleet.inform_scheduler(identity, command, now)
        elif isinstance(command, Kbye):
            self.fleet.schedulers.pop(identity, None)
        elif identity in self.fleet.schedulers:
            self.fleet.schedulers[identity] = now.mono

    def client_gone(self, identity: bytes, now: Moment) -> None:
        """Note that a client's connection is gone."""
        self.topics.forget(identity)
        self.desk.unread.read(identity)
        self.results.client_gone(identity)
        self.fleet.client_gone(identity, now)
        self.declared.client_gone(identity, now)

    def _on_schedule(self, identity: bytes, command: Schedule | Unschedule, now: Moment) -> None:
        try:
            if isinstance(command, Schedule):
                self.schedules.add(command, command.queue or DEFAULT_QUEUE, now)
            else:
                self.schedules.remove(command)
        except MessageError as exc:
            self.receipts.refuse(identity, command.msgid, "MessageError", str(exc))
            self.desk.note("warning", f"refused a {type(command).__name__.upper()}: {exc}")

    # Workers

    def from_worker(self, identity: bytes, command: Command, now: Moment) -> None:
        """Take a worker's command."""
        worker = self.fleet.workers.get(identity)
        if isinstance(command, Inform):
            self.fleet.inform(identity, command, now)
        elif worker is not None and worker.present:
            worker.heard = now.mono
            if worker.gone is not None:
                self.fleet.connection_back(worker)
            handler = _FROM_WORKER.get(type(command))
            if handler is not None:
                handler(self, worker, command, now)
        else:
            # A REPLY counts whoever sends it: after a restart, or under a new identity of a stock worker.
            if type(command) is Reply:
                self._reply(identity, command, now)
            elif isinstance(command, PublishTopic):
                self.topics.publish(command, now)
            if worker is not None and worker.stock:
                worker.heard = now.mono
            else:
                self.fleet.ask_to_inform(identity, now)

    def worker_speaks(self, identity: bytes, now: Moment) -> None:
        """Note that a worker is in the midst of saying something: its heartbeats stand behind that."""
        worker = self.fleet.workers.get(identity)
        if worker is not None and worker.present:
            worker.heard = now.mono

    def connection_gone(self, identity: bytes, now: Moment) -> None:
        """Note that a worker's connection is gone."""
        self.fleet.connection_gone(identity, now)

    def _on_reply(self, worker: Worker, command: Reply, now: Moment) -> None:
        self._reply(worker.identity, command, now)

    def _reply(self, identity: bytes, command: Reply, now: Moment) -> None:
        headers, msgid = command.headers, command.request_msgid
        if headers is not None:
            acks = self._reply_acks.get(identity)
            if acks is None:
                self.receipts.answered(identity, msgid, now)
            else:
                acks.append(msgid)
        self.outcome(identity, command, now)

    def outcome(self, identity: bytes, command: Reply, now: Moment) -> None:
        """Take what a hand-out came to; one that counts no more is passed over."""
        headers, msgid = command.headers, command.request_msgid
        flight = self.flights.by_msgid.get(msgid)
        if flight is None and headers is not None:
            flight = self.flights.found(identity, msgid, headers.attempt)
        # Attempt 0: the worker couldn't read the hand-out, and so not which attempt it was.
        if flight is None or (headers is not None and headers.attempt not in (0, flight.attempt)):
            self.desk.counters["stale"] += 1
            return
        state = headers.state if headers is not None else SUCCESS
        if state == REQUEUED:
            if flight.late:
                self.flights.lose(flight, now, "the task was rejected or its child was lost")
                return
            # Acknowledged before it ran: there is nothing left to put back (as with Celery's Reject).
            state = REJECTED
        elif state == RETURNED:
            self.flights.take_back(flight)
            return
        elif state == ACKNOWLEDGED:
            self.flights.end(flight)
            self._journal.finish(flight.key, msgid)
            self.endings.acknowledged(msgid, flight.headers)
            self.desk.counters["finished"] += 1
            if (holder := self.fleet.workers.get(flight.worker)) is not None:
                holder.finished += 1
            return
        unattended = headers is not None and headers.unattended
        payload = self.flights.payload(flight) if unattended else b""
        self.flights.end(flight)
        if state == REVOKED:
            self.desk.counters["revoked"] += 1
        if state == REJECTED:
            self.flights.bury(flight, "rejected by the task", now, flight.losses)
        else:
            self._journal.finish(flight.key, msgid)
        self.desk.counters["finished"] += 1
        acknowledged = False
        if (holder := self.fleet.workers.get(flight.worker)) is not None:
            holder.finished += 1
            acknowledged = holder.consumer and state == IGNORED
        if command.follow_ups:
            known = self._journal.known([p.msgid for p in command.follow_ups])
            for message in command.follow_ups:
                if message.msgid not in known:
                    known.add(message.msgid)
                    self.publish(message, now)
        requesters = self.endings.requesters
        if msgid in requesters:
            if state == RETRY and command.follow_ups:
                requesters[command.follow_ups[0].msgid] = requesters.pop(msgid)
            else:
                self.endings.answer(msgid, command.body)
        body = command.body if headers is not None else reply_body(command.body)
        keep = headers is None or not headers.no_result
        told, ups = flight.headers, command.follow_ups
        if headers is not None and headers.keep_s is not None:
            told = replace(told, keep_s=headers.keep_s)
        if unattended and state in FINAL_STATES:
            queue = self.queues.by_id[queue_of(flight.key)]
            self.endings.unattended(msgid, told, queue, payload, state, body, now, keep=keep)
        else:
            self.endings.attended(
                msgid, told, state, body, now, follow_ups=ups, keep=keep, counts=not acknowledged
            )

    def _on_update(self, worker: Worker, command: Update, now: Moment) -> None:
        flight, headers = self.flights.by_msgid.get(command.request_msgid), command.headers
        if flight is None or flight.attempt != headers.attempt or headers.state in FINAL_STATES:
            return
        task_id = flight.headers.task_id
        if task_id and not flight.headers.no_result:
            self.results.put(task_id, headers.state, command.body, now, keep_s=flight.headers.keep_s)

    def _on_heartbeat(self, worker: Worker, command: Heartbeat, now: Moment) -> None:
        worker.not_begun = command.not_begun

    def _on_ready(self, worker: Worker, command: Ready, now: Moment) -> None:
        self.fleet.ready(worker, command)

    def _on_nack(self, worker: Worker, command: Nack, now: Moment) -> None:
        self.fleet.nack(worker, command)

    def _on_kbye(self, worker: Worker, command: Kbye, now: Moment) -> None:
        self.fleet.kbye(worker, command, now)

    def _on_answer(self, worker: Worker, command: Answer, now: Moment) -> None:
        if self.answered is not None:
            self.answered(worker.identity, command, now)

    def _on_topic(self, worker: Worker, command: PublishTopic, now: Moment) -> None:
        self.topics.publish(command, now)

    def oldest_s(self, queue: MessageQueue, now: Moment) -> float | None:
        """Return for how many seconds what has waited longest has been in a queue; None: nothing waits."""
        oldest = queue.oldest()
        return None if oldest is None else self.ages.age_s(*oldest, now)

    # Dead letters

    def count_dead(self) -> int:
        """Return how many there are."""
        since = self.desk.counters["dead"]
        if self._dead is None:
            self._dead = self._journal.count_dead() - since
        return self._dead + since

    def drop_dead(self, keys: Sequence[int]) -> int:
        """Delete those with these keys; returns how many there were."""
        dropped = self._journal.drop_dead(keys)
        if self._dead is not None:
            self._dead -= dropped
        return dropped

    # Time

    def tick(self, now: Moment) -> None:
        """Do what is due: delayed messages, schedules, lost workers, heartbeats, expiry."""
        self._entry.make_due_ready(now)
        next_at = self.schedules.next_at()
        if next_at is not None and next_at <= now.wall:
            self.schedules.run_due(now)
        self.fleet.tick(now)
        if now.mono >= self.ages.due:
            self.ages.note(self._journal.last_sequence(), now)
        if now.mono >= self._next_rotation:
            self._next_rotation = now.mono + FINISHED_ROTATION_S
            self._journal.rotate_finished()
            self.chords.expire(now)
            self.withdrawals.forget_old(now)
            self.gates.sweep(now)
        if now.mono >= self._next_expiry:
            self.topics.expire(now)
            self.declared.tick(now)
            more = self.results.expire(now)
            more = self.endings.locks.forget_old(now) or more
            self._next_expiry = now.mono + (0.0 if more else EXPIRY_S)

    def next_deadline(self, now: Moment) -> float:
        """Return the monotonic time at which ``tick`` must be called though nothing has arrived."""
        deadline = min(self._next_rotation, self._next_expiry, self.receipts.replies_due)
        deadline = min(deadline, self._hand_out.next_at(now))
        if (beat := self.fleet.next_deadline()) is not None:
            deadline = min(deadline, beat)
        if (due_ms := self._entry.next_due_ms) is not None:
            deadline = min(deadline, now.mono + due_ms / 1000 - now.wall)
        if (token := self.fleet.next_token(now)) is not None:
            deadline = min(deadline, token)
        if (next_at := self.schedules.next_at()) is not None:
            deadline = min(deadline, now.mono + next_at - now.wall)
        return deadline

    # The end of a turn

    def hand_out(self, now: Moment) -> None:
        """Give what waits to those who asked."""
        self._hand_out.run(now)

    def close_turn(self, now: Moment) -> None:
        """Write the counts that changed and add the turn's acknowledgements to the outbox."""
        if touched := self.queues.touched:
            for queue in touched:
                counts = (queue.waiting, queue.delayed)
                if counts != queue.stored:
                    queue.stored = counts
                    self._journal.set_counts(queue.id, *counts)
            touched.clear()
        self.chords.write()
        self.intake.close_turn()
        self.receipts.close_turn(now)

    def take_outbox(self) -> list[Send | Dispatch]:
        """Return what is to be sent, after the commit."""
        taken = self.desk.outbox[:]
        self.desk.outbox.clear()
        self.desk.unread.left()
        return taken


_FROM_WORKER: dict[type, Callable[[Engine, Worker, Any, Moment], None]] = {
    Ready: Engine._on_ready,
    Reply: Engine._on_reply,
    Heartbeat: Engine._on_heartbeat,
    Update: Engine._on_update,
    Nack: Engine._on_nack,
    Kbye: Engine._on_kbye,
    Answer: Engine._on_answer,
    PublishTopic: Engine._on_topic,
}
