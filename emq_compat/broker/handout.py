"""Who gets what: first idle slots, one message each in turn, then reserves.

So an idle worker never waits behind a busy one's reserve; equally idle ones take turns (askers.py). A worker
takes from its heaviest queues first; those of one weight take turns (tiers.py). A message whose task a worker
doesn't have, or may not have yet by its rate limit, is set aside for those that may; it keeps its place
before younger ones.
"""

from __future__ import annotations

from emq_compat.broker.askers import TURN_S
from emq_compat.broker.desk import Desk
from emq_compat.broker.fleet import Fleet
from emq_compat.broker.flights import Flights
from emq_compat.broker.queue import MessageQueue
from emq_compat.broker.records import Dispatch, InFlight, Moment, Waiting
from emq_compat.broker.results import failure_body
from emq_compat.broker.stock import stock_headers, unfit
from emq_compat.broker.telling import tell_end
from emq_compat.broker.withdrawals import Withdrawals, has_tag
from emq_compat.broker.workers import Worker
from emq_compat.message import FAILURE, REVOKED

__all__ = ["HandOut"]

#: So many messages of a queue may be set aside in memory before no more are looked at for a limited worker.
LOOK_PAST = 10_000
#: So many messages are parked in one turn at most, so that a turn stays short; it goes on in the next.
PARKED_AT_ONCE = 1000
#: So often gates that open, because messages end instead of being handed out, are followed in one turn.
ROUNDS = 20


class HandOut:
    """Gives waiting messages to workers that asked.

    Args:
        withdrawn: what must not run.
    """

    def __init__(self, desk: Desk, fleet: Fleet, flights: Flights, withdrawn: Withdrawals) -> None:
        self._desk = desk
        self._fleet = fleet
        self._flights = flights
        self._endings = flights.endings
        self._withdrawn = withdrawn
        self._gates = flights.gates
        self._shares = flights.gates.shares
        self._busy = flights.queues.busy
        self._askers = flights.askers
        #: how many more messages this run may park.
        self._may_park = 0
        self._served = 0

    def run(self, now: Moment) -> None:
        """Hand out all that can be handed out now."""
        self._may_park = PARKED_AT_ONCE
        for _ in range(ROUNDS):
            self._gates.open(now)
            self._round(now)
            if not self._gates.opened(now):
                return

    def next_at(self, now: Moment) -> float:
        """Return the monotonic time at which ``run`` has more to do though nothing has happened."""
        return now.mono if self._may_park <= 0 or self._gates.opened(now) else self._gates.next_at()

    def _round(self, now: Moment) -> None:
        if not self._busy:
            return
        askers = self._askers
        askers.look()
        takers = []
        for worker in askers.idle(now.mono):
            if self._give(worker, now, idle=True) and worker.idle_slots > 0:
                takers.append(worker)
            if not self._busy:
                return
        while takers and self._busy:
            takers = [w for w in takers if self._give(w, now, idle=True) and w.idle_slots > 0]
        takers = [w for w in askers.all() if w.credit > 0 and not w.stock]
        while takers and self._busy:
            takers = [w for w in takers if self._give(w, now, idle=False) and w.credit > 0]

    def _give(self, worker: Worker, now: Moment, *, idle: bool) -> bool:
        """Hand the worker one message, for an idle slot or its reserve; False: there is none for it."""
        busy = self._busy
        if busy.isdisjoint(worker.listened):
            return False
        for tier in worker.tiers:
            for queue in tier.in_turn(busy):
                message = self._next_for(worker, queue, now)
                if message is None:
                    continue
                tier.served(queue)
                if message.losses and not idle:
                    # What was lost before is handed out alone: it waits for an idle slot.
                    queue.put_back((message,))
                    return False
                self._assign(worker, queue, message, now)
                return True
        return False

    def _next_for(self, worker: Worker, queue: MessageQueue, now: Moment) -> Waiting | None:
        """Take the queue's next message that this worker may have; end those that must not run any more."""
        while True:
            aside = queue.first_aside(lambda task: worker.may_have(task, now.mono)) if queue.blocked else None
            if aside is not None:
                message = queue.pop_set_aside(aside)
                if self._may_run(message, queue, worker, now) and self._passes(message, now):
                    return message
                continue
            waiting = queue.pop()
            if waiting is None:
                return None
            if not self._may_run(waiting, queue, worker, now):
                continue
            headers = waiting.headers
            task = headers.task
            if headers.slots or headers.pace or task in self._shares:
                if self._may_park <= 0:
                    queue.put_back((waiting,))
                    return None
                if not self._passes(waiting, now):
                    continue
            if worker.may_have(task, now.mono) or not self._fleet.known_tasks.get(task):
                return waiting
            if worker.paces and queue.aside >= LOOK_PAST:
                queue.put_back((waiting,))
                return None
            queue.set_aside(waiting)

    def _passes(self, message: Waiting, now: Moment) -> bool:
        """Tell whether the gates let a message through that was taken from its queue; park it if not."""
        gate = self._gates.shut(message.headers, now)
        if gate is None:
            return True
        self._may_park -= 1
        self._gates.park(message, gate)
        return False

    def _may_run(self, message: Waiting, queue: MessageQueue, worker: Worker, now: Moment) -> bool:
        """Tell whether a message that was taken from its queue may still be run; end it if not."""
        headers = message.headers
        if headers.expires and headers.expires <= now.wall:
            self._end_waiting(message, queue, worker, "expired", now)
        elif headers.task_id in self._withdrawn.revoked or (
            headers.tags and has_tag(headers, self._withdrawn.tags)
        ):
            self._end_waiting(message, queue, worker, "revoked", now)
        elif worker.stock and (why := unfit(message.payload)):
            self._put_aside(message, queue, why, now)
        else:
            return True
        return False

    def _end_waiting(
        self, message: Waiting, queue: MessageQueue, worker: Worker, why: str, now: Moment
    ) -> None:
        self._desk.counters[why] += 1
        self._flights.astray.pop(message.msgid, None)
        self._desk.journal.finish(message.key, message.msgid)
        if self._gates.concern(message.headers):
            self._gates.gone(message.key, message.headers)
        body = failure_body("TaskRevokedError", why, REVOKED)
        tell_end(
            self._desk,
            (worker,) if worker.has(message.headers.task) else self._fleet.workers.values(),
            queue,
            msgid=message.msgid,
            headers=message.headers,
            payload=message.payload,
            body=body,
        )
        self._ended(message, queue, REVOKED, body, now)

    def _put_aside(self, message: Waiting, queue: MessageQueue, why: str, now: Moment) -> None:
        """Make a dead letter of a message that would break the worker; none of ours could run it either."""
        self._flights.astray.pop(message.msgid, None)
        self._desk.counters["dead"] += 1
        self._desk.note("warning", f"{message.msgid} is put aside: {why}")
        if self._gates.concern(message.headers):
            self._gates.gone(message.key, message.headers)
        reason = f"MessageError: {why}"
        attempt, losses = message.attempt, message.losses
        self._desk.journal.bury(
            message.key, message.msgid, queue.name, reason, now.wall, attempt=attempt, losses=losses
        )
        self._ended(message, queue, FAILURE, failure_body("MessageError", why), now)

    def _ended(self, message: Waiting, queue: MessageQueue, state: str, body: bytes, now: Moment) -> None:
        self._endings.unattended(message.msgid, message.headers, queue, message.payload, state, body, now)

    def fetch(self, worker: Worker, queue: MessageQueue, now: Moment) -> tuple[Waiting, int] | None:
        """Hand a queue's next message to one who asks; returns it and the attempt. None: there is none."""
        if queue.paused:
            return None
        self._may_park = PARKED_AT_ONCE
        self._gates.open(now)
        message = self._next_for(worker, queue, now)
        return None if message is None else (message, self._track(worker, queue, message, now))

    def _track(self, worker: Worker, queue: MessageQueue, message: Waiting, now: Moment) -> int:
        """Note and journal a hand-out; returns which of the message's it is."""
        attempt = message.attempt + 1
        headers = message.headers
        late = headers.concludes or worker.late(headers.task)
        flight = InFlight(
            key=message.key,
            msgid=message.msgid,
            attempt=attempt,
            losses=message.losses,
            headers=headers,
            worker=worker.identity,
            late=late,
            since=now.mono,
        )
        if headers.slots or headers.pace or headers.task in self._shares:
            flight.gate = self._gates.passed(message.key, headers, now)
        if headers.once:
            self._endings.locks.handed_out(message.msgid, headers)
        if worker.paces and (pace := worker.paces.get(headers.task)) is not None:
            pace.take(now.mono)
        queue.handed_out += 1
        self._desk.counters["handed_out"] += 1
        self._flights.track(flight, worker)
        self._desk.journal.hand_out(message.key, attempt, worker.identity, late)
        return attempt

    def _assign(self, worker: Worker, queue: MessageQueue, message: Waiting, now: Moment) -> None:
        attempt, headers = self._track(worker, queue, message, now), message.headers
        worker.credit -= 1
        self._served += 1
        worker.served = self._served
        if now.mono - worker.turn_began >= TURN_S:
            worker.turn_began = now.mono
        if worker.stock:
            text = stock_headers(headers)
        else:
            text = message.header_text
            text = f"{text},attempt:{attempt}" if text else f"attempt:{attempt}"
            if message.losses:
                text += ",redelivered"
        self._desk.outbox.append(Dispatch(worker.identity, message.msgid, queue.name, text, message.payload))
