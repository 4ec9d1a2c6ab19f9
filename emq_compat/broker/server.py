"""The broker's loop: sockets, batches and the journal joined to the engine.

One turn: receive a bounded batch from every socket, let the engine work, commit once, then send. A turn whose
commit fails (disk full …) is undone as a whole: its publishers are refused, and the broker starts anew from
the journal once the disk takes a write again, while workers go on with what they hold.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import zmq

from emq_compat import __version__
from emq_compat.broker import admin
from emq_compat.broker.asks import Asks
from emq_compat.broker.engine import Engine, EngineOptions
from emq_compat.broker.frontdesk import FrontDesk
from emq_compat.broker.keyed import Keyed
from emq_compat.broker.line import Said
from emq_compat.broker.neighbours import other_users
from emq_compat.broker.records import Dispatch, Moment, Send
from emq_compat.broker.store import Store
from emq_compat.config import BrokerConfig
from emq_compat.errors import (
    EmqError,
    JournalDamaged,
    JournalError,
    LocalProtocolError,
    RemoteProtocolError,
)
from emq_compat.keys import Keys
from emq_compat.memory import Spare
from emq_compat.message import ReplyHeaders, new_id
from emq_compat.permits import ADMIN, FULL, Permit
from emq_compat.permits import CLIENT as ANY_KEY
from emq_compat.protocol.commands import (
    Answer,
    Ask,
    Command,
    Disconnect,
    Heartbeat,
    Hello,
    Kbye,
    PublishTopic,
    Reply,
    Request,
)
from emq_compat.protocol.frames import LIMITS, Limits, encode, request_frames
from emq_compat.protocol.roles import ADMINISTRATOR, CLIENT, PUBLISHER, WORKER, Role
from emq_compat.wire import Endless, Gate, RouterWire
from emq_compat.wire.poll import Poll, Polled
from emq_compat.wire.router import Received

__all__ = ["Server"]

logger = logging.getLogger(__name__)

#: Messages taken from one socket in one turn, and so the most that one commit waits for.
BATCH = 512
#: What a worker may say in one message, follow-ups included.
WORKERS_BYTES = 512 << 20
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
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._gate: Gate | None = None
        self._wires: list[RouterWire] = []
        self._publish_in: RouterWire | None = None
        self._publish_out: zmq.Socket[bytes] | None = None
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_r.setblocking(False)
        self._wake_w.setblocking(False)
        self._stopping = False
        #: Seconds that its clock is ahead of the system's.
        self._ahead_s = 0.0
        #: monotonic time at which the disk is tried again; None: it works.
        self._probe_at: float | None = None
        #: Why it didn't work when it was tried last.
        self._failure = ""
        #: Something has come in this turn.
        self._heard = False
        self._log_at: dict[str, float] = {}
        #: What the last poll found readable.
        self._ready: set[Polled] = set()
        self._spare = Spare(self.store.shrink)
        #: Messages received since the last look at the memory.
        self._since_look = 0
        self._backups_asked: list[tuple[Path, Callable[[EmqError | None], None]]] = []
        self._backups: list[threading.Thread] = []
        self._backups_done: deque[tuple[Callable[[EmqError | None], None], EmqError | None]] = deque()
        #: What other threads want to have called in the loop, between two turns.
        self._calls: deque[Callable[[], None]] = deque()
        #: Does a turn that it is given, and returns what that returns; None: nobody wants to know of them.
        self.on_turn: Callable[[Callable[[], bool]], bool] | None = None
        #: Publishes that were refused because nothing could be stored, by the exception told.
        self.refusals: dict[str, int] = {}
        try:
            self._bind()
            self._start_engine()
        except BaseException:
            self.close()
            raise

    def _bind(self) -> None:
        config = self.config
        most = config.max_message_bytes + (32 << 20)
        keys = Keys.for_broker(config.keys_dir) if config.keys_dir is not None else None
        self._gate = Gate(self._context, keys) if keys is not None else None
        self.frontend = self._listen(config.frontend)
        self._front = FrontDesk(self.frontend, self._serve_client, self._client_gone)
        self.backend = self._listen(config.backend)
        self.admin = self._listen(config.admin, ADMIN)
        if config.publish_in and config.publish_out:
            self._publish_in = self._listen(config.publish_in)
            self._publish_out = self._context.socket(zmq.PUB)
            self._publish_out.setsockopt(zmq.LINGER, 0)
            if self._gate is not None:
                self._gate.protect(self._publish_out, ADMIN)
            self._publish_out.bind(config.publish_out)
        self._endless = Endless(
            (int(wire.endpoint.rpartition(":")[2]), wire, WORKERS_BYTES if wire is self.backend else most)
            for wire in self._wires
            if wire.endpoint.startswith("tcp://")
        )
        self._poll = Poll(self._wires, (self._wake_r.fileno(),))
        self._poll_without_disk = Poll((self.frontend,), (self._wake_r.fileno(),))

    def _listen(self, endpoint: str, role: str = ANY_KEY) -> RouterWire:
        limits = Limits(payload_bytes=self.config.max_message_bytes)
        wire = RouterWire(self._context, endpoint, gate=self._gate, role=role, limits=limits)
        self._wires.append(wire)
        return wire

    def _start_engine(self) -> None:
        now = self.now()
        self.engine = Engine(self.store, self._options, self._about, now)
        self.engine.topics.told_outside = self._publish_out is not None
        self.asks = Asks(self.engine, self._backup, now)
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
            # Without a disk workers are not read: what they say waits in ZeroMQ.
            poll = self._poll if self._probe_at is None else self._poll_without_disk
            self._ready = poll.wait(0 if more else self._timeout_ms())
            if self._wake_r.fileno() in self._ready:
                with contextlib.suppress(BlockingIOError):
                    self._wake_r.recv(4096)
                while self._calls:
                    self._calls.popleft()()
            try:
                turn = self._turn if self._probe_at is None else self._turn_without_disk
                more = turn() if self.on_turn is None else self.on_turn(turn)
            except JournalError as exc:
                self._disk_failed(exc)
                if isinstance(exc, JournalDamaged):
                    raise
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

    def _timeout_ms(self) -> int:
        now = self.now()
        if self._probe_at is not None:
            return max(0, int((self._probe_at - now.mono) * 1000) + 1)
        deadline = self.engine.next_deadline(now)
        if self.engine.desk.unread.many:
            deadline = min(deadline, self._front.look_at)
        if self._endless.watched:
            deadline = min(deadline, self._endless.look_at)
        wires = (wire.deadline() for wire in self._wires)
        for other in (self.asks.next_deadline(), self.store.fold_at, *wires):
            if other is not None and other < deadline:
                deadline = other
        return max(0, int((deadline - now.mono) * 1000) + 1)

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
                self._refused(WORKER, identity, command)
            elif permit is FULL:
                engine.from_worker(identity, command, now)
            else:
                self._keyed.from_worker(identity, command, permit, now)
        for identity in self.backend.gone():
            engine.connection_gone(identity, now)
            self._keyed.gone(identity)
        self._front.turn(from_clients, now)
        if engine.desk.unread.many and now.mono >= self._front.look_at:
            self._front.look_after_unread(engine, now)
        if now.mono >= self._endless.look_at:
            self._endless.look(now.mono)
        self._serve_administration(now)
        more = len(from_workers) == BATCH or len(from_clients) == BATCH or len(self._front.line) > 0
        self._since_look += len(from_workers) + len(from_clients)
        if self._publish_in is not None:
            self._take_publishes(self._publish_in, now)
        if self._backups:
            self._end_backups()
        if now.mono >= self._spare.due:
            self._spare.look(now.mono, quiet=self._since_look <= QUIET)
            self._since_look = 0
        engine.tick(now)
        self.asks.tick(now)
        engine.hand_out(now)
        engine.close_turn(now)
        self.store.commit(told=bool(engine.desk.outbox))
        self._front.publishes = []
        self._send(engine.take_outbox())
        if self._backups_asked:
            self._begin_backups()
        if published := engine.topics.take():
            self._pass_on(published)
        if engine.desk.notes:
            for level, text in engine.desk.notes:
                logger.log(logging.getLevelName(level.upper()), "%s", text)
            engine.desk.notes.clear()
        return more

    def _receive(self, wire: RouterWire, limit: int = BATCH) -> list[Received]:
        """Return what has arrived at a socket, if the poll said so or it has something to look after."""
        if wire not in self._ready:
            due = wire.deadline()
            if due is None or due > time.monotonic():
                return []
        received = wire.receive(limit)
        if received:
            self._heard = True
        return received

    def _serve_client(
        self, identity: bytes, command: Command | RemoteProtocolError, permit: Permit | None, now: Moment
    ) -> None:
        if isinstance(command, RemoteProtocolError) or type(command) not in CLIENT.says:
            self._tell_refused(identity, self._refused(CLIENT, identity, command))
        elif permit is FULL:
            self.engine.from_client(identity, command, now)
        else:
            self._keyed.from_client(identity, command, permit, now)

    def _client_gone(self, identity: bytes, now: Moment) -> None:
        self.engine.client_gone(identity, now)

    def _send(self, outbox: list[Send | Dispatch]) -> None:
        to_worker, to_client = self.backend.send_frames, self.frontend.send_frames
        for item in outbox:
            if isinstance(item, Dispatch):
                to_worker(
                    item.identity,
                    request_frames(
                        item.msgid.encode(), item.queue.encode(), item.header_text.encode(), item.payload
                    ),
                )
            else:
                try:
                    frames = encode(item.command, stock=item.stock)
                except LocalProtocolError as exc:
                    logger.error("not sent to %r: %s", item.identity, exc)
                    continue
                (to_worker if item.to_worker else to_client)(item.identity, frames)

    def _serve_administration(self, now: Moment) -> None:
        commands = self._receive(self.admin)
        for identity, command, permit in commands:
            if isinstance(command, RemoteProtocolError) or type(command) not in ADMINISTRATOR.says:
                self._refused(ADMINISTRATOR, identity, command)
                continue
            if permit is not FULL and not self._keyed.from_administrator(permit):
                continue
            answer = admin.answer(self.engine, command, now)
            if answer is not None:
                self.admin.send(identity, answer, stock=True)
            if isinstance(command, Disconnect):
                logger.info("an administrator asked the broker to stop")
                for worker in self.engine.fleet.workers.values():
                    if worker.present and worker.stock:
                        self.backend.send(worker.identity, Kbye(msgid=new_id()), stock=True)
                self._stopping = True

    def _take_publishes(self, wire: RouterWire, now: Moment) -> None:
        commands = self._receive(wire)
        for identity, command, permit in commands:
            if not isinstance(command, PublishTopic):
                self._refused(PUBLISHER, identity, command)
            elif permit is FULL:
                self.engine.topics.publish(command, now)
            else:
                self._keyed.announced(command, permit, now)

    def _pass_on(self, published: list[tuple[PublishTopic, list[bytes]]]) -> None:
        """Send what was published to who asked for it, and to the subscribers of the PUB socket."""
        send = self.frontend.send_frames
        for command, clients in published:
            if self._publish_out is not None:
                self._publish_out.send_multipart([command.topic.encode(), command.payload], zmq.NOBLOCK)
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

    def _refused(
        self, role: Role, identity: bytes, said: Command | RemoteProtocolError
    ) -> RemoteProtocolError:
        """Count and log what could not be understood, or may not be said here; returns what is wrong."""
        error = said if isinstance(said, RemoteProtocolError) else role.refusal(said)
        self.engine.desk.counters["malformed"] += 1
        if self._may_log(role.name):
            logger.warning("a message of the %s %r was dropped: %s", role.name, identity[:64], error)
        return error

    def _may_log(self, about: str) -> bool:
        """Whether a line about this may be logged (at most one a second)."""
        now = time.monotonic()
        if now - self._log_at.get(about, -10.0) < 1.0:
            return False
        self._log_at[about] = now
        return True

    def _tell_refused(self, identity: bytes, error: RemoteProtocolError) -> None:
        if error.msgid:
            self._refuse(identity, error.msgid, "ProtocolError", str(error))

    def _refuse(self, identity: bytes, msgid: str, kind: str, text: str) -> None:
        self.refusals[kind] = self.refusals.get(kind, 0) + 1
        body = json.dumps({"value": None, "error": {"type": kind, "message": text}}).encode()
        reply = Reply(msgid=new_id(), body=body, request_msgid=msgid, headers=ReplyHeaders(state="REFUSED"))
        with contextlib.suppress(LocalProtocolError):
            self.frontend.send(identity, reply)

    def _disk_failed(self, error: JournalError) -> None:
        goes_on = not isinstance(error, JournalDamaged)
        what_next = f"trying again every {PROBE_S:g} s" if goes_on else "the broker ends"
        logger.error("%s; nothing of this batch was taken, %s", error, what_next)
        self._probe_at, self._failure = time.monotonic() + PROBE_S, str(error)
        for identity, command in self._front.publishes:
            self._refuse(identity, command.msgid, "BrokerRefused", f"the broker can't store it: {error}")
        self._front.publishes = []

    def _turn_failed(self, error: Exception) -> None:
        """Drop the batch in which the mistake is, and start anew from the journal."""
        logger.critical(
            "a mistake in the broker: please report it. Nothing of this batch was taken", exc_info=error
        )
        for identity, command in self._front.publishes:
            self._refuse(identity, command.msgid, "BrokerRefused", "the broker made a mistake: see its log")
        self._front.publishes = []
        self._probe_at = time.monotonic()
        self._start_anew()

    def _start_anew(self) -> bool:
        """Start anew from the journal; False: it takes no write yet."""
        if not self.store.probe():
            return False
        known = self.engine.receipts.our_clients
        self._start_engine()
        # They stay connected, and don't say HELLO again.
        self.engine.receipts.our_clients.update(known)
        self._probe_at = None
        return True

    def _turn_without_disk(self) -> bool:
        """Refuse publishes, keep workers company, and start anew once the disk takes a write again."""
        from_clients: list[Said] = [*self._front.line.take(), *self._receive(self.frontend)]
        for identity, command, _ in from_clients:
            if isinstance(command, Request):
                self._refuse(
                    identity,
                    command.msgid,
                    "BrokerRefused",
                    f"the broker can't store it: {self._failure}",
                )
            elif isinstance(command, Hello):
                self.frontend.send(identity, Hello(msgid=command.msgid, about=self._about))
            elif isinstance(command, Ask) and command.verb == "stats":
                # Who asks how it is hears it; other questions wait, or are asked again.
                error = {"type": "BrokerRefused", "message": f"the broker can't store it: {self._failure}"}
                body = json.dumps({"error": error}).encode()
                self.frontend.send(identity, Answer(msgid=new_id(), body=body, asked=command.msgid))
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

    def _backup(self, file: Path, done: Callable[[EmqError | None], None]) -> None:
        """Have the journal copied as it is at the end of this turn."""
        self._backups_asked.append((file, done))

    def _begin_backups(self) -> None:
        """Copy the journal, each in a thread of its own: the broker goes on."""
        asked, self._backups_asked = self._backups_asked, []
        self.store.fold()

        def copy(file: Path, done: Callable[[EmqError | None], None]) -> None:
            error: EmqError | None = None
            try:
                self.store.backup(file)
            except EmqError as exc:
                error = exc
            self._backups_done.append((done, error))
            self._wake()

        for one in asked:
            thread = threading.Thread(target=copy, args=one, name="backup", daemon=True)
            self._backups.append(thread)
            thread.start()

    def _end_backups(self) -> None:
        """Tell those who asked for a backup what has become of it."""
        while self._backups_done:
            done, error = self._backups_done.popleft()
            done(error)
        self._backups = [thread for thread in self._backups if thread.is_alive()]

    # End

    def stop(self) -> None:
        """End ``run`` after the turn it is in; may be called from a signal handler or another thread."""
        self._stopping = True
        self._wake()

    def call_soon(self, call: Callable[[], None]) -> None:
        """Have the loop call this between two turns; from another thread. It must be quick, and not raise."""
        self._calls.append(call)
        self._wake()

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
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            self._wake_w.send(b"\0")

    @contextlib.contextmanager
    def handle_signals(self) -> Iterator[None]:
        """TERM and INT end ``run``; the former handlers come back afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_signal(signum: int, frame: FrameType | None) -> None:
            self._stopping = True

        before = {s: signal.signal(s, on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
        wake_before = signal.set_wakeup_fd(self._wake_w.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wake_before)
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def close(self) -> None:
        """Close sockets and journal; every turn was committed."""
        self.store.interrupt_backups()
        for thread in self._backups:
            thread.join()
        for wire in self._wires:
            wire.close()
        if self._gate is not None:
            self._gate.close()
        if self._publish_out is not None:
            self._publish_out.close()
        self._context.destroy(linger=200)
        self._wake_r.close()
        self._wake_w.close()
        self.store.close()


def _warn_of_neighbours(config: BrokerConfig) -> None:
    """Say so when other people's programs on this machine can use the broker as well."""
    if config.keys_dir is not None or not any(e.startswith("tcp://") for e in config.endpoints().values()):
        return
    if users := other_users():
        named = ", ".join(users[:3]) + (f" and {len(users) - 3} more" if len(users) > 3 else "")
        logger.warning(
            "every user of this machine (%s) can connect to the broker: --ipc FOLDER keeps others out "
            "(emq+ipc://FOLDER), or --keys DIR",
            named,
        )


def _allow_connections() -> None:
    """Have as many descriptors as the system lets this process have: each client takes one."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run_broker(config: BrokerConfig, watch: Callable[[Server], None] | None = None) -> None:
    """Run a broker in this process until TERM or INT.

    ``watch`` is called with the server when it is about to begin.

    Raises:
        EmqError: it can't start; the message says why.
    """
    _allow_connections()
    server = Server(config)
    try:
        where = (
            "memory only" if config.memory else f"journal {server.store.path}, durability {config.durability}"
        )
        with server.handle_signals():
            logger.info(
                "broker %s: clients %s, workers %s, %s", os.getpid(), config.frontend, config.backend, where
            )
            for note in server.store.notes:
                logger.warning("%s", note)
            _warn_of_neighbours(config)
            if watch is not None:
                watch(server)
            server.run()
    finally:
        server.close()
        logger.info("broker %s ended", os.getpid())
