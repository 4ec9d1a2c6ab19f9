"""How a channel of kombu's takes messages: a session with the broker's workers' address, as a consumer.

The broker pushes, for as many messages as it was given credit for: the prefetch count, less what is here and
not acknowledged. A consumer waits on file descriptors; nothing polls. Messages may be acknowledged in other
threads than the one that takes them. A thread of the process beats the hearts of all its sessions, so that a
consumer may be busy with a message for as long as it likes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Sequence

from emq_compat.address import Address
from emq_compat.errors import OperationalError, RemoteProtocolError
from emq_compat.genuine.transport_link import BrokerLost, context
from emq_compat.keys import Keys
from emq_compat.message import REJECTED, RETURNED, ReplyHeaders, new_id
from emq_compat.protocol import commands
from emq_compat.protocol.frames import encode
from emq_compat.wire import Wire, identity

__all__ = ["Session"]

logger = logging.getLogger(__name__)

#: Messages asked for ahead where the prefetch count sets no limit.
_WINDOW = 200
#: How long leaving waits for the broker to have taken the last acknowledgements.
_FLUSH_S = 2.0
_BATCH = 256
_BODY = b'{"value":null}'


class Session:
    """One consumer at the broker. Any method may raise BrokerLost: then the session is over.

    Args:
        limit_s: how long the broker may take to answer.
    """

    def __init__(self, address: Address, limit_s: float) -> None:
        self.address = address
        self.limit_s = limit_s
        self.queues: tuple[str, ...] = ()
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._prefetch = 0
        self._credit = 0
        self._buffer: deque[commands.Request] = deque()
        #: msgids that were passed on and are to be acknowledged → attempt.
        self._passed: dict[str, int] = {}
        #: msgids of REPLYs that the broker hasn't acknowledged.
        self._replies: set[str] = set()
        self._inform = ""
        self._informed = False
        self._greeted = False
        self._dead_after_s = 10.0
        self._lost = ""
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        os.set_blocking(self._wake_w, False)
        keys = Keys.for_client(address.keys_dir) if address.keys_dir is not None else None
        try:
            self._wire = Wire(
                context(), address.worker_endpoint, identity=identity("kombu-consumer"), keys=keys, once=True
            )
        except OperationalError as exc:
            self._close_pipe()
            raise BrokerLost(str(exc)) from exc
        _beater.add(self)

    # What it listens on, and how much of it is wanted

    def listen(self, queues: Sequence[str]) -> None:
        """Take messages of these queues from now on; what is here of others, and not passed on, goes back."""
        with self._lock:
            self.queues = tuple(dict.fromkeys(queues))
            back = [request for request in self._buffer if request.queue not in self.queues]
            self._nack(back)
            self._introduce()
            self._grant()

    def limit(self, prefetch: int) -> None:
        """Have at most so many messages that aren't acknowledged; 0: as many as there are."""
        with self._lock:
            self._prefetch = max(prefetch, 0)
            if not self.queues:
                return
            if self._prefetch:
                held = len(self._passed) + len(self._buffer)
                if self._credit + held > self._prefetch:
                    # The broker takes credit back only altogether.
                    over = min(max(held - self._prefetch, 0), len(self._buffer))
                    self._nack([self._buffer[-1 - n] for n in range(over)])
                    self._introduce()
            self._grant()

    def _introduce(self) -> None:
        """Say INFORM, and wait until the broker knows: credit is void then."""
        self._check()
        self._inform, self._informed = new_id(), False
        self._credit = 0
        held = [(request.msgid, request.headers.attempt, False) for request in self._buffer]
        held += [(msgid, attempt, True) for msgid, attempt in self._passed.items()]
        capabilities = commands.Capabilities(
            slots=self._prefetch,
            held=tuple(held),
            pid=os.getpid(),
            hostname=socket.gethostname(),
            consumer=True,
        )
        queues = tuple((0, queue) for queue in self.queues)
        self._say(commands.Inform(msgid=self._inform, queues=queues, capabilities=capabilities))
        deadline = time.monotonic() + self.limit_s
        while not (self._informed and self._greeted):
            self._receive()
            if not ((self._informed and self._greeted) or self._readable(deadline)):
                self._give_up(f"it did not answer a consumer at {self.address.worker_endpoint}")
        self._wake()

    def _grant(self) -> None:
        if not self.queues or not self._informed:
            return
        if self._prefetch:
            want = self._prefetch - self._credit - len(self._buffer) - len(self._passed)
        else:
            want = _WINDOW - self._credit - len(self._buffer)
            want = want if want > _WINDOW // 2 else 0
        if want > 0:
            self._credit += want
            self._say(commands.Ready(msgid=new_id(), count=want))

    # What comes

    def fds(self) -> tuple[int, ...]:
        """Return the file descriptors whose readability calls for ``take``; none where it is over."""
        with self._lock:
            return () if self.lost else (*self._wire.fds(), self._wake_r)

    def take(self) -> commands.Request | None:
        """Return the next message; None: none is here.

        It counts against the prefetch count until it is settled.
        """
        with self._lock:
            if not self._buffer:
                self._drain_pipe()
                self._receive()
            else:
                self._check()
            if not self._buffer:
                return None
            request = self._buffer.popleft()
            self._passed[request.msgid] = request.headers.attempt
            if not self._prefetch:
                self._grant()
            return request

    @property
    def waiting(self) -> bool:
        """Whether ``take`` has something, or something has come: fds may not tell it any more."""
        with self._lock:
            return bool(self._buffer) or (not self._lost and self._wire.ready())

    def _receive(self) -> None:
        self._check()
        wire = self._wire
        received = wire.receive(_BATCH)
        for command in received:
            if isinstance(command, commands.Request):
                if self._informed:
                    self._credit -= 1
                    self._buffer.append(command)
                # else: it crossed the INFORM, and is handed out again.
            elif isinstance(command, commands.Ack):
                self._replies.difference_update(command.acked)
                if self._inform in command.acked:
                    self._informed = True
            elif isinstance(command, commands.Hello):
                if command.about.get("inform"):
                    self._give_up("it doesn't know this consumer any more")
                if refused := command.about.get("refused"):
                    self._give_up(f"it refuses this consumer: {refused}")
                self._greeted = True
                dead_after = command.about.get("dead_after_s")
                if isinstance(dead_after, int | float) and 0 < dead_after < 1e6:
                    self._dead_after_s = float(dead_after)
                    _beater.hurry()
            elif isinstance(command, commands.Kbye | commands.Disconnect):
                self._give_up("it said goodbye")
            elif isinstance(command, RemoteProtocolError):
                self._put_aside(command)
        if len(received) >= _BATCH:
            self._wake()
        elif wire.failure or wire.cuts:
            self._give_up(wire.failure or "the connection was cut")

    def _put_aside(self, error: RemoteProtocolError) -> None:
        logger.warning("the broker sent a malformed message: %s", error)
        if error.command == "REQUEST" and error.msgid:
            self._credit -= 1
            self._reply(error.msgid, 0, REJECTED)  # attempt 0: whichever it is
            self._grant()

    # What becomes of messages

    def settle(self, msgid: str, attempt: int, state: str) -> bool:
        """Say what has become of a message that was passed on; False: it isn't held here any more.

        ``state`` is ACKNOWLEDGED, RETURNED (back into its queue) or REJECTED (to the dead letters).
        """
        with self._lock:
            self._check()
            if self._passed.get(msgid) != attempt:
                return False
            del self._passed[msgid]
            self._reply(msgid, attempt, state)
            self._grant()
            self._wake_if_ready()
            return True

    def _nack(self, requests: Iterable[commands.Request]) -> None:
        returned = [(request.msgid, request.headers.attempt) for request in requests]
        if returned:
            gone = {msgid for msgid, _ in returned}
            self._buffer = deque(request for request in self._buffer if request.msgid not in gone)
            self._say(commands.Nack(msgid=new_id(), returned=tuple(returned)))

    def _reply(self, msgid: str, attempt: int, state: str) -> None:
        headers = ReplyHeaders(attempt=attempt, state=state, no_result=True)
        self._replies.add(msgid)
        self._say(commands.Reply(msgid=new_id(), body=_BODY, request_msgid=msgid, headers=headers))

    # Its life

    @property
    def lost(self) -> str:
        """Why it is over; empty: it isn't."""
        return self._lost or ("its process was forked" if self._pid != os.getpid() else "")

    def beat(self) -> float:
        """Say that this process lives; returns seconds until it must be said again."""
        with self._lock:
            if not self._lost and self._greeted:
                with contextlib.suppress(BrokerLost):
                    self._say(commands.Heartbeat(msgid=new_id(), timestamp=time.time()))
                    self._wake_if_ready()
            return self._dead_after_s / 4

    def close(self) -> None:
        """Give back what isn't settled, wait until the acknowledgements have arrived, and leave."""
        _beater.discard(self)
        if self._pid != os.getpid():
            _foreign.append(self)
            return
        with self._lock:
            if not self._wire.socket.closed:
                self._leave()
            self._close_pipe()

    def _leave(self) -> None:
        try:
            self._nack(list(self._buffer))
            for msgid, attempt in list(self._passed.items()):
                self.settle(msgid, attempt, RETURNED)
            deadline = time.monotonic() + min(_FLUSH_S, self.limit_s)
            while self._replies and time.monotonic() < deadline:
                self._receive()
                if self._replies:
                    self._readable(deadline)
            self._say(commands.Kbye(msgid=new_id()))
        except BrokerLost:
            pass
        self._lost = self._lost or "it was closed"
        self._wire.close(1.0)

    def _readable(self, deadline: float) -> bool:
        """Wait until something has come; False: nothing has until ``deadline``."""
        if self._wire.ready():
            return True
        poll = select.poll()
        for fd in self._wire.fds():
            poll.register(fd, select.POLLIN)
        return bool(poll.poll(max(0.0, (deadline - time.monotonic()) * 1000)))

    def _say(self, command: commands.Command) -> None:
        self._check()
        self._wire.send_frames(encode(command))

    def _check(self) -> None:
        if self.lost:
            raise BrokerLost(f"lost the broker at {self.address}: {self.lost}")

    def _give_up(self, why: str) -> None:
        self._lost = why
        self._wire.close()
        self._wake()
        raise BrokerLost(f"lost the broker at {self.address}: {why}")

    def _wake_if_ready(self) -> None:
        """What was sent may have swallowed the sign that something has come."""
        if self._wire.ready():
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._wake_w, b"\0")

    def _drain_pipe(self) -> None:
        with contextlib.suppress(OSError):
            os.read(self._wake_r, 4096)

    def _close_pipe(self) -> None:
        for fd in (self._wake_r, self._wake_w):
            if fd >= 0:
                os.close(fd)
        self._wake_r = self._wake_w = -1


class _Beater:
    """The thread that beats for a process's sessions; it is there while there are some."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._hurry = threading.Event()
        self._running = False

    def add(self, session: Session) -> None:
        with self._lock:
            self._sessions.add(session)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="emq-heart", daemon=True).start()

    def discard(self, session: Session) -> None:
        with self._lock:
            self._sessions.discard(session)

    def hurry(self) -> None:
        """Have the next heartbeat leave in time, where it may be due earlier than was known."""
        self._hurry.set()

    def _run(self) -> None:
        wait_s = 1.0
        while True:
            self._hurry.wait(wait_s)
            self._hurry.clear()
            with self._lock:
                sessions = [session for session in self._sessions if not session.lost]
                if not sessions:
                    self._running = False
                    return
            wait_s = min(session.beat() for session in sessions)
            del sessions


#: Sessions of the process that this one was forked from: their sockets may neither be used nor closed here.
_foreign: list[Session] = []
_beater = _Beater()


def _after_fork() -> None:
    global _beater
    _foreign.extend(_beater._sessions)
    _beater = _Beater()


os.register_at_fork(after_in_child=_after_fork)
