"""The broker's engine: commands and the time go in, commands come out, the journal is told what to keep.

One turn is: commands of clients and workers, then ``tick`` (what is due, who is lost), then ``hand_out``, then
``close_turn``; the caller commits the journal and only then sends what ``take_outbox`` gives. So whatever
leaves is on disk: an ACK means stored, a hand-out is journalled before its REQUEST is sent, and a result, the
end of its hand-out and its follow-ups are one transaction.

The life of a message:

    delayed ──due──▶ waiting ──hand_out──▶ in flight ──outcome──▶ finished
                        ▲                      │
                        └──nack, lost (late)───┤
                                               └──lost (early), too many losses──▶ dead letter + FAILURE
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from emq_compat.broker.queues import MessageQueue, WindowBudget
from emq_compat.broker.records import Dispatch, InFlight, Journal, Moment, Send, Waiting, home_key, queue_of
from emq_compat.broker.results import Results, failure_body
from emq_compat.broker.schedules import Schedules
from emq_compat.broker.workers import Worker
from emq_compat.errors import MessageError
from emq_compat.message import (
    FAILURE,
    FINAL_STATES,
    IGNORED,
    REJECTED,
    REQUEUED,
    REVOKED,
    SUCCESS,
    Headers,
    Publish,
    ReplyHeaders,
    new_id,
)
from emq_compat.protocol.commands import (
    SCHEDULER,
    Ack,
    Answer,
    Ask,
    Command,
    Heartbeat,
    Hello,
    Inform,
    Kbye,
    Nack,
    Ready,
    Reply,
    Request,
    Schedule,
    Unschedule,
    Update,
)

__all__ = ["Engine", "EngineOptions"]

#: The queue of an INFORM or REQUEST that names none (eventmq's).
DEFAULT_QUEUE = "default"
#: Delayed messages made ready in one turn.
DUE_BATCH = 1000
#: Finished msgids are remembered for one to two of these.
FINISHED_ROTATION_S = 60.0
#: How often expired results are deleted.
EXPIRY_S = 5.0
#: A loop that was away for so long (stopped, or in a slow fsync) doesn't condemn workers before it has listened again.
PAUSE_S = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What an engine can be told; see the options of ``emq-compat broker`` (seconds, counts; 0: no limit)."""

    dead_after_s: float = 10.0
    gone_after_s: float = 2.0
    max_redeliveries: int = 5
    queue_limit: int = 0
    stock_timeout_s: float = 600.0
    result_expires_s: float = 86400.0
    revoke_expires_s: float = 86400.0


class Engine:
    """Queues, credit, redelivery, eta, schedules and results of one broker.

    Args:
        journal: where it keeps everything; what is in it is taken up.
        about: what HELLO tells of this broker.
        now: the time of the start.
    """

    def __init__(self, journal: Journal, options: EngineOptions, about: dict[str, Any], now: Moment) -> None:
        self.journal = journal
        self.options = options
        self.about = about
        self.outbox: list[object] = []
        #: (level, text) for the log.
        self.notes: list[tuple[str, str]] = []
        self.counters = dict.fromkeys(
            ("published", "duplicates", "refused", "handed_out", "finished", "redelivered", "lost", "dead", "stale"), 0
        )
        self.queues: dict[str, MessageQueue] = {}
        self.workers: dict[bytes, Worker] = {}
        self.schedulers: dict[bytes, float] = {}
        self.in_flight: dict[str, InFlight] = {}
        self.results = Results(journal, self.outbox, options.result_expires_s)
        self.revoked = set(journal.revoked(now.wall))
        self.schedules = Schedules(journal, self._publish_scheduled)
        self._in_flight_keys: dict[int, InFlight] = {}
        self._queues_by_id: dict[int, MessageQueue] = {}
        self._budget = WindowBudget()
        self._flights_by_task: dict[str, str] = {}
        #: task name → how many present workers have it.
        self._known_tasks: dict[str, int] = {}
        self._our_clients: dict[bytes, None] = {}
        #: msgid → client that asked for the REPLY itself.
        self._requesters: dict[str, bytes] = {}
        self._acks: dict[bytes, list[str]] = {}
        self._worker_acks: dict[bytes, list[str]] = {}
        self._seen: set[str] = set()
        self._next_due_ms = journal.next_due_ms()
        self._next_beat = self._next_check = self._last_tick = now.mono
        self._next_rotation = now.mono + FINISHED_ROTATION_S
        self._next_expiry = now.mono
        self._strangers: dict[bytes, float] = {}
        self.asker: Callable[[bytes, Ask, Moment], None] | None = None
        self.answered: Callable[[bytes, Answer, Moment], None] | None = None
        self._take_up(now)

    # Start

    def _take_up(self, now: Moment) -> None:
        """Take up what the journal holds: queues, and what was in flight under workers that will say INFORM again."""
        for row in self.journal.queues():
            self._make_queue(row.id, row.name, waiting=row.waiting, delayed=row.delayed, on_disk=True)
        for message, attempt, identity, late in self.journal.in_flight():
            worker = self.workers.get(identity)
            if worker is None:
                worker = self.workers[identity] = Worker(identity, now.mono, present=False)
            self._track(
                InFlight(
                    key=message.key,
                    msgid=message.msgid,
                    attempt=attempt,
                    losses=message.losses,
                    headers=Headers.decode(message.header_text),
                    worker=identity,
                    late=late,
                    since=now.mono,
                ),
                worker,
            )

    def _make_queue(self, queue_id: int, name: str, **counts: Any) -> MessageQueue:
        queue = MessageQueue(
            queue_id, name, self.journal, self._budget, self._in_flight_keys.__contains__, **counts
        )
        self.queues[name] = self._queues_by_id[queue_id] = queue
        return queue

    def queue(self, name: str) -> MessageQueue:
        """Return the queue of this name, made on first use; '' is eventmq's default queue."""
        name = name or DEFAULT_QUEUE
        queue = self.queues.get(name)
        if queue is None:
            queue = self._make_queue(self.journal.add_queue(name), name)
        return queue

    # Clients

    def begin_turn(self, msgids: list[str]) -> None:
        """Look up, all at once, which of the msgids about to be published are known already."""
        self._seen = self.journal.known(msgids) if msgids else set()

    def from_client(self, identity: bytes, command: Command, now: Moment) -> None:
        """Take a client's command."""
        kind = type(command)
        if kind is Request:
            self._on_publish(identity, command, now)  # type: ignore[arg-type]
        elif isinstance(command, Hello):
            self._our_clients.pop(identity, None)
            self._our_clients[identity] = None
            if len(self._our_clients) > 100_000:
                del self._our_clients[next(iter(self._our_clients))]
            self.outbox.append(Send(identity, Hello(msgid=command.msgid, about=self.about)))
        elif isinstance(command, Ask):
            if self.asker is not None:
                self.asker(identity, command, now)
        elif isinstance(command, Schedule | Unschedule):
            self._on_schedule(identity, command, now)
        elif isinstance(command, Inform):
            self._on_scheduler(identity, command, now)
        elif identity in self.schedulers:
            self.schedulers[identity] = now.mono

    def refuse(self, identity: bytes, msgid: str, kind: str, message: str) -> None:
        """Tell a publisher that its message was not taken; ``kind`` names one of our exception classes."""
        self.counters["refused"] += 1
        body = json.dumps({"value": None, "error": {"type": kind, "message": message}}).encode()
        ours = identity in self._our_clients
        headers = ReplyHeaders(state="REFUSED") if ours else None
        reply = Reply(msgid=new_id(), body=body, request_msgid=msgid, headers=headers)
        self.outbox.append(Send(identity, reply, stock=not ours))

    def _on_publish(self, identity: bytes, command: Request, now: Moment) -> None:
        msgid = command.msgid
        headers = command.headers
        if msgid in self._seen:
            self.counters["duplicates"] += 1
        else:
            limit = self.options.queue_limit
            queue = self.queue(command.queue)
            if limit and queue.waiting + queue.delayed >= limit:
                self.refuse(identity, msgid, "QueueFull", f"the queue {queue.name!r} holds {limit} messages, its limit")
                return
            self._seen.add(msgid)
            self._enqueue(queue, msgid, headers, command.header_text.decode(), command.payload, now)
            if headers.reply_requested:
                self._requesters[msgid] = identity
        if headers.guarantee:
            acks = self._acks.get(identity)
            if acks is None:
                self._acks[identity] = [msgid]
            else:
                acks.append(msgid)

    def _enqueue(
        self, queue: MessageQueue, msgid: str, headers: Headers, header_text: str, payload: bytes, now: Moment
    ) -> None:
        self.counters["published"] += 1
        sequence = self.journal.next_sequence()
        if headers.eta > now.wall:
            due_ms = int(headers.eta * 1000)
            self.journal.add_delayed(
                sequence, home_key(queue.id, headers.priority), due_ms, msgid, header_text, payload
            )
            queue.delayed += 1
            queue.changed = True
            if self._next_due_ms is None or due_ms < self._next_due_ms:
                self._next_due_ms = due_ms
        else:
            queue.append(sequence, msgid, headers, header_text, payload)

    def publish(self, message: Publish, now: Moment) -> None:
        """Publish a message of the broker's own, or a follow-up of an outcome."""
        self._enqueue(
            self.queue(message.queue), message.msgid, message.headers, message.headers.encode(), message.payload, now
        )

    def _publish_scheduled(self, message: Publish, now: Moment) -> None:
        self.publish(message, now)

    def _on_schedule(self, identity: bytes, command: Schedule | Unschedule, now: Moment) -> None:
        try:
            if isinstance(command, Schedule):
                self.schedules.add(command, command.queue or DEFAULT_QUEUE, now)
            else:
                self.schedules.remove(command)
        except MessageError as exc:
            self.refuse(identity, command.msgid, "MessageError", str(exc))
            self.notes.append(("warning", f"refused a {type(command).__name__.upper()}: {exc}"))

    # Workers

    def from_worker(self, identity: bytes, command: Command, now: Moment) -> None:
        """Take a worker's or scheduler's command."""
        worker = self.workers.get(identity)
        if worker is not None and worker.present:
            worker.heard = now.mono
            worker.gone = None
        elif not isinstance(command, Inform):
            if isinstance(command, Reply):
                self._on_reply(identity, command, now)
            if worker is not None and worker.stock:
                worker.heard = now.mono
            else:
                self._ask_to_inform(identity, now)
            return
        handler = _FROM_WORKER.get(type(command))
        if handler is not None:
            handler(self, identity, command, now)

    def connection_gone(self, identity: bytes, now: Moment) -> None:
        """Note that a worker's connection is gone; it has ``gone_after_s`` to be heard again."""
        worker = self.workers.get(identity)
        if worker is not None:
            worker.gone = now.mono
            self._next_check = min(self._next_check, now.mono + self.options.gone_after_s)

    def _ask_to_inform(self, identity: bytes, now: Moment) -> None:
        if now.mono - self._strangers.get(identity, -1e9) < 0.25:
            return
        if len(self._strangers) > 10_000:
            self._strangers.clear()
        self._strangers[identity] = now.mono
        hello = Hello(msgid=new_id(), about={**self.about, "inform": True})
        self.outbox.append(Send(identity, hello, to_worker=True))

    def _on_inform(self, identity: bytes, command: Inform, now: Moment) -> None:
        about = command.capabilities
        self._strangers.pop(identity, None)
        worker = self.workers.get(identity)
        if worker is None:
            worker = self.workers[identity] = Worker(identity, now.mono, present=True)
        self._forget_tasks(worker)
        worker.present = True
        worker.leaving = False
        worker.heard, worker.gone = now.mono, None
        worker.credit = 0
        worker.stock = about is None
        worker.listen([(weight, self.queue(name)) for weight, name in command.queues] or [(0, self.queue(""))])
        self.outbox.append(
            Send(identity, Ack(msgid=new_id(), acked=(command.msgid,)), to_worker=True, stock=worker.stock)
        )
        if about is not None:
            worker.slots, worker.tasks = about.slots, about.tasks
            worker.pid, worker.hostname = about.pid, about.hostname
            for task in worker.tasks or ():
                self._known_tasks[task] = self._known_tasks.get(task, 0) + 1
            held = {(msgid, attempt) for msgid, attempt, _ in about.held}
            worker.not_begun = frozenset(msgid for msgid, _, begun in about.held if not begun)
            missing = [f for f in worker.in_flight.values() if (f.msgid, f.attempt) not in held]
            self._give_back(missing, worker)
            hello = {**self.about, "dead_after_s": self.options.dead_after_s}
            self.outbox.append(Send(identity, Hello(msgid=new_id(), about=hello), to_worker=True))
            namesake = worker.name.rpartition(".")[0]
            if namesake and any(
                w.present and w is not worker and w.gone is None and w.name.rpartition(".")[0] == namesake
                for w in self.workers.values()
            ):
                self.notes.append(("warning", f"a second worker is named {namesake}: give each its own name (-n)"))
        self.outbox.append(self._heartbeat(identity, now, stock=worker.stock))
        for queue in worker.queues:
            queue.release()
        self._next_check = min(self._next_check, now.mono + self.options.dead_after_s)
        self.notes.append(("info", f"worker {worker.name}: {', '.join(q.name for q in worker.queues)}"))

    def _heartbeat(self, identity: bytes, now: Moment, *, stock: bool, to_worker: bool = True) -> Send:
        return Send(identity, Heartbeat(msgid=new_id(), timestamp=now.wall), to_worker=to_worker, stock=stock)

    def _on_scheduler(self, identity: bytes, command: Inform, now: Moment) -> None:
        """A stock scheduler is acknowledged and kept alive by heartbeats; the broker runs the schedules itself."""
        if command.role != SCHEDULER:
            self.refuse(identity, command.msgid, "ProtocolError", "this is the clients' address: a worker connects to the other one")
            return
        self.schedulers[identity] = now.mono
        self.outbox.append(Send(identity, Ack(msgid=new_id(), acked=(command.msgid,)), stock=True))
        self.outbox.append(self._heartbeat(identity, now, stock=True, to_worker=False))

    def _on_ready(self, identity: bytes, command: Ready, now: Moment) -> None:
        worker = self.workers[identity]
        if not worker.leaving:
            worker.credit += command.count

    def _on_heartbeat(self, identity: bytes, command: Heartbeat, now: Moment) -> None:
        self.workers[identity].not_begun = frozenset(command.not_begun)

    def _on_reply(self, identity: bytes, command: Reply, now: Moment) -> None:
        headers = command.headers
        msgid = command.request_msgid
        if headers is not None:
            acks = self._worker_acks.get(identity)
            if acks is None:
                self._worker_acks[identity] = [msgid]
            else:
                acks.append(msgid)
        flight = self.in_flight.get(msgid)
        if flight is None or (headers is not None and headers.attempt != flight.attempt):
            self.counters["stale"] += 1
            return
        state = headers.state if headers is not None else SUCCESS
        if state == REQUEUED:
            self._lose(flight, now, "the task was rejected or its child was lost")
            return
        self._untrack(flight)
        journal = self.journal
        if state == REJECTED:
            self._bury(flight, "rejected by the task", now)
        else:
            journal.finish(flight.key, msgid)
        self.counters["finished"] += 1
        if (worker := self.workers.get(flight.worker)) is not None:
            worker.finished += 1
        if command.follow_ups:
            known = journal.known([p.msgid for p in command.follow_ups])
            for message in command.follow_ups:
                if message.msgid not in known:
                    self.publish(message, now)
        task_id = flight.headers.task_id
        if task_id and state not in (IGNORED, REJECTED):
            keep = not (flight.headers.no_result or (headers is not None and headers.no_result))
            self.results.put(task_id, state, command.body, now, keep=keep)
        if (client := self._requesters.pop(msgid, None)) is not None:
            reply = Reply(msgid=new_id(), body=command.body, request_msgid=msgid)
            self.outbox.append(Send(client, reply, stock=True))

    def _on_update(self, identity: bytes, command: Update, now: Moment) -> None:
        flight = self.in_flight.get(command.request_msgid)
        if flight is None or flight.attempt != command.headers.attempt or command.headers.state in FINAL_STATES:
            return
        task_id = flight.headers.task_id
        if task_id and not flight.headers.no_result:
            self.results.put(task_id, command.headers.state, command.body, now)

    def _on_nack(self, identity: bytes, command: Nack, now: Moment) -> None:
        worker = self.workers[identity]
        flights = [
            flight
            for msgid, attempt in command.returned
            if (flight := worker.in_flight.get(msgid)) is not None and flight.attempt == attempt
        ]
        self._give_back(flights, worker)

    def _on_kbye(self, identity: bytes, command: Kbye, now: Moment) -> None:
        worker = self.workers[identity]
        worker.credit = 0
        worker.leaving = True
        self.notes.append(("info", f"worker {worker.name} leaves"))
        if not worker.stock:
            self._worker_lost(worker, now, "left with it unfinished")

    def _on_answer(self, identity: bytes, command: Answer, now: Moment) -> None:
        if self.answered is not None:
            self.answered(identity, command, now)

    # Hand-outs

    def hand_out(self, now: Moment) -> None:
        """Give what waits to those who asked: first to idle slots, one each in turn, then to reserves."""
        ready = [w for w in self.workers.values() if w.credit > 0 and w.present]
        if not ready:
            return
        if len(ready) > 1:
            ready.sort(key=lambda w: (-w.weight, len(w.in_flight) - w.slots))
        takers = [w for w in ready if w.idle_slots > 0]
        while takers:
            takers = [w for w in takers if self._give(w, now, alone=True) and w.idle_slots > 0]
        takers = [w for w in ready if w.credit > 0 and not w.stock]
        while takers:
            takers = [w for w in takers if self._give(w, now, alone=False) and w.credit > 0]

    def _give(self, worker: Worker, now: Moment, *, alone: bool) -> bool:
        """Hand the worker one message; False: nothing that it may have waits. ``alone``: it has an idle slot."""
        for tier in worker.tiers:
            for turn in range(len(tier)):
                queue = tier[0]
                message = self._next_for(worker, queue, now)
                if len(tier) > 1:
                    tier.append(tier.pop(0))
                if message is None:
                    continue
                if message.losses and not alone:
                    # A message that was lost before runs beside nothing else: it waits for an idle slot.
                    queue.put_back((message,))
                    return False
                self._assign(worker, queue, message, now)
                return True
        return False

    def _next_for(self, worker: Worker, queue: MessageQueue, now: Moment) -> Waiting | None:
        """Take the queue's next message that this worker may have, ending those that may not run any more."""
        if queue.blocked:
            for task in queue.blocked:
                if worker.has(task):
                    return queue.pop_set_aside(task)
        while (message := queue.pop()) is not None:
            headers = message.headers
            if headers.expires and headers.expires <= now.wall:
                self._end_waiting(message, REVOKED, "TaskRevokedError", "expired", now)
            elif headers.task_id in self.revoked:
                self._end_waiting(message, REVOKED, "TaskRevokedError", "revoked", now)
            elif worker.has(headers.task) or not self._known_tasks.get(headers.task):
                return message
            else:
                queue.set_aside(message)
        return None

    def _assign(self, worker: Worker, queue: MessageQueue, message: Waiting, now: Moment) -> None:
        attempt = message.attempt + 1
        headers = message.headers
        flight = InFlight(
            key=message.key,
            msgid=message.msgid,
            attempt=attempt,
            losses=message.losses,
            headers=headers,
            worker=worker.identity,
            late=worker.late(headers.task),
            since=now.mono,
        )
        worker.credit -= 1
        self._track(flight, worker)
        self.journal.hand_out(message.key, attempt, worker.identity, flight.late)
        self.counters["handed_out"] += 1
        queue.handed_out += 1
        if worker.stock:
            text = _stock_headers(headers)
        else:
            text = f"{message.header_text},attempt:{attempt}" if message.header_text else f"attempt:{attempt}"
            if message.losses:
                text += ",redelivered"
        self.outbox.append(Dispatch(worker.identity, message.msgid, queue.name, text, message.payload))

    def _track(self, flight: InFlight, worker: Worker) -> None:
        worker.in_flight[flight.msgid] = flight
        self.in_flight[flight.msgid] = flight
        self._in_flight_keys[flight.key] = flight
        if flight.headers.task_id:
            self._flights_by_task[flight.headers.task_id] = flight.msgid

    def _untrack(self, flight: InFlight) -> None:
        msgid = flight.msgid
        del self.in_flight[msgid]
        del self._in_flight_keys[flight.key]
        if (worker := self.workers.get(flight.worker)) is not None:
            worker.in_flight.pop(msgid, None)
        if self._flights_by_task.get(flight.headers.task_id) == msgid:
            del self._flights_by_task[flight.headers.task_id]

    def _give_back(self, flights: Iterable[InFlight], worker: Worker) -> None:
        """Put hand-outs that never began back into their queues, uncounted."""
        for flight in flights:
            self._requeue(flight, flight.losses)

    def _requeue(self, flight: InFlight, losses: int) -> None:
        message = self.journal.read_message(flight.key)
        self._untrack(flight)
        if message is None:
            return
        self.journal.give_back(flight.key, flight.attempt, losses)
        waiting = Waiting(
            flight.key, flight.msgid, flight.headers, message.header_text, message.payload, flight.attempt, losses
        )
        self._queues_by_id[queue_of(flight.key)].put_back((waiting,))

    def _end_waiting(self, message: Waiting, state: str, kind: str, text: str, now: Moment) -> None:
        self.journal.finish(message.key, message.msgid)
        self._requesters.pop(message.msgid, None)
        task_id = message.headers.task_id
        if task_id:
            body = failure_body(kind, text, state)
            self.results.put(task_id, state, body, now, keep=not message.headers.no_result)

    # Losses

    def _worker_lost(self, worker: Worker, now: Moment, how: str) -> None:
        self._forget_tasks(worker)
        if worker.in_flight and worker.stock and not worker.leaving:
            worker.leaving, worker.present, worker.credit = True, False, 0
            return
        del self.workers[worker.identity]
        if worker.in_flight:
            self.notes.append(("warning", f"worker {worker.name} {how}: {len(worker.in_flight)} tasks"))
        for flight in list(worker.in_flight.values()):
            if flight.msgid in worker.not_begun and flight.late:
                self._requeue(flight, flight.losses)
            else:
                self._lose(flight, now, f"the worker {worker.name} {how}")

    def _lose(self, flight: InFlight, now: Moment, how: str) -> None:
        """Hand out a lost task again if it acknowledges late, else end it as WorkerLostError."""
        self.counters["lost"] += 1
        limit = self.options.max_redeliveries
        losses = flight.losses + 1
        if flight.late and not (limit and losses > limit):
            self.counters["redelivered"] += 1
            self._requeue(flight, losses)
            return
        self._untrack(flight)
        if flight.late:
            how += f"; it was handed out {losses} times, and the limit is {limit} redeliveries"
        self._bury(flight, f"WorkerLostError: {how}", now, losses)
        self._requesters.pop(flight.msgid, None)
        if flight.headers.task_id:
            body = failure_body("WorkerLostError", how)
            self.results.put(flight.headers.task_id, FAILURE, body, now, keep=not flight.headers.no_result)

    def _bury(self, flight: InFlight, reason: str, now: Moment, losses: int | None = None) -> None:
        self.counters["dead"] += 1
        queue = self._queues_by_id[queue_of(flight.key)]
        self.journal.bury(
            flight.key, flight.msgid, queue.name, reason, now.wall, flight.losses if losses is None else losses
        )

    def _forget_tasks(self, worker: Worker) -> None:
        for task in worker.tasks or ():
            left = self._known_tasks.get(task, 0) - 1
            if left > 0:
                self._known_tasks[task] = left
            else:
                self._known_tasks.pop(task, None)
        if worker.tasks:
            for queue in worker.queues:
                queue.release()
        worker.tasks = None

    # Revokes

    def revoke(self, task_id: str, now: Moment, *, terminate: bool, signal: str) -> str:
        """Revoke a task; returns ``finished``, ``terminating`` (its worker is told) or ``revoked``."""
        stored = self.results.get([task_id]).get(task_id)
        if stored is not None and stored.state in FINAL_STATES:
            return "finished"
        expires_at = now.wall + self.options.revoke_expires_s
        self.revoked.add(task_id)
        self.journal.revoke(task_id, expires_at)
        msgid = self._flights_by_task.get(task_id)
        if msgid is not None:
            worker = self.workers.get(self.in_flight[msgid].worker)
            if worker is not None and worker.present and not worker.stock:
                arguments = {"ids": [task_id], "terminate": terminate, "signal": signal}
                ask = Ask(msgid=new_id(), verb="revoke", arguments=arguments)
                self.outbox.append(Send(worker.identity, ask, to_worker=True))
            return "terminating" if terminate else "revoked"
        self.results.put(task_id, REVOKED, failure_body("TaskRevokedError", "revoked", REVOKED), now)
        return "revoked"

    # Time

    def tick(self, now: Moment) -> None:
        """Do what is due: delayed messages, schedules, lost workers, heartbeats, expiry."""
        if now.mono - self._last_tick > PAUSE_S:
            floor = now.mono - self.options.dead_after_s + PAUSE_S
            for worker in self.workers.values():
                worker.heard = max(worker.heard, floor)
                if worker.gone is not None:
                    worker.gone = now.mono
        self._last_tick = now.mono
        if self._next_due_ms is not None and self._next_due_ms <= now.wall * 1000:
            self._make_due_ready(now)
        next_at = self.schedules.next_at()
        if next_at is not None and next_at <= now.wall:
            self.schedules.run_due(now)
        if now.mono >= self._next_check:
            self._check_workers(now)
        if now.mono >= self._next_beat:
            self._beat(now)
        if now.mono >= self._next_rotation:
            self._next_rotation = now.mono + FINISHED_ROTATION_S
            self.journal.rotate_finished()
            self.revoked = set(self.journal.revoked(now.wall))
        if now.mono >= self._next_expiry:
            self._next_expiry = now.mono + (0.0 if self.results.expire(now) else EXPIRY_S)

    def _make_due_ready(self, now: Moment) -> None:
        due = self.journal.due(int(now.wall * 1000), DUE_BATCH)
        moves = [(key, home | self.journal.next_sequence()) for key, home in due]
        self.journal.make_ready(moves)
        for _, key in moves:
            queue = self._queues_by_id[queue_of(key)]
            queue.arrived(9 - (key - home_key(queue.id, 9) >> 41))
        self._next_due_ms = self.journal.next_due_ms()

    def _check_workers(self, now: Moment) -> None:
        options = self.options
        next_check = now.mono + options.dead_after_s
        for worker in list(self.workers.values()):
            if worker.leaving and worker.stock:
                deadline = worker.heard + options.stock_timeout_s if worker.in_flight else now.mono
            else:
                deadline = worker.lost_at(options.dead_after_s, options.gone_after_s)
            if deadline <= now.mono:
                self._worker_lost(worker, now, "was lost")
            else:
                next_check = min(next_check, deadline)
        for identity, heard in list(self.schedulers.items()):
            if heard + max(60.0, options.dead_after_s) < now.mono:
                del self.schedulers[identity]
        self._next_check = next_check

    def _beat(self, now: Moment) -> None:
        self._next_beat = now.mono + min(3.0, self.options.dead_after_s / 4)
        for worker in self.workers.values():
            if worker.present:
                self.outbox.append(self._heartbeat(worker.identity, now, stock=worker.stock))
        for identity in self.schedulers:
            self.outbox.append(self._heartbeat(identity, now, stock=True, to_worker=False))

    def next_deadline(self, now: Moment) -> float:
        """Return the monotonic time at which ``tick`` must be called though nothing has arrived."""
        deadline = min(self._next_rotation, self._next_expiry)
        if self.workers or self.schedulers:
            deadline = min(deadline, self._next_beat, self._next_check)
        if self._next_due_ms is not None:
            deadline = min(deadline, now.mono + self._next_due_ms / 1000 - now.wall)
        next_at = self.schedules.next_at()
        if next_at is not None:
            deadline = min(deadline, now.mono + next_at - now.wall)
        return deadline

    # The end of a turn

    def close_turn(self) -> None:
        """Write the counts that changed and add the turn's acknowledgements to the outbox."""
        for queue in self.queues.values():
            if queue.changed:
                queue.changed = False
                self.journal.set_counts(queue.id, queue.waiting, queue.delayed)
        for identity, msgids in self._acks.items():
            if identity in self._our_clients:
                self.outbox.append(Send(identity, Ack(msgid=new_id(), acked=tuple(msgids))))
            else:
                self.outbox += [Send(identity, Ack(msgid=new_id(), acked=(m,)), stock=True) for m in msgids]
        self._acks.clear()
        for identity, msgids in self._worker_acks.items():
            self.outbox.append(Send(identity, Ack(msgid=new_id(), acked=tuple(msgids)), to_worker=True))
        self._worker_acks.clear()
        self._seen = set()

    def take_outbox(self) -> list[object]:
        """Return what is to be sent, after the commit; each a Send or a Dispatch."""
        taken = self.outbox[:]
        self.outbox.clear()
        return taken


def _stock_headers(headers: Headers) -> str:
    """Return a REQUEST's headers for a stock worker, which must answer: its REPLY is how we learn of the end."""
    parts = ["reply-requested"]
    if headers.retry_count:
        parts.append(f"retry-count:{headers.retry_count}")
    limit = headers.timeout if headers.timeout is not None else headers.limit_s
    if limit is not None:
        parts.append(f"timeout:{max(1, int(limit + 0.999))}")
    return ",".join(parts)


_FROM_WORKER: dict[type, Callable[[Engine, bytes, Any, Moment], None]] = {
    Inform: Engine._on_inform,
    Ready: Engine._on_ready,
    Reply: Engine._on_reply,
    Heartbeat: Engine._on_heartbeat,
    Update: Engine._on_update,
    Nack: Engine._on_nack,
    Kbye: Engine._on_kbye,
    Answer: Engine._on_answer,
}
