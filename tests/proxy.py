"""A TCP proxy on 127.0.0.1 whose connections a test cuts, holds up and delays."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections import deque

__all__ = ["Proxy"]


class Proxy:
    """Passes bytes between whoever connects to ``port`` and ``target``; ``cut`` drops every connection."""

    def __init__(self, target: int, *, port: int = 0) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        #: Connections that were passed on since the start.
        self.accepted = 0
        self._peers: dict[socket.socket, socket.socket] = {}
        self._theirs: set[socket.socket] = set()
        self._selector = selectors.DefaultSelector()
        self._read, self._write = socket.socketpair()
        self._orders: list[tuple[str, threading.Event]] = []
        #: Sockets that are not listened to.
        self._held: set[socket.socket] = set()
        self._holding = ""
        #: Seconds by which everything comes later.
        self.delay_s = 0.0
        self._late: deque[tuple[float, socket.socket, bytes]] = deque()
        self._closing = False
        for sock in (self._listener, self._read):
            self._selector.register(sock, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing = True
        self.cut()
        self._thread.join()
        for sock in (self._listener, self._read, self._write):
            sock.close()
        self._selector.close()

    def cut(self) -> None:
        """Drop every connection; returns once they are closed."""
        self._order("cut")

    def reset(self) -> None:
        """Drop every connection as a machine does that knows nothing of it."""
        self._order("reset")

    def hold(self) -> None:
        """Pass nothing on and accept nobody, as a server does that stands still; ``let_go`` ends it."""
        self._order("hold")

    def hold_answers(self) -> None:
        """Pass on only what goes to the target, and nothing that comes from there; ``let_go`` ends it."""
        self._order("hold_answers")

    def let_go(self) -> None:
        """Pass on what came meanwhile, and go on."""
        self._order("let_go")

    def _order(self, what: str) -> None:
        done = threading.Event()
        self._orders.append((what, done))
        self._write.send(b"x")
        assert done.wait(10)

    def _run(self) -> None:
        while not self._closing or self._orders:
            self._pass_late()
            wait_s = max(0.0, self._late[0][0] - time.monotonic()) if self._late else None
            for key, _ in self._selector.select(wait_s):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._read:
                    self._read.recv(16)
                    while self._orders:
                        what, done = self._orders.pop()
                        getattr(self, f"_do_{what}")()
                        done.set()
                elif key.fileobj in self._peers:
                    self._pass(key.fileobj)  # type: ignore[arg-type]

    def _do_cut(self) -> None:
        if self._held:
            self._do_let_go()
        for sock in list(self._peers):
            self._drop(sock)

    def _do_reset(self) -> None:
        for sock in self._peers:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._do_cut()

    def _do_hold(self) -> None:
        self._holding = "all"
        for sock in (self._listener, *self._peers):
            self._hold_up(sock)

    def _do_hold_answers(self) -> None:
        self._holding = "answers"
        for sock in self._theirs:
            self._hold_up(sock)

    def _hold_up(self, sock: socket.socket) -> None:
        if sock not in self._held:
            self._held.add(sock)
            self._selector.unregister(sock)

    def _do_let_go(self) -> None:
        self._holding = ""
        for sock in self._held:
            self._selector.register(sock, selectors.EVENT_READ)
        self._held.clear()

    def _pass_late(self) -> None:
        while self._late and self._late[0][0] <= time.monotonic():
            _, sock, data = self._late.popleft()
            if (peer := self._peers.get(sock)) is not None:
                try:
                    peer.sendall(data)
                except OSError:
                    self._drop(sock)

    def _accept(self) -> None:
        ours, _ = self._listener.accept()
        try:
            theirs = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            ours.close()
            return
        self.accepted += 1
        self._theirs.add(theirs)
        for sock, peer in ((ours, theirs), (theirs, ours)):
            self._peers[sock] = peer
            self._selector.register(sock, selectors.EVENT_READ)
        if self._holding == "answers":
            self._hold_up(theirs)

    def _pass(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(1 << 16)
            if data and (self.delay_s or self._late):
                self._late.append((time.monotonic() + self.delay_s, sock, data))
                return
            if data:
                self._peers[sock].sendall(data)
                return
        except OSError:
            pass  # either side is gone
        self._drop(sock)

    def _drop(self, sock: socket.socket) -> None:
        peer = self._peers.pop(sock, None)
        if peer is None:
            return
        del self._peers[peer]
        for each in (sock, peer):
            self._theirs.discard(each)
            if each in self._held:
                self._held.discard(each)
            else:
                self._selector.unregister(each)
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
