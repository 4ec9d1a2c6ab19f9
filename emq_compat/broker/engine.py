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

import json
import math
from collections.abc import Callable
from typing import Any

from emq_compat.broker.desk import Desk, EngineOptions
from emq_compat.broker.fleet import Fleet
from emq_compat.broker.flights import Flights
from emq_compat.broker.handout import HandOut
from emq_compat.broker.journal import Journal
from emq_compat.broker.periodic import Periodic
from emq_compat.broker.queues import DEFAULT_QUEUE, MessageQueue
from emq_compat.broker.records import Dispatch, Moment, Send, queue_of
from emq_compat.broker.results import Results
from emq_compat.broker.schedules import Schedules
from emq_compat.broker.stock import reply_body
from emq_compat.broker.topics import Topics
from emq_compat.broker.withdrawals import Withdrawals
from emq_compat.broker.workers import Worker
from emq_compat.errors import MessageError
from emq_compat.message import (
    FINAL_STATES,
    REJECTED,
    REQUEUED,
    RETRY,
    RETURNED,
    SUCCESS,
    Headers,
    Publish,
    ReplyHeaders,
    new_id,
)
from emq_compat.protocol.commands import (
    Ack,
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
#: A worker's REPLYs are acknowledged within so many seconds, or when there are so many of them.
ACK_WITHIN_S = 0.02
ACKS_AT_ONCE = 64
#: How often expired results are deleted.
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
        self.flights = Flights(self.desk, self.results)
        self.queues = self.flights.queues
        self.fleet = Fleet(self.desk, self.flights, now)
        self.schedules = Schedules(journal, self.publish)
        self.periodic = Periodic(self.desk, self.publish, now)
        self.endings = self.flights.endings
        self.chords = self.endings.chords
        self.topics = Topics(self.desk)
        self._entry = self.flights.entry
        self.withdrawals = Withdrawals(self.desk, self.results, self.flights, now)
        self._hand_out = HandOut(self.desk, self.fleet, self.flights, self.withdrawals)
        self._journal = journal
        self._our_clients: dict[bytes, None] = {}
        self._acks: dict[bytes, list[str]] = {}
        #: worker → msgids of its REPLYs that are stored and not acknowledged yet.
        self._worker_acks: dict[bytes, list[str]] = {}
        self._worker_acks_due = math.inf
        self._seen: set[str] = set()
        self._next_rotation = now.mono + FINISHED_ROTATION_S
        self._next_expiry = now.mono
        #: What answers a client's ASK, and what takes a worker's ANSWER (asks.py).
        self.asker: Callable[[bytes, Ask, Moment], None] | None = None
        self.answered: Callable[[bytes, Answer, Moment], None] | None = None

    # Clients

    def begin_turn(self, msgids: list[str]) -> None:
        """Look up, all at once, which of the msgids about to be published are known already."""
        self._seen = self._journal.known(msgids) if msgids else set()

    def from_client(self, identity: bytes, command: Command, now: Moment) -> None:
        """Take a client's or scheduler's command."""
        if type(command) is Request:
            self._on_publish(identity, command, now)
        elif isinstance(command, Hello):
            self._our_clients.pop(identity, None)
            self._our_clients[identity] = None
            if len(self._our_clients) > 100_000:
                del self._our_clients[next(iter(self._our_clients))]
            self.desk.to_client(identity, Hello(msgid=command.msgid, about=self.desk.about))
        elif isinstance(command, Ask):
            if self.asker is not None:
                self.asker(identity, command, now)
        elif isinstance(command, PublishTopic):
            self.topics.publish(command)
        elif isinstance(command, Schedule | Unschedule):
            self._on_schedule(identity, command, now)
        elif isinstance(command, Inform):
            self.fleet.inform_scheduler(identity, command, now)
        elif isinstance(command, Kbye):
            self.fleet.schedulers.pop(identity, None)
        elif identity in self.fleet.schedulers:
            self.fleet.schedulers[identity] = now.mono

    def client_gone(self, identity: bytes) -> None:
        """Note that a client's connection is gone."""
        self.topics.forget(identity)

    def refuse(self, identity: bytes, msgid: str, kind: str, message: str) -> None:
        """Tell a publisher that its message was not taken; ``kind`` names one of our exception classes."""
        self.desk.counters["refused"] += 1
        body = json.dumps({"value": None, "error": {"type": kind, "message": message}}).encode()
        ours = identity in self._our_clients
        headers = ReplyHeaders(state="REFUSED") if ours else None
        reply = Reply(msgid=new_id(), body=body, request_msgid=msgid, headers=headers)
        self.desk.to_client(identity, reply, stock=not ours)

    def _on_publish(self, identity: bytes, command: Request, now: Moment) -> None:
        msgid, headers = command.msgid, command.headers
        if msgid in self._seen:
            self.desk.counters["duplicates"] += 1
        else:
            limit = self.desk.options.queue_limit
            queue = self.queues.get(command.queue)
            if limit and queue.waiting + queue.delayed >= limit and not (headers.awaits or headers.settled):
                text = f"the queue {queue.name!r} holds {limit} messages, its limit"
                self.refuse(identity, msgid, "QueueFull", text)
                return
            self._seen.add(msgid)
            if headers.reply_requested:
                self.endings.requesters[msgid] = (identity, msgid)
            header_text = command.header_text.decode()
            if headers.chord or headers.awaits or headers.settled:
                self._take(queue, msgid, headers, header_text, command.payload, now)
            else:
                self._entry.add(queue, msgid, headers, header_text, command.payload, now)
        if headers.guarantee:
            acks = self._acks.get(identity)
            if acks is None:
                self._acks[identity] = [msgid]
            else:
                acks.append(msgid)

    def _take(
        self,
        queue: MessageQueue,
        msgid: str,
        headers: Headers,
        header_text: str,
        payload: bytes,
        now: Moment,
    ) -> None:
        if headers.settled:
            self.endings.settle(msgid, headers, payload, now)
            return
        if headers.chord.endswith("+"):
            self.chords.grow(headers, now)
        if headers.awaits:
            self.endings.hold(queue, msgid, headers, header_text, payload, now)
        else:
            self._entry.add(queue, msgid, headers, header_text, payload, now)

    def publish(self, message: Publish, now: Moment) -> None:
        """Publish a message of the broker's own, or a follow-up of an outcome."""
        queue, headers = self.queues.get(message.queue), message.headers
        self._take(queue, message.msgid, headers, headers.encode(), message.payload, now)

    def _on_schedule(self, identity: bytes, command: Schedule | Unschedule, now: Moment) -> None:
        try:
            if isinstance(command, Schedule):
                self.schedules.add(command, command.queue or DEFAULT_QUEUE, now)
            else:
                self.schedules.remove(command)
        except MessageError as exc:
            self.refuse(identity, command.msgid, "MessageError", str(exc))
            self.desk.note("warning", f"refused a {type(command).__name__.upper()}: {exc}")

    # Workers

    def from_worker(self, identity: bytes, command: Command, now: Moment) -> None:
        """Take a worker's command."""
        worker = self.fleet.workers.get(identity)
        if isinstance(command, Inform):
            self.fleet.inform(identity, command, now)
        elif worker is not None and worker.present:
            worker.heard, worker.gone = now.mono, None
            handler = _FROM_WORKER.get(type(command))
            if handler is not None:
                handler(self, worker, command, now)
        else:
            # A REPLY counts whoever sends it: after a restart, or under a new identity of a stock worker.
            if type(command) is Reply:
                self._reply(identity, command, now)
            elif isinstance(command, PublishTopic):
                self.topics.publish(command)
            if worker is not None and worker.stock:
                worker.heard = now.mono
            else:
                self.fleet.ask_to_inform(identity, now)

    def connection_gone(self, identity: bytes, now: Moment) -> None:
        """Note that a worker's connection is gone."""
        self.fleet.connection_gone(identity, now)

    def _on_reply(self, worker: Worker, command: Reply, now: Moment) -> None:
        self._reply(worker.identity, command, now)

    def _reply(self, identity: bytes, command: Reply, now: Moment) -> None:
        headers, msgid = command.headers, command.request_msgid
        if headers is not None:
            acks = self._worker_acks.get(identity)
            if acks is None:
                self._worker_acks[identity] = [msgid]
                self._worker_acks_due = min(self._worker_acks_due, now.mono + ACK_WITHIN_S)
            else:
                acks.append(msgid)
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
        unattended = headers is not None and headers.unattended
        payload = self.flights.payload(flight) if unattended else b""
        self.flights.end(flight)
        if state == REJECTED:
            self.flights.bury(flight, "rejected by the task", now, flight.losses)
        else:
            self._journal.finish(flight.key, msgid)
        self.desk.counters["finished"] += 1
        if (holder := self.fleet.workers.get(flight.worker)) is not None:
            holder.finished += 1
        if command.follow_ups:
            known = self._journal.known([p.msgid for p in command.follow_ups])
            for message in command.follow_ups:
                if message.msgid not in known:
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
        if unattended and state in FINAL_STATES:
            queue = self.queues.by_id[queue_of(flight.key)]
            self.endings.unattended(msgid, told, queue, payload, state, body, now, keep=keep)
        else:
            self.endings.attended(msgid, told, state, body, now, follow_ups=ups, keep=keep)

    def _on_update(self, worker: Worker, command: Update, now: Moment) -> None:
        flight, headers = self.flights.by_msgid.get(command.request_msgid), command.headers
        if flight is None or flight.attempt != headers.attempt or headers.state in FINAL_STATES:
            return
        task_id = flight.headers.task_id
        if task_id and not flight.headers.no_result:
            self.results.put(task_id, headers.state, command.body, now, keep_s=flight.headers.keep_s)

    def _on_heartbeat(self, worker: Worker, command: Heartbeat, now: Moment) -> None:
        worker.not_begun = frozenset(command.not_begun)

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
        self.topics.publish(command)

    # Time

    def tick(self, now: Moment) -> None:
        """Do what is due: delayed messages, schedules, lost workers, heartbeats, expiry."""
        self._entry.make_due_ready(now)
        next_at = self.schedules.next_at()
        if next_at is not None and next_at <= now.wall:
            self.schedules.run_due(now)
        self.fleet.tick(now)
        if now.mono >= self._next_rotation:
            self._next_rotation = now.mono + FINISHED_ROTATION_S
            self._journal.rotate_finished()
            self.chords.expire(now)
            self.withdrawals.forget_old(now)
        if now.mono >= self._next_expiry:
            self.topics.expire(now)
            self._next_expiry = now.mono + (0.0 if self.results.expire(now) else EXPIRY_S)

    def next_deadline(self, now: Moment) -> float:
        """Return the monotonic time at which ``tick`` must be called though nothing has arrived."""
        deadline = min(self._next_rotation, self._next_expiry, self._worker_acks_due)
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
        for queue in self.queues.by_id.values():
            if queue.changed:
                queue.changed = False
                counts = (queue.waiting, queue.delayed)
                if counts != queue.stored:
                    queue.stored = counts
                    self._journal.set_counts(queue.id, *counts)
        self.chords.write()
        if self._worker_acks:
            self._acknowledge_replies(now)
        if self._acks:
            # First of all: a client stands still until it has its own.
            self.desk.outbox[:0] = self._acknowledge_publishes()
        self._seen = set()

    def _acknowledge_publishes(self) -> list[Send]:
        acks = []
        for identity, msgids in self._acks.items():
            if identity in self._our_clients:
                acks.append(Send(identity, Ack(msgid=new_id(), acked=tuple(msgids))))
            else:
                acks += [Send(identity, Ack(msgid=new_id(), acked=(msgid,)), stock=True) for msgid in msgids]
        self._acks.clear()
        return acks

    def _acknowledge_replies(self, now: Moment) -> None:
        """Acknowledge REPLYs together with what goes to their worker anyway, or many at once, or in time.

        A worker only waits for it with its copy of the REPLY; a message of its own would wake it up.
        """
        pending = self._worker_acks
        if now.mono >= self._worker_acks_due:
            told = list(pending)
        else:
            told = [
                item.identity
                for item in self.desk.outbox
                if isinstance(item, Dispatch) or item.to_worker
                if item.identity in pending
            ]
            told += [identity for identity, msgids in pending.items() if len(msgids) >= ACKS_AT_ONCE]
        for identity in dict.fromkeys(told):
            self.desk.to_worker(identity, Ack(msgid=new_id(), acked=tuple(pending.pop(identity))))
        if not pending:
            self._worker_acks_due = math.inf

    def take_outbox(self) -> list[Send | Dispatch]:
        """Return what is to be sent, after the commit."""
        taken = self.desk.outbox[:]
        self.desk.outbox.clear()
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
