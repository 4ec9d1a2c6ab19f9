"""The broker's sockets: bound, waited for together, and closed."""

from __future__ import annotations

import time
from typing import TypeAlias

import zmq

from emq_compat.config import BrokerConfig
from emq_compat.keys import Keys
from emq_compat.permits import ADMIN, CLIENT
from emq_compat.protocol.frames import Limits
from emq_compat.wire import Endless, Gate, RouterWire
from emq_compat.wire.direct_router import Received
from emq_compat.wire.poll import Poll, Polled, Wake
from emq_compat.wire.routers import Router, listen

__all__ = ["WORKERS_BYTES", "Doors"]

#: What a worker may say in one message, follow-ups included.
WORKERS_BYTES = 512 << 20
#: What a client may say beside the largest payload.
_BESIDE_BYTES = 32 << 20
#: Of large messages that clients are sending so much is taken at once …
_CLIENTS_UNFINISHED_BYTES = 512 << 20
#: … and of workers' all: their heartbeats stand behind them.
_WORKERS_UNFINISHED_BYTES = 1 << 62
#: What was said last has so long to leave.
_LINGER_S = 0.2

_Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"


class Doors:
    """All sockets of a broker.

    Args:
        config: see BrokerConfig.

    Attributes:
        frontend, backend, admin: where clients, workers and administrators connect.
        publish_in: where PUBLISH comes in; None: nowhere.
        publish_out: ZeroMQ's PUB socket of what is published; None: there is none.
        wake: ends the wait, from any thread.

    Raises:
        OperationalError: an address can't be bound.
        ConfigurationError: the keys can't be used.
    """

    def __init__(self, config: BrokerConfig) -> None:
        self._config = config
        #: Made where something is left to ZeroMQ.
        self._context: _Context | None = None
        self._gate: Gate | None = None
        self._wires: list[Router] = []
        self.publish_in: Router | None = None
        self.publish_out: zmq.Socket[bytes] | None = None
        #: What the last wait found readable.
        self._ready: set[Polled] = set()
        self._poll = Poll()
        self.wake = Wake(self._poll)
        try:
            self._bind(config)
        except BaseException:
            self.close()
            raise

    def _bind(self, config: BrokerConfig) -> None:
        clients = config.max_message_bytes + _BESIDE_BYTES
        if config.keys_dir is not None:
            self._gate = Gate(self._zeromq(), Keys.for_broker(config.keys_dir))
        self.frontend = self._listen(config.frontend, clients)
        self.backend = self._listen(config.backend, WORKERS_BYTES, unfinished=_WORKERS_UNFINISHED_BYTES)
        self.admin = self._listen(config.admin, clients, ADMIN)
        if config.publish_in and config.publish_out:
            self.publish_in = self._listen(config.publish_in, clients)
            self.publish_out = self._zeromq().socket(zmq.PUB)
            self.publish_out.setsockopt(zmq.LINGER, 0)
            if self._gate is not None:
                self._gate.protect(self.publish_out, ADMIN)
            self.publish_out.bind(config.publish_out)
        self._endless = Endless(
            (int(wire.endpoint.rpartition(":")[2]), wire, WORKERS_BYTES if wire is self.backend else clients)
            for wire in self._wires
            if isinstance(wire, RouterWire) and wire.endpoint.startswith("tcp://")
        )

    def _zeromq(self) -> _Context:
        if self._context is None:
            self._context = zmq.Context()
        return self._context

    def _listen(
        self,
        endpoint: str,
        message_bytes: int,
        role: str = CLIENT,
        unfinished: int = _CLIENTS_UNFINISHED_BYTES,
    ) -> Router:
        wire = listen(
            endpoint,
            context=self._zeromq,
            gate=self._gate,
            role=role,
            limits=Limits(payload_bytes=self._config.max_message_bytes),
            message_bytes=message_bytes,
            unfinished_bytes=unfinished,
        )
        self._wires.append(wire)
        wire.join(self._poll)
        return wire

    def flush(self) -> None:
        """Send what is to be sent."""
        for wire in self._wires:
            wire.flush()

    def wait(self, timeout_s: float) -> None:
        """Send what is to be sent, and wait until something comes, after ``timeout_s`` at the latest."""
        self.flush()
        self._ready = self._poll.wait(timeout_s)

    def deadline(self) -> float | None:
        """Return the monotonic time at which ``wait`` must be over though nothing comes; None: never."""
        due = [at for wire in self._wires if (at := wire.deadline()) is not None]
        if self._endless.watched:
            due.append(self._endless.look_at)
        return min(due, default=None)

    def receive(self, wire: Router, limit: int) -> list[Received]:
        """Return what has arrived at a socket, if the wait said so or it has something to look after."""
        if wire not in self._ready:
            due = wire.deadline()
            if due is None or due > time.monotonic():
                return []
        return wire.receive(limit)

    def look_after(self, now: float) -> None:
        """Cut off connections of ZeroMQ's on which a message doesn't end."""
        if now >= self._endless.look_at:
            self._endless.look(now)

    def mute(self) -> None:
        """Let only clients be heard: what others say waits at them, until ``unmute``."""
        for wire in self._wires:
            if wire is not self.frontend:
                self._poll.mute(wire)

    def unmute(self) -> None:
        """Let everybody be heard again."""
        for wire in self._wires:
            self._poll.unmute(wire)

    def close(self) -> None:
        """Close all."""
        for wire in self._wires:
            wire.close(_LINGER_S)
        if self._gate is not None:
            self._gate.close()
        if self.publish_out is not None:
            self.publish_out.close()
        if self._context is not None:
            self._context.destroy(linger=int(1000 * _LINGER_S))
        self.wake.close()
        self._poll.close()
