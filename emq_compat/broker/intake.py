"""How a message is taken in: whether it is new, whether there is room, and whether it is the only one."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from emq_compat.broker.desk import Desk
from emq_compat.broker.exchanges import Exchanges
from emq_compat.broker.flights import Flights
from emq_compat.broker.queue import MessageQueue
from emq_compat.broker.receipts import Receipts
from emq_compat.broker.records import LockRow, Moment, home_key
from emq_compat.broker.results import Results, failure_body
from emq_compat.broker.topics import Topics
from emq_compat.celery_message import CeleryMessage
from emq_compat.errors import NotDeclared
from emq_compat.headers import via_text
from emq_compat.kombu_message import wrapped, wrapped_json
from emq_compat.message import FAILURE, FINAL_STATES, Headers, Publish, new_id
from emq_compat.pidbox import namespace_of
from emq_compat.protocol.commands import Request
from emq_compat.terms import ELAPSED, FAIL, JOIN, REFUSE, Once
from emq_compat.words import amount

__all__ = ["Intake"]

#: Where the class of the error is found that ends what is not the only one.
_MODULE = "emq_compat.errors"


class Intake:
    """Takes in what clients publish, and what the broker publishes itself."""

    def __init__(
        self,
        desk: Desk,
        flights: Flights,
        results: Results,
        receipts: Receipts,
        exchanges: Exchanges,
        topics: Topics,
    ) -> None:
        self._desk = desk
        self._journal = desk.journal
        self._flights = flights
        self._queues = flights.queues
        self._entry = flights.entry
        self._endings = flights.endings
        self._locks = flights.endings.locks
        self._results = results
        self._receipts = receipts
        self._taken = receipts.publishes
        self._exchanges = exchanges
        self._topics = topics
        topics.to_exchanges = self._announced
        #: Is told of what is published to an exchange of remote control: namespace, payload.
        self.commanded: Callable[[str, bytes, Moment], None] | None = None
        self._seen: set[str] = set()

    def begin_turn(self, msgids: list[str], unique: Iterable[str] = ()) -> None:
        """Look up, all at once, what is known of the messages about to be published.

        Args:
            unique: the headers ``once`` of those that have one.
        """
        self._seen = self._journal.known(msgids) if msgids else set()
        if unique:
            self._locks.look_up(unique)

    def close_turn(self) -> None:
        """Forget what was looked up, and write which keys are held now."""
        self._seen = set()
        self._locks.write()

    def request(self, identity: bytes, command: Request, now: Moment) -> None:
        """Take a client's publish."""
        msgid, headers = command.msgid, command.headers
        if msgid in self._seen:
            self._desk.counters["duplicates"] += 1
        elif headers.via:
            if not self._routed(identity, command, now):
                return
        else:
            queue = self._queues.get(command.queue)
            if headers.once and (holder := self._locks.holder(headers, msgid, now)) is not None:
                if not self._is_second(identity, queue, command, holder, now):
                    return
            else:
                limit = self._desk.options.queue_limit
                if limit and queue.total >= limit and not (headers.awaits or headers.settled):
                    text = f"the queue {queue.name!r} holds {amount(limit, 'message')}, its limit"
                    self._receipts.refuse(identity, msgid, "QueueFull", text)
                    return
                self._seen.add(msgid)
                if headers.reply_requested:
                    self._endings.requesters[msgid] = (identity, msgid)
                header_text = command.header_text.decode()
                if headers.chord or headers.awaits or headers.settled or headers.once:
                    self._take(queue, msgid, headers, header_text, command.payload, now)
                else:
                    self._entry.add(queue, msgid, headers, header_text, command.payload, now)
        if headers.guarantee:
            acks = self._taken.get(identity)
            if acks is None:
                self._taken[identity] = [msgid]
            else:
                acks.append(msgid)

    def _routed(self, identity: bytes, command: Request, now: Moment) -> bool:
        """Take a client's publish that names an exchange; returns whether it is to be acknowledged.

        Where it goes to no queue, nothing is kept of it; where to several, each has a copy of its own.
        """
        msgid, headers = command.msgid, command.headers
        assert headers.route is not None
        exchange, key = headers.route
        try:
            queues = self._exchanges.route(exchange, key)
        except NotDeclared as exc:
            self._receipts.refuse(identity, msgid, "NotDeclared", str(exc))
            return False
        limit = self._desk.options.queue_limit
        for queue in queues:
            if limit and queue.total >= limit:
                text = f"the queue {queue.name!r} holds {amount(limit, 'message')}, its limit"
                self._receipts.refuse(identity, msgid, "QueueFull", text)
                return False
        self._seen.add(msgid)
        if not queues:
            self._desk.counters["unroutable"] += 1
            self._journal.remember(msgid)
        elif headers.reply_requested:
            self._endings.requesters[msgid] = (identity, msgid)
        text = command.header_text.decode()
        for n, queue in enumerate(queues):
            copy = new_id() if n else msgid
            self._publish(queue, copy, headers, text, command.payload, now)
        if topic := self._exchanges.topic(exchange, key):
            self._topics.came_by_exchange(topic, command.payload)
        if self.commanded is not None and (namespace := namespace_of(exchange)) is not None:
            self.commanded(namespace, command.payload, now)
        return True

    def send(self, exchange: str, key: str, message: CeleryMessage, now: Moment) -> None:
        """Publish a message of the broker's own through an exchange; it is dropped where nobody is bound."""
        try:
            queues = self._exchanges.route(exchange, key)
        except NotDeclared:
            return
        headers = Headers(via=via_text(exchange, key))
        text = headers.encode()
        for queue in queues:
            self._entry.add(queue, new_id(), headers, text, wrapped(message), now)

    def _announced(self, topic: str, payload: bytes, now: Moment) -> None:
        """Give what is announced under a topic to the queues bound to the exchange of that name."""
        for exchange, key in self._exchanges.of_topic(topic):
            queues = self._exchanges.route(exchange.name, key)
            if not queues:
                continue
            headers = Headers(via=via_text(exchange.name, key))
            text, wrapped = headers.encode(), wrapped_json(payload)
            for queue in queues:
                self._entry.add(queue, new_id(), headers, text, wrapped, now)

    def publish(self, message: Publish, now: Moment) -> None:
        """Publish a message of the broker's own, or a follow-up of an outcome."""
        headers, msgid = message.headers, message.msgid
        if headers.route is None or message.queue:
            queues = [self._queues.get(message.queue)]
        else:
            exchange, key = headers.route
            try:
                queues = self._exchanges.route(exchange, key)
            except NotDeclared as exc:
                queues = []
                self._desk.note("warning", f"{headers.task or msgid} is dropped: {exc}")
            if not queues:
                self._desk.counters["unroutable"] += 1
                self._journal.remember(msgid)
        for n, queue in enumerate(queues):
            copy = new_id() if n else msgid
            self._publish(queue, copy, headers, headers.encode(), message.payload, now)

    def _publish(
        self,
        queue: MessageQueue,
        msgid: str,
        headers: Headers,
        text: str,
        payload: bytes,
        now: Moment,
    ) -> None:
        if headers.once and (holder := self._locks.holder(headers, msgid, now)) is not None:
            if Once.decode(headers.once).mode == JOIN and not (headers.chord or headers.awaits):
                self._desk.counters["joined"] += 1
                self._journal.remember(msgid)
            else:
                self._second(queue, msgid, headers, text, payload, holder, now)
        else:
            self._take(queue, msgid, headers, text, payload, now)

    def is_second(self, headers: Headers, now: Moment) -> bool:
        """Tell whether a message, published now, would find its unique key held by another."""
        return bool(headers.once) and self._locks.holder(headers, "", now) is not None

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
            self._endings.settle(msgid, headers, payload, now)
            return
        if headers.once:
            self._locks.claim(msgid, headers, now)
        if headers.chord.endswith("+"):
            self._endings.chords.grow(headers, now)
        if headers.awaits:
            self._endings.hold(queue, msgid, headers, header_text, payload, now)
        else:
            self._entry.add(queue, msgid, headers, header_text, payload, now)

    # Messages whose unique key is held by another

    def _is_second(
        self, identity: bytes, queue: MessageQueue, command: Request, holder: LockRow, now: Moment
    ) -> bool:
        """Deal with a publish that is not the only one; returns whether it is to be acknowledged."""
        msgid, headers = command.msgid, command.headers
        mode = Once.decode(headers.once).mode
        if mode == REFUSE:
            text, first = _told(headers, holder), holder.owner
            self._receipts.refuse(identity, msgid, "DuplicateTask", text, first=first)
            return False
        if mode == JOIN and not (headers.chord or headers.awaits):
            self._receipts.joined(identity, msgid, holder.owner)
            return False
        self._seen.add(msgid)
        if headers.reply_requested:
            self._endings.requesters[msgid] = (identity, msgid)
        text = command.header_text.decode()
        self._second(queue, msgid, headers, text, command.payload, holder, now)
        return True

    def _second(
        self,
        queue: MessageQueue,
        msgid: str,
        headers: Headers,
        header_text: str,
        payload: bytes,
        holder: LockRow,
        now: Moment,
    ) -> None:
        """Take a message whose id is known to others: it ends as the holder does, or at once."""
        once = Once.decode(headers.once)
        if headers.chord.endswith("+"):
            self._endings.chords.grow(headers, now)
        body, state = failure_body("DuplicateTask", _told(headers, holder), module=_MODULE), FAILURE
        if once.mode not in (FAIL, REFUSE):
            if self._lives(holder.owner):
                home = home_key(queue.id, headers.priority)
                self._desk.counters["joined"] += 1
                self._locks.follow(holder.owner, home, msgid, headers, header_text, payload)
                return
            stored = self._results.get((holder.owner,)).get(holder.owner)
            if stored is not None and stored.state in FINAL_STATES:
                state, body = stored.state, stored.body
            elif once.until != ELAPSED:
                self._locks.free(once.key)
                self._take(queue, msgid, headers, header_text, payload, now)
                return
        self._journal.remember(msgid)
        self._endings.unattended(msgid, headers, queue, payload, state, body, now)

    def _lives(self, owner: str) -> bool:
        """Tell whether a message is here that will have an end."""
        flights = self._flights
        return bool(
            owner in flights.by_task
            or owner in flights.by_msgid
            or owner in self._locks.followed
            or owner in self._endings.chords.by_task
            or self._journal.marked_as(owner)
        )


def _told(headers: Headers, holder: LockRow) -> str:
    once = Once.decode(headers.once)
    return f"{headers.task or 'a message'} is there already: {holder.owner} holds the key {once.key!r}"
