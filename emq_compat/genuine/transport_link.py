"""A kombu connection's own connection to the broker: what is published, and what is asked.

Every call ends within its time limit. A connection that is cut, or silent, is given up, and that is said by
BrokerLost: connecting anew, and saying it again, is kombu's (its retry policy, its failover).
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import zmq

from emq_compat.address import Address
from emq_compat.bulk import joined_to, refusal
from emq_compat.channel import Channel, Cut, Silent
from emq_compat.errors import MessageError, OperationalError
from emq_compat.message import new_id
from emq_compat.protocol.commands import Ack, Answer, Ask, Reply
from emq_compat.protocol.frames import encode
from emq_compat.wire import identity

__all__ = ["BrokerLost", "Link", "Refused", "context"]

#: Messages that are sent without waiting before one of them is waited for.
_UNCONFIRMED = 200
#: The shares of the time limit that a confirmation may take, and that a broker is given that was silent just
#: now: kombu's usual three retries and the first try then end within the limit.
_CONFIRM_SHARE = 0.6
_AGAIN_SHARE = 0.1


class BrokerLost(OSError):
    """There is no connection to the broker, or it doesn't answer."""


class Refused(MessageError):
    """The broker refused what was asked; ``kind`` is its error's type."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


_contexts: dict[int, zmq.Context[zmq.Socket[bytes]]] = {}


def context() -> zmq.Context[zmq.Socket[bytes]]:
    """Return this process's ZeroMQ context; that of the process it was forked from is left alone."""
    pid = os.getpid()
    made = _contexts.get(pid)
    if made is None:
        made = _contexts.setdefault(pid, zmq.Context())
        made.set(zmq.MAX_SOCKETS, 16_384)
    return made


#: What a forked process must neither use nor close, nor leave to the garbage collector.
_foreign: list[Channel] = []
#: Address → until when its broker counts as silent (monotonic).
_silent: dict[str, float] = {}


class Link:
    """One connection; for any number of threads, one of them at a time.

    Args:
        limit_s: how long connecting may take, or a question; a confirmation a part of it.
    """

    def __init__(self, address: Address, limit_s: float) -> None:
        self.address = address
        self.limit_s = limit_s
        self._lock = threading.Lock()
        self._channel: Channel | None = None
        self._pid = os.getpid()
        self._unconfirmed = 0
        self._closed = False

    def open(self) -> None:
        """Connect, unless that is done.

        Raises:
            BrokerLost: nobody is there, or answers in time.
        """
        with self._lock:
            self._opened()

    @property
    def usable(self) -> bool:
        """Whether the connection stands; looked up, unless another thread uses it at the moment."""
        channel = self._channel
        if channel is None or self._pid != os.getpid():
            return False
        if not self._lock.acquire(blocking=False):
            return channel.connected
        try:
            return not channel.closed and channel.usable()
        finally:
            self._lock.release()

    def publish(
        self, frames: Sequence[bytes], msgid: str, *, confirm: bool, limit_s: float | None = None
    ) -> None:
        """Publish a REQUEST; returns once it is on the broker's disk, or, without ``confirm``, is sent.

        Raises:
            BrokerLost: it was not confirmed; whether the broker has it is then unknown.
            Refused: the broker won't have it.
        """
        with self._lock:
            channel = self._opened()
            try:
                channel.send(frames)
                if not confirm:
                    self._unconfirmed += 1
                    if self._unconfirmed < _UNCONFIRMED:
                        channel.receive_now()  # raises where the connection is gone
                        return
                    # The answer shows that all before it has arrived.
                    self._ask(channel, "unwait", {"ids": ["-"]}, time.monotonic() + self.limit_s)
                    self._unconfirmed = 0
                    return
                limit_s = self.limit_s * _CONFIRM_SHARE if limit_s is None else limit_s
                deadline = time.monotonic() + limit_s
                while True:
                    command = channel.receive(deadline)
                    if isinstance(command, Ack):
                        if msgid in command.acked:
                            return
                    elif isinstance(command, Reply) and command.request_msgid == msgid:
                        if joined_to(command) is not None:
                            return
                        refused = refusal(command)
                        if refused is not None:
                            raise Refused(refused.kind or type(refused).__name__, str(refused))
            except (Cut, Silent, OperationalError) as exc:
                raise self._lost(exc) from exc

    def ask(self, verb: str, **arguments: Any) -> Any:
        """Ask the broker; returns the answer's ``ok``.

        Raises:
            BrokerLost: no answer.
            Refused: the answer is an error.
        """
        with self._lock:
            channel = self._opened()
            try:
                body = self._ask(channel, verb, arguments, time.monotonic() + self.limit_s)
            except (Cut, Silent, OperationalError) as exc:
                raise self._lost(exc) from exc
        try:
            document = json.loads(body)
            if "ok" in document:
                return document["ok"]
            error = document["error"]
            kind, message = str(error["type"]), str(error["message"])
        except (ValueError, LookupError, TypeError) as exc:
            raise Refused("ProtocolError", f"the broker's answer to {verb!r} can't be read: {exc!r}") from exc
        raise Refused(kind, message)

    def close(self) -> None:
        """Close; what was sent and has not left yet has a second for it."""
        with self._lock:
            self._closed = True
            self._drop(1.0)

    def _ask(self, channel: Channel, verb: str, arguments: Mapping[str, Any], deadline: float) -> bytes:
        asked = Ask(msgid=new_id(), verb=verb, arguments=arguments)
        channel.send(encode(asked))
        while True:
            command = channel.receive(deadline)
            if isinstance(command, Answer) and command.asked == asked.msgid:
                return command.body

    def _opened(self) -> Channel:
        if self._closed:
            raise BrokerLost(f"the connection to {self.address} was closed")
        pid = os.getpid()
        if self._pid != pid:
            if self._channel is not None:
                _foreign.append(self._channel)
            self._channel, self._pid = None, pid
        if self._channel is not None:
            return self._channel
        self.address.prepare()
        name = str(self.address)
        now = time.monotonic()
        silent = now < _silent.get(name, 0.0)
        limit_s = self.limit_s * _AGAIN_SHARE if silent else self.limit_s
        try:
            channel = Channel(context(), self.address, identity("kombu"))
        except OperationalError as exc:
            raise BrokerLost(str(exc)) from exc
        try:
            channel.open(now + limit_s)
        except Silent:
            channel.close()
            _silent[name] = time.monotonic() + self.limit_s
            why = self.address.unresolved() or "nothing answers there"
            raise BrokerLost(f"no broker at {name}: {why}") from None
        except (Cut, OperationalError) as exc:
            channel.close()
            raise BrokerLost(f"no broker at {name}: {exc}") from exc
        except BaseException:
            channel.close()
            raise
        _silent.pop(name, None)
        self._channel = channel
        self._unconfirmed = 0
        return channel

    def _lost(self, why: Exception) -> BrokerLost:
        self._drop(0.0)
        if isinstance(why, Silent):
            _silent[str(self.address)] = time.monotonic() + self.limit_s
            return BrokerLost(f"the broker at {self.address} did not answer in time")
        return BrokerLost(f"lost the broker at {self.address}: {why}")

    def _drop(self, linger_s: float) -> None:
        channel, self._channel = self._channel, None
        if channel is None:
            return
        if self._pid == os.getpid():
            channel.close(linger_s)
        else:
            _foreign.append(channel)


