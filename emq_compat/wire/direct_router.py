"""The listening side without ZeroMQ's threads: a ROUTER in the caller's own thread.

Where no CURVE is wanted the protocol is small enough to be spoken here (``zmtp.py``), as the connecting side
does (``direct.py``). What ZeroMQ bounds by numbers of messages is bounded by bytes, and a lost connection is
known when the system knows it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import time
from collections import deque
from typing import Final, TypeAlias

from emq_compat.errors import RemoteProtocolError
from emq_compat.permits import FULL, Permit
from emq_compat.protocol.commands import Command
from emq_compat.protocol.frames import LIMITS, Limits, decode, encode
from emq_compat.wire.large import LARGE_BYTES, Large
from emq_compat.wire.listening import Listener
from emq_compat.wire.peer import Kept, Peer
from emq_compat.wire.poll import Poll
from emq_compat.wire.zmtp import Zmtp, ZmtpError, ping

__all__ = ["DirectRouter"]

logger = logging.getLogger(__name__)

Received: TypeAlias = "tuple[bytes, Command | RemoteProtocolError, Permit | None]"

_UNBOUNDED: Final = 1 << 62

_IN, _OUT = select.EPOLLIN, select.EPOLLOUT
#: Of a peer that is held only its end is of interest.
_ENDS = select.EPOLLRDHUP

#: A frame somewhat too large is still received, so that its sender can be told; beyond, it is cut off.
_SLACK_BYTES: Final = 16 << 20
_HANDSHAKE_S: Final = 5.0
#: Nor is more read in one turn after so long: of PINGs, and of frames without a byte, 16 MB take seconds.
_READ_S: Final = 0.02
#: Accepted in one turn.
_ACCEPT_AT_ONCE: Final = 64
#: Without descriptors, connections are accepted again after so long, or when one has ended.
_ACCEPT_AGAIN_S: Final = 0.5
#: Who has so much before it has long ceased to read (results and work are bounded before), and is cut off.
_UNREAD_BYTES: Final = 1 << 30
_UNREAD_PIECES: Final = 200_000
#: Above so much for all together, who has the most is cut off.
_ALL_UNREAD_BYTES: Final = 2 << 30
#: Who is held in the midst of a large message hears so often that this side lives: it can't ask.
_SIGN_OF_LIFE_S: Final = 2.0
#: Of those who are cut off for what they said, so many seconds pass between two that are logged.
_LOG_EVERY_S: Final = 1.0


class DirectRouter:
    """A bound ROUTER. Nothing blocks. What is sent leaves at the next ``flush``.

    An identity that connects anew takes it over from its former connection. One that is lost is ``gone``,
    after all that came over it.

    Attributes:
        endpoint: where it listens, with the port that a wildcard became.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        limits: Limits = LIMITS,
        message_bytes: int = _UNBOUNDED,
        unfinished_bytes: int = _UNBOUNDED,
    ) -> None:
        """Bind.

        ``message_bytes``: whose message becomes larger, all frames together, is cut off.
        ``unfinished_bytes``: above so much of large messages that have not ended they are read one after the
        other (``large.py``).

        Raises:
            OperationalError: the endpoint can't be bound (in use, no such address, no descriptors …).
        """
        self._limits = limits
        self._message_bytes = message_bytes
        self._listener = Listener(endpoint)
        self.endpoint = self._listener.endpoint
        self._poll: Poll | None = None
        self._kept = Kept()
        self._large: Large[Peer] = Large(unfinished_bytes)
        #: Monotonic time at which those that are held hear of this side.
        self._sign_at = 0.0
        self._by_fd: dict[int, Peer] = {}
        self._by_identity: dict[bytes, Peer] = {}
        #: Peers of which the poll has said that something can be read, in the order of their turns.
        self._readable: dict[Peer, None] = {}
        #: What was read and not returned yet. None instead of a message: the peer's connection is lost.
        self._backlog: deque[tuple[Peer, list[bytes] | None]] = deque()
        self._gone: list[bytes] = []
        self._speaking: set[bytes] = set()
        #: Peers that have something to be sent.
        self._unsent: dict[Peer, None] = {}
        #: Those whose handshake isn't done, in the order of the time it must be.
        self._shaking: deque[Peer] = deque()
        #: Monotonic time at which connections are accepted again; None: they are.
        self._accept_at: float | None = None
        self._number = int.from_bytes(os.urandom(4), "big")
        self._log_at = 0.0

    def join(self, poll: Poll) -> None:
        """Have a poll tell when ``receive`` is to be called; to be done once, before anything else."""
        self._poll = poll
        poll.add(self)
        poll.watch(self._listener.sock.fileno(), self)

    # What the poll says

    def noted(self, fd: int, events: int) -> None:
        """Take note of a descriptor's events."""
        peer = self._by_fd.get(fd)
        if peer is None:
            self._accept()
            return
        if events & _OUT:
            self._flush(peer)
        if events & ~_OUT:
            self._readable[peer] = None

    def ready(self) -> bool:
        """Tell whether ``receive`` would return something that came before."""
        return bool(self._backlog or self._readable)

    def deadline(self) -> float | None:
        """Return the monotonic time at which ``receive`` must be called though nothing is readable."""
        shaking = self._shaking
        while shaking and (shaking[0].identity or shaking[0].over):
            shaking.popleft()
        due = shaking[0].due if shaking else None
        for other in (self._accept_at, self._sign_at if self._large.held else None):
            if other is not None and (due is None or other < due):
                due = other
        return due

    # Receiving

    def receive(self, limit: int = 256, *, most_bytes: int = 16 << 20) -> list[Received]:
        """Return what has arrived, each message with its sender's identity and permit.

        At most ``limit`` messages, and no more are read once ``most_bytes`` were, or it has taken long. A
        malformed message comes as its error. Ask ``gone`` after having handled them.
        """
        backlog, readable = self._backlog, self._readable
        self._speaking.clear()
        size, until = 0, time.monotonic() + _READ_S
        while readable and len(backlog) < limit and size < most_bytes:
            peer = next(iter(readable))
            del readable[peer]
            size += self._read(peer)
            if time.monotonic() >= until:
                break
        if self._shaking or self._accept_at is not None or self._large.held:
            self._look_after(time.monotonic())
        received: list[Received] = []
        limits = self._limits
        while backlog and len(received) < limit:
            peer, frames = backlog.popleft()
            if frames is None:
                if peer.heard and self._by_identity.get(peer.identity) is None:
                    self._gone.append(peer.identity)
                continue
            try:
                received.append((peer.identity, decode(frames, limits), FULL))
            except RemoteProtocolError as exc:
                received.append((peer.identity, exc, FULL))
        return received

    def gone(self) -> list[bytes]:
        """Return the identities whose connections ``receive`` found lost since the last call."""
        if not self._gone:
            return []
        gone, self._gone = self._gone, []
        return gone

    def speaking(self) -> set[bytes]:
        """Return the identities of which a part of a message came, and no end, since this was asked last.

        Only the last ``receive`` counts.
        """
        if not self._speaking:
            return self._speaking
        speaking, self._speaking = self._speaking, set()
        return speaking

    def _read(self, peer: Peer) -> int:
        """Read once from a peer; returns how many bytes."""
        if peer.over:
            return 0
        messages: list[list[bytes]] = []
        wrong = ""
        count, more = 0, False
        try:
            count, more = peer.read(messages)
        except BlockingIOError:
            return 0
        except ZmtpError as exc:
            wrong = str(exc)
        except MemoryError:
            self._lose(peer)  # of what it said a part is missing
            raise
        if not peer.identity and peer.zmtp.established:
            self._welcome(peer)
        if messages:
            peer.heard = True
            append = self._backlog.append
            for frames in messages:
                append((peer, frames))
        elif count and peer.zmtp.unfinished:
            self._speaking.add(peer.identity)
        if wrong:
            self._refuse(peer, wrong)
        elif not count:
            self._lose(peer)
        else:
            if peer.answer():
                self._flush(peer)
            if peer.zmtp.unfinished >= LARGE_BYTES or peer in self._large:
                self._mind_size(peer)
            if more and not peer.held:
                self._readable[peer] = None
        return count

    def _mind_size(self, peer: Peer) -> None:
        """Read on from a peer in the midst of a large message, or hold it until others have ended theirs."""
        size, now = peer.zmtp.unfinished, time.monotonic()
        if size < LARGE_BYTES:
            self._read_on(self._large.ended(peer, now))
        elif not self._large.grown(peer, size, now):
            peer.held = True
            self._look(peer)

    def _read_on(self, peers: list[Peer]) -> None:
        for peer in peers:
            peer.held = False
            self._look(peer)

    def _welcome(self, peer: Peer) -> None:
        """Give a peer whose handshake is done its identity, though another had it."""
        identity = peer.zmtp.identity
        while not identity or (identity in self._by_identity and not peer.zmtp.identity):
            self._number = (self._number + 1) & 0xFFFFFFFF
            identity = b"\0" + self._number.to_bytes(4, "big")
        former = self._by_identity.get(identity)
        peer.identity = identity
        self._by_identity[identity] = peer
        if former is not None:
            peer.heard = former.heard
            self._lose(former)

    # Sending

    def send(self, identity: bytes, command: Command, *, stock: bool = False) -> bool:
        """Send a command to a peer; False: it has no connection any more, and the command is dropped.

        Raises:
            LocalProtocolError: as ``encode`` does.
        """
        return self.send_frames(identity, encode(command, stock=stock, limits=self._limits))

    def send_frames(self, identity: bytes, frames: list[bytes]) -> bool:
        """Send a message that is encoded already; returns as ``send``."""
        peer = self._by_identity.get(identity)
        if peer is None or peer.broken:
            return False
        peer.put(frames)
        self._unsent[peer] = None
        if peer.unsent_bytes > _UNREAD_BYTES or peer.unsent_pieces > _UNREAD_PIECES:
            self._give_up(peer)
        elif self._kept.unsent_bytes > _ALL_UNREAD_BYTES:
            self.flush()
            while self._kept.unsent_bytes > _ALL_UNREAD_BYTES:
                self._give_up(max(self._by_fd.values(), key=_unsent))
        return not peer.over

    def _give_up(self, peer: Peer) -> None:
        logger.warning("%r doesn't read what it is sent, and is cut off", peer.identity[:64])
        self._lose(peer)

    def flush(self) -> None:
        """Hand what was sent to the system, as far as it takes it; the rest leaves when it takes more."""
        unsent = self._unsent
        while unsent:
            peer, _ = unsent.popitem()
            if not peer.over:
                self._flush(peer)

    def _flush(self, peer: Peer) -> None:
        peer.flush()
        self._look(peer)

    def unsent_bytes(self, identity: bytes) -> int:
        """Return how much is kept for a peer that the system hasn't taken."""
        peer = self._by_identity.get(identity)
        return 0 if peer is None else peer.unsent_bytes

    def taken_bytes(self, identity: bytes) -> object:
        """Return something that changes as long as a peer with ``unsent_bytes`` reads."""
        peer = self._by_identity.get(identity)
        return 0 if peer is None else peer.taken_bytes

    # Connections

    def _accept(self) -> None:
        for _ in range(_ACCEPT_AT_ONCE):
            try:
                sock = self._listener.accept()
            except OSError as exc:
                self._pause(exc)
                return
            if sock is None:
                return
            zmtp = Zmtp(
                router=True,
                frame_bytes=self._limits.payload_bytes + _SLACK_BYTES,
                frames=4 * self._limits.follow_ups + self._limits.frames,
                message_bytes=self._message_bytes,
            )
            peer = Peer(sock, zmtp, time.monotonic() + _HANDSHAKE_S, self._kept)
            self._by_fd[peer.fd] = peer
            self._shaking.append(peer)
            peer.answer()
            self._flush(peer)

    def _pause(self, exc: OSError) -> None:
        """Accept nothing for a while: there are no descriptors."""
        if self._accept_at is None:
            if self._may_log():
                logger.warning("%s: a connection can't be accepted: %s", self.endpoint, exc.strerror)
            self._the_poll.forget(self._listener.sock.fileno())
        self._accept_at = time.monotonic() + _ACCEPT_AGAIN_S

    def _resume(self) -> None:
        self._accept_at = None
        self._the_poll.watch(self._listener.sock.fileno(), self)

    def _look_after(self, now: float) -> None:
        shaking = self._shaking
        while shaking and (shaking[0].identity or shaking[0].over or shaking[0].due <= now):
            peer = shaking.popleft()
            if not peer.identity:
                self._lose(peer)
        if self._large.held and self._sign_at <= now:
            self._look_after_held(now)
        if self._accept_at is not None and self._accept_at <= now:
            self._resume()

    def _look_after_held(self, now: float) -> None:
        self._sign_at = now + _SIGN_OF_LIFE_S
        for peer in self._large.held:
            peer.zmtp.outgoing += ping()
            peer.answer()
            self._flush(peer)
        still = self._large.stands_still(now)
        if still is not None and still not in self._readable:
            self._refuse(still, "nothing more comes of a large message, and others wait for its end")

    @property
    def _the_poll(self) -> Poll:
        assert self._poll is not None, "join comes first"
        return self._poll

    def _look(self, peer: Peer) -> None:
        """Have the poll look for what is of interest of a peer now."""
        events = (_ENDS if peer.held else _IN) | (_OUT if peer.unsent_bytes else 0)
        if events == peer.events or peer.over:
            return
        if peer.events:
            self._the_poll.change(peer.fd, events)
        else:
            self._the_poll.watch(peer.fd, self, events)
        peer.events = events

    def connections(self) -> int:
        """Return how many peers are connected, their handshake done."""
        return len(self._by_identity)

    def cut(self, identity: bytes) -> None:
        """Close a peer's connection; what is under way to it is dropped, and ``gone`` will tell."""
        if (peer := self._by_identity.get(identity)) is not None:
            self._lose(peer)

    def _refuse(self, peer: Peer, why: str) -> None:
        if self._may_log():
            who = peer.identity[:64] if peer.identity else _address(peer.sock)
            logger.warning("%s: the connection of %r is ended: %s", self.endpoint, who, why)
        self._lose(peer)

    def _may_log(self) -> bool:
        now = time.monotonic()
        if now < self._log_at:
            return False
        self._log_at = now + _LOG_EVERY_S
        return True

    def _lose(self, peer: Peer) -> None:
        """Close a connection."""
        if peer.over:
            return
        peer.over = True
        peer.drop()
        peer.zmtp.forget()
        self._end(peer)
        del self._by_fd[peer.fd]
        self._readable.pop(peer, None)
        self._unsent.pop(peer, None)
        if peer.identity and self._by_identity.get(peer.identity) is peer:
            del self._by_identity[peer.identity]
            self._backlog.append((peer, None))
        self._read_on(self._large.ended(peer, time.monotonic()))
        if self._accept_at is not None:
            self._resume()

    def _end(self, peer: Peer) -> None:
        if peer.events:
            self._the_poll.forget(peer.fd)
        with contextlib.suppress(OSError):
            # A process that was forked from this one may have it, too.
            peer.sock.shutdown(socket.SHUT_RDWR)
        peer.sock.close()

    def close(self, linger_s: float = 0.0) -> None:
        """Close; what the system has not taken yet is dropped after ``linger_s``."""
        self.flush()
        if linger_s:
            self._linger(time.monotonic() + linger_s)
        for peer in self._by_fd.values():
            peer.over = True
            self._end(peer)
        self._by_fd.clear()
        self._by_identity.clear()
        if self._poll is not None and self._accept_at is None:
            self._poll.forget(self._listener.sock.fileno())
        self._poll = None
        self._listener.close()

    def _linger(self, until: float) -> None:
        while unsent := {peer.fd: peer for peer in self._by_fd.values() if peer.unsent_bytes}:
            left_s = until - time.monotonic()
            if left_s <= 0:
                return
            poll = select.poll()
            for fd in unsent:
                poll.register(fd, select.POLLOUT)
            for fd, _ in poll.poll(left_s * 1000):
                unsent[fd].flush()


def _unsent(peer: Peer) -> int:
    return peer.unsent_bytes


def _address(sock: socket.socket) -> str:
    try:
        name = sock.getpeername()
    except OSError:
        return "somebody"
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "a process of this machine"
