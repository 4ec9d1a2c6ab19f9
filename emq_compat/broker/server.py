"""The broker's loop: sockets, batches and the journal joined to the engine.

One turn: receive a bounded batch from every socket, let the engine work, commit once, then send. A turn whose
commit fails (disk full …) is undone as a whole: its publishers are refused, and the broker starts anew from
the journal once the disk takes a write again, while workers go on with what they hold.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import zmq

from emq_compat import __version__
from emq_compat.broker import admin
from emq_compat.broker.asks import UNANSWERED, Asks
from emq_compat.broker.backups import Backups
from emq_compat.broker.doors import Doors
from emq_compat.broker.engine import Engine, EngineOptions
from emq_compat.broker.frontdesk import FrontDesk
from emq_compat.broker.keyed import Keyed
from emq_compat.broker.line import Said
from emq_compat.broker.records import Dispatch, Moment, Send
from emq_compat.broker.refusals import Refusals
from emq_compat.broker.store import Store
from emq_compat.config import BrokerConfig
from emq_compat.errors import (
    JournalDamaged,
    JournalError,
    JournalUnwritable,
    LocalProtocolError,
    RemoteProtocolError,
)
from emq_compat.memory import Spare
from emq_compat.message import new_id
from emq_compat.permits import FULL, Permit
from emq_compat.protocol.commands import (
    Ack,
    Ask,
    Command,
    Disconnect,
    Heartbeat,
    Hello,
    Kbye,
    PublishTopic,
    Request,
)
from emq_compat.protocol.frames import LIMITS, encode, request_frames
from emq_compat.protocol.roles import ADMINISTRATOR, CLIENT, PUBLISHER, WORKER
from emq_compat.wire.direct_router import Received
from emq_compat.wire.routers import Router

__all__ = ["Server"]

logger = logging.getLogger(__name__)

#: Messages taken from one socket in one turn, and so the most that one commit waits for.
BATCH = 512
#: No more messages than these between two looks at the memory: a quiet time.
QUIET = 20
#: How often a full disk is tried again.
PROBE_S = 1.0


class Server:
    """A broker with its sockets bound.

    Args:
        config: see BrokerConfig.

    Raises:
        JournalError: the data folder can't be used.
        OperationalError: an address can't be bound.
        ConfigurationError: the keys can't be used.
    """

    def __init__(self, config: BrokerConfig) -> None:
        self.config = config
        self.store = Store(None if config.memory else config.data, durability=config.durability)
        self._options = EngineOptions(
            dead_after_s=config.dead_after_s,
            gone_after_s=config.dead_after_gone_s,
            max_redeliveries=config.max_redeliveries,
            queue_limit=config.queue_limit,
            stock_timeout_s=config.stock_timeout_s,
            result_expires_s=config.result_expires_s,
            max_message_bytes=min(config.max_message_bytes, LIMITS.payload_bytes),
        )
        self._about: dict[str, Any] = {"broker": new_id(), "version": __version__}
        self._stopping = False
        #: Seconds that its clock is ahead of the system's.
        self._ahead_s = 0.0
        #: monotonic time at which the disk is tried again; None: it works.
        self._probe_at: float | None = None
        #: Why it didn't work when it was tried last.
        self._failure = ""
        #: Something has come in this turn.
        self._heard = False
        self._spare = Spare(self.store.shrink)
        #: Messages received since the last look at the memory.
        self._since_look = 0
        #: What other threads want to have called in the loop, between two turns.
        self._calls: deque[Callable[[], None]] = deque()
        #: Does a turn that it is given, and returns what that returns; None: nobody wants to know of them.
        self.on_turn: Callable[[Callable[[], bool]], bool] | None = None
        try:
            self.doors = Doors(config)
        except BaseException:
            self.store.close()
            raise
        self.frontend, self.backend = self.doors.frontend, self.doors.backend
        self._backups = Backups(self.store, self.doors.wake.wake)
        self._front = FrontDesk(self.frontend, self._serve_client, self._client_gone)
        self._refusals = Refusals(self.frontend, self._count_malformed)
        try:
            self._start_engine()
        except BaseException:
            self.close()
            raise

    def _start_engine(self, known: Iterable[bytes] = ()) -> None:
        """Begin with what the journal has; ``known``: clients that have said HELLO, and won't again."""
        now = self.now()
        self.engine = Engine(self.store, self._options, self._about, now)
        self.engine.receipts.our_clients.update(dict.fromkeys(known))
        self.engine.topics.told_outside = self.doors.publish_out is not None
        self.asks = Asks(self.engine, self._backups.ask, now)
        self.engine.desk.unread.held = self.frontend.unsent_bytes
        self._keyed = Keyed(self.engine, self.asks)
        self.store.commit()

    # The loop

    def run(self) -> None:
        """Serve until ``stop`` is called (or TERM, INT arrive, where ``handle_signals`` is in force).

        Raises:
            JournalDamaged: the journal can't be read any more; the message says what to do.
        """
        more = False
        while not self._stopping:
            try:
                self.doors.wait(0 if more else self._timeout_s())
                while self._calls:
                    self._calls.popleft()()
                turn = self._turn if self._probe_at is None else self._turn_without_disk
                more = turn() if self.on_turn is None else self.on_turn(turn)
            except JournalError as exc:
                self._disk_failed(exc)
                more = False
            except MemoryError:
                # What the engine holds is in the journal: it begins anew with none of it in memory.
                self._disk_failed(JournalError("there is no memory for it"))
                more = False
            except Exception as exc:  # a mistake of ours, which a message brought out
                if not self._heard:
                    raise  # it would come again
                self._turn_failed(exc)
                more = False

    def _timeout_s(self) -> float:
        now = self.now()
        if self._probe_at is not None:
            return max(0.0, self._probe_at - now.mono)
        deadline = self.engine.next_deadline(now)
        if self.engine.desk.unread.many:
            deadline = min(deadline, self._front.look_at)
        for other in (self.asks.next_deadline(), self.store.fold_at, self.doors.deadline()):
            if other is not None and other < deadline:
                deadline = other
        return max(0.0, deadline - now.mono)

    def _turn(self) -> bool:
        """Do one turn; returns whether more may be waiting on a socket."""
        self._heard = len(self._front.line) > 0
        engine = self.engine
        from_workers = self._receive(self.backend)
        from_clients = self._receive(self.frontend, self._front.room(BATCH))
        now = self.now()
        self._front.begin_turn(engine, from_clients)
        for identity, command, permit in from_workers:
            if isinstance(command, RemoteProtocolError) or type(command) not in WORKER.says:
                self._refusals.note(WORKER, identity, command)
                if isinstance(command, Hello):
                    self._refusals.hello(self.backend, command, identity)
            elif permit is FULL:
                engine.from_worker(identity, command, now)
            else:
                self._keyed.from_worker(identity, command, permit, now)
        for identity in self.backend.speaking():
            engine.worker_speaks(identity, now)
        for identity in self.backend.gone():
            engine.connection_gone(identity, now)
            self._keyed.gone(identity)
        self._front.turn(from_clients, now)
        if engine.desk.unread.many and now.mono >= self._front.look_at:
            self._front.look_after_unread(engine, now)
        self.doors.look_after(now.mono)
        self._serve_administration(now)
        more = len(from_workers) == BATCH or len(from_clients) == BATCH or len(self._front.line) > 0
        self._since_look += len(from_workers) + len(from_clients)
        if self.doors.publish_in is not None:
            self._take_publishes(self.doors.publish_in, now)
        self._backups.tell()
        if now.mono >= self._spare.due:
            self._spare.look(now.mono, quiet=self._since_look <= QUIET)
            self._since_look = 0
        engine.tick(now)
        self.asks.tick(now)
        engine.hand_out(now)
        engine.close_turn(now)
        self.store.commit(told=bool(engine.desk.outbox))
        self._front.publishes = []
        self.asks.in_turn.clear()
        self._send(engine.take_outbox())
        self._backups.begin()
        if published := engine.topics.take():
            self._pass_on(published)
        if engine.desk.notes:
            for level, text in engine.desk.notes:
                logger.log(logging.getLevelName(level.upper()), "%s", text)
            engine.desk.notes.clear()
        return more

    def _receive(self, wire: Router, limit: int = BATCH) -> list[Received]:
        received = self.doors.receive(wire, limit)
        if received:
            self._heard = True
        return received

    def _serve_client(
        self, identity: bytes, command: Command | RemoteProtocolError, permit: Permit | None, now: Moment
    ) -> None:
        if isinstance(command, RemoteProtocolError) or type(command) not in CLIENT.says:
            self._refusals.tell(identity, self._refusals.note(CLIENT, identity, command))
        elif permit is FULL:
            self.engine.from_client(identity, command, now)
        else:
            self._keyed.from_client(identity, command, permit, now)

    def _client_gone(self, identity: bytes, now: Moment) -> None:
        self.engine.client_gone(identity, now)

    def _send(self, outbox: list[Send | Dispatch]) -> None:
        to_worker, to_client = self.backend.send_frames, self.frontend.send_frames
        confirming = True
        for item in outbox:
            if confirming and not (type(item) is Send and type(item.command) is Ack):
                # These come first: who publishes stands still until it has its own.
                self.frontend.flush()
                confirming = False
            if type(item) is Dispatch:
                to_worker(
                    item.identity,
                    request_frames(
                        item.msgid.encode(), item.queue.encode(), item.header_text.encode(), item.payload
                    ),
                )
            elif type(item) is Send:
                try:
                    frames = encode(item.command, stock=item.stock)
                except LocalProtocolError as exc:
                    logger.error("not sent to %r: %s", item.identity, exc)
                    continue
                (to_worker if item.to_worker else to_client)(item.identity, frames)
        # Before what is worked out for the next wait.
        self.doors.flush()

    def _serve_administration(self, now: Moment) -> None:
        commands = self._receive(self.doors.admin)
        for identity, command, permit in commands:
            if isinstance(command, RemoteProtocolError) or type(command) not in ADMINISTRATOR.says:
                self._refusals.note(ADMINISTRATOR, identity, command)
                continue
            if permit is not FULL and not self._keyed.from_administrator(permit):
                continue
            answer = admin.answer(self.engine, command, now)
            if answer is not None:
                self.doors.admin.send(identity, answer, stock=True)
            if isinstance(command, Disconnect):
                logger.info("an administrator asked the broker to stop")
                for worker in self.engine.fleet.workers.values():
                    if worker.present and worker.stock:
                        self.backend.send(worker.identity, Kbye(msgid=new_id()), stock=True)
                self._stopping = True

    def _take_publishes(self, wire: Router, now: Moment) -> None:
        commands = self._receive(wire)
        for identity, command, permit in commands:
            if not isinstance(command, PublishTopic):
                self._refusals.note(PUBLISHER, identity, command)
            elif permit is FULL:
                self.engine.topics.publish(command, now)
            else:
                self._keyed.announced(command, permit, now)

    def _pass_on(self, published: list[tuple[PublishTopic, list[bytes]]]) -> None:
        """Send what was published to who asked for it, and to the subscribers of the PUB socket."""
        send = self.frontend.send_frames
        for command, clients in published:
            if self.doors.publish_out is not None:
                self.doors.publish_out.send_multipart([command.topic.encode(), command.payload], zmq.NOBLOCK)
            if not clients:
                continue
            try:
                frames = encode(command)
            except LocalProtocolError as exc:
                logger.error("not passed on: %s", exc)
                continue
            for client in clients:
                if not send(client, frames):
                    self.engine.topics.forget(client)

    # Trouble

    def _count_malformed(self) -> None:
        self.engine.desk.counters["malformed"] += 1

    def _disk_failed(self, error: JournalError) -> None:
        """Refuse what this batch wanted published, and try again later.

        Raises:
            JournalDamaged: that was the error.
        """
        goes_on = not isinstance(error, JournalDamaged)
        what_next = f"trying again every {PROBE_S:g} s" if goes_on else "the broker ends"
        logger.error("%s; nothing of this batch was taken, %s", error, what_next)
        self._probe_at, self._failure = time.monotonic() + PROBE_S, str(error)
        self.doors.mute()
        self._refuse_turn(f"the broker can't store it: {error}", *_unanswered(error))
        if not goes_on:
            raise error

    def _turn_failed(self, error: Exception) -> None:
        """Drop the batch in which the mistake is, and start anew from the journal."""
        logger.critical(
            "a mistake in the broker: please report it. Nothing of this batch was taken", exc_info=error
        )
        why = "the broker made a mistake: see its log"
        self._refuse_turn(why, "BrokerRefused", why)
        self._probe_at = time.monotonic()
        self.doors.mute()
        try:
            self._start_anew()
        except JournalError as exc:
            self._disk_failed(exc)

    def _refuse_turn(self, publishes: str, kind: str, asks: str) -> None:
        """Tell those whose publishes and questions are undone with this turn why."""
        for identity, command in self._front.publishes:
            self._refusals.publish(identity, command.msgid, "BrokerRefused", publishes)
        for identity, msgid in self.asks.in_turn:
            self._refusals.ask(identity, msgid, kind, asks)
        self._front.publishes = []
        self.asks.in_turn.clear()

    def _start_anew(self) -> bool:
        """Start anew from the journal; False: it takes no write yet."""
        if not self.store.probe():
            return False
        self._start_engine(self.engine.receipts.our_clients)
        self._probe_at = None
        self.doors.unmute()
        return True

    def _turn_without_disk(self) -> bool:
        """Refuse publishes and questions, keep workers company, start anew once the disk takes a write."""
        from_clients: list[Said] = [*self._front.line.take(), *self._receive(self.frontend)]
        for identity, command, _ in from_clients:
            if isinstance(command, Request):
                self._refusals.publish(
                    identity,
                    command.msgid,
                    "BrokerRefused",
                    f"the broker can't store it: {self._failure}",
                )
            elif isinstance(command, Hello):
                self.frontend.send(identity, Hello(msgid=command.msgid, about=self._about))
            elif isinstance(command, Ask) and command.verb not in UNANSWERED:
                self._refusals.ask(identity, command.msgid, *_unanswered(self._failure))
        now = time.monotonic()
        if self._probe_at is not None and now >= self._probe_at:
            for worker in self.engine.fleet.workers.values():
                if worker.present:
                    beat = Heartbeat(msgid=new_id(), timestamp=time.time())
                    self.backend.send(worker.identity, beat, stock=worker.stock)
            self._probe_at = now + PROBE_S
            if self._start_anew():
                logger.warning("the journal can be written again")
                return True
        return False

    # End

    def stop(self) -> None:
        """End ``run`` after the turn it is in; may be called from a signal handler or another thread."""
        self._stopping = True
        self.doors.wake.wake()

    def call_soon(self, call: Callable[[], None]) -> None:
        """Have the loop call this between two turns; from another thread. It must be quick, and not raise."""
        self._calls.append(call)
        self.doors.wake.wake()

    @property
    def refusals(self) -> dict[str, int]:
        """Publishes that were refused because nothing could be stored, by the exception told."""
        return self._refusals.told

    @property
    def trouble(self) -> str:
        """Why publishes are refused now: what the disk said; empty: they aren't."""
        return self._failure if self._probe_at is not None else ""

    def now(self) -> Moment:
        """Return what time it is here."""
        return Moment(time.time() + self._ahead_s, time.monotonic())

    def advance(self, seconds: float) -> None:
        """Put the clock by which ETA, expiry and schedules are due ahead; from another thread, too."""
        self._ahead_s += seconds
        self.doors.wake.wake()

    def close(self) -> None:
        """Close sockets and journal; every turn was committed."""
        self._backups.close()
        self.doors.close()
        self.store.close()


def _unanswered(why: object) -> tuple[str, str]:
    """Return the error's kind and text for a question that meets a disk without room."""
    text = f"the broker answers and changes nothing until its journal can be written again: {why}"
    return JournalUnwritable.__name__, text
