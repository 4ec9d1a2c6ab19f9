"""CURVE: who is let in, and how each side of a connection is given its keys (emq_compat.keys)."""

from __future__ import annotations

import logging
import os
import threading
import time
from types import TracebackType

import zmq
from zmq.utils import z85

from emq_compat.errors import ConfigurationError
from emq_compat.keys import Keys, authorized_clients
from emq_compat.permits import ADMIN, CLIENT, Permit
from emq_compat.wire.multipart import Socket

__all__ = ["Gate", "client_curve", "server_curve"]

log = logging.getLogger(__name__)

_ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_ZAP_VERSION = b"1.0"
#: Sockets that name a domain let nobody in while no Gate answers for it. The domain names the least role.
_DOMAIN = b"emq."
#: libzmq reads no more from a connection over which something was changed, and hears nothing of its end:
#: without pings it would stay for ever.
_PING_EVERY_MS, _PONG_WITHIN_MS = 10_000, 20_000
#: The folder is looked at so often, at most, for the sake of connections that stand.
_LOOK_S = 1.0


def server_curve(socket: Socket, keys: Keys, role: str = CLIENT) -> None:
    """Make a socket that will be bound ask for CURVE; its context needs a Gate that decides who is let in.

    ``role`` is the least that a key must have (permits.py).
    """
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    socket.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN + role.encode())
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    socket.setsockopt(zmq.HEARTBEAT_IVL, _PING_EVERY_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _PONG_WITHIN_MS)


def client_curve(socket: Socket, keys: Keys) -> None:
    """Give a socket that will be connected the keys of a client, worker or administrator."""
    socket.setsockopt(zmq.CURVE_SERVERKEY, keys.broker_public)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)


class Gate:
    """Lets in the clients whose public keys lie in the folder of ``keys``; one for a ZeroMQ context.

    The folder is read at each new connection, in a thread of its own (ZeroMQ's ZAP, RFC 27), so that a busy
    broker keeps nobody waiting. What a connection that stands may do is told by ``permit``.
    """

    def __init__(self, context: zmq.Context[Socket], keys: Keys) -> None:
        """Open the gate.

        Raises:
            ConfigurationError: the folder can't be used, or the context has a gate already.
        """
        self.keys = keys
        self._clients = keys.folder / "clients"
        #: Public key → what it opens, as it was read last.
        self._permits = authorized_clients(keys.folder)
        self._looked = time.monotonic()
        self._changed_ns = self._folder_changed_ns()
        self._zap: Socket = context.socket(zmq.REP)
        self._zap.setsockopt(zmq.LINGER, 0)
        try:
            self._zap.bind(_ZAP_ENDPOINT)
        except zmq.ZMQError as exc:
            self._zap.close(0)
            raise ConfigurationError(
                f"this ZeroMQ context has an authenticator already: {exc.strerror}"
            ) from exc
        stop_address = f"inproc://emq-gate-{id(self)}"
        self._stopped: Socket = context.socket(zmq.PAIR)
        self._stopped.bind(stop_address)
        self._stop: Socket = context.socket(zmq.PAIR)
        self._stop.setsockopt(zmq.LINGER, 0)
        self._stop.connect(stop_address)
        self._thread = threading.Thread(target=self._run, name="emq-gate", daemon=True)
        self._thread.start()

    def protect(self, socket: Socket, role: str = CLIENT) -> None:
        """Make a socket of the context, before it is bound, ask for CURVE and obey this gate.

        ``role`` is the least that a key must have to be let in.
        """
        server_curve(socket, self.keys, role)

    def permit(self, key: bytes) -> Permit | None:
        """Return what a key opens that was let in, as of a second ago; None: nothing any more.

        ``key`` is what ZeroMQ calls a message's User-Id.
        """
        now = time.monotonic()
        if now - self._looked >= _LOOK_S:
            self._looked = now
            if self._changed_ns != (changed_ns := self._folder_changed_ns()):
                self._changed_ns = changed_ns
                self._read()
        return self._permits.get(key)

    def _folder_changed_ns(self) -> int:
        try:
            return os.stat(self._clients).st_mtime_ns
        except OSError:
            return 0

    def _read(self) -> None:
        try:
            self._permits = authorized_clients(self.keys.folder)
        except ConfigurationError as exc:
            self._permits = {}
            log.error("nobody is let in: %s", exc)

    def close(self) -> None:
        """End the thread. Sockets that the gate protects let nobody in any more."""
        if self._thread.is_alive():
            self._stop.send(b"")
            self._thread.join()
        self._stop.close(0)

    def __enter__(self) -> Gate:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._zap, zmq.POLLIN)
        poller.register(self._stopped, zmq.POLLIN)
        try:
            while True:
                ready = dict(poller.poll())
                if self._stopped in ready:
                    return
                self._zap.send_multipart(self._answer(self._zap.recv_multipart()))
        except zmq.ContextTerminated:
            return
        finally:
            self._zap.close(0)
            self._stopped.close(0)

    def _answer(self, request: list[bytes]) -> list[bytes]:
        version, request_id, domain, address, _identity, mechanism, *credentials = request
        if version == _ZAP_VERSION and mechanism == b"CURVE" and len(credentials) == 1:
            key = z85.encode(credentials[0])
            self._read()
            permit = self._permits.get(key)
            role = domain.removeprefix(_DOMAIN).decode()
            if permit is not None and permit.is_at_least(role):
                return [_ZAP_VERSION, request_id, b"200", b"OK", key, b""]
            if permit is not None:
                why = f"the key {permit.name!r} is {_a(permit.role)}'s, and {_a(role)}'s is needed"
            else:
                why = f"unknown key {_shown(key)}"
            log.warning("a client from %s is not let in: %s", _shown(address), why)
        return [_ZAP_VERSION, request_id, b"400", b"this key is not let in", b"", b""]


def _a(role: str) -> str:
    return f"an {role}" if role == ADMIN else f"a {role}"


def _shown(raw: bytes) -> str:
    return raw.decode("ascii", "backslashreplace")
