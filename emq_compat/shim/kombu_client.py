"""The Publisher of apps whose broker is RabbitMQ, Redis, SQS or a folder: Celery's messages, by kombu."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn

from emq_compat.errors import ConfigurationError, NotPublished, OperationalError
from emq_compat.message import Publish
from emq_compat.shim.kombu_line import KombuBroker, Line
from emq_compat.stored import StoredResult

__all__ = ["KombuClient", "only_with_our_broker"]

#: Between tries to connect: Celery's policy (task_publish_retry_policy).
_TRIES: Final = 3
_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 1.0


def only_with_our_broker(what: str) -> NoReturn:
    """Say that something needs our broker.

    Raises:
        ConfigurationError: always.
    """
    raise ConfigurationError(
        f"{what} needs an emq:// broker: RabbitMQ, Redis and the like have no such thing"
    )


class KombuClient:
    """Implements pipeline.Publisher over kombu; for any number of threads, and in forked processes.

    A call returns or raises within ``broker.limit_s``. Connecting is tried again for that long; what was sent
    is never sent a second time, as nobody can tell whether the broker has it.

    Args:
        broker: where and how.
        pool_limit: idle connections that are kept (broker_pool_limit).
        retries: whether connecting is tried more than once (task_publish_retry).
    """

    stock = False
    is_kombu = True

    def __init__(self, broker: KombuBroker, *, pool_limit: int = 10, retries: bool = True) -> None:
        self.broker = broker
        self.timeout_s = broker.limit_s
        self._pool_limit = pool_limit
        self._tries = _TRIES if retries else 0
        self._begin()
        _clients.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Line] = []
        self._busy: set[Line] = set()

    def __repr__(self) -> str:
        return f"KombuClient({self.broker.shown!r})"

    def publish(self, message: Publish) -> str | None:
        """Publish one message.

        Raises:
            NotConfirmed: whether the broker has it is unknown.
            BrokerRefused: it hasn't, and says why.
            OperationalError: no broker answers; nothing was sent.
            MessageError: it can't be a message of Celery's.
        """
        line = self._ready([message])
        try:
            self._send(line, message)
        except BaseException:
            self._gone(line)
            raise
        self._back(line)
        return None

    def publish_all(self, messages: Iterable[Publish]) -> None:
        """Publish many, in their order.

        Raises:
            NotPublished: its ``msgids`` names those that were not, and one of which nobody knows.
        """
        waiting = list(messages)
        if not waiting:
            return
        line: Line | None = None
        done = 0
        try:
            line = self._ready(waiting)
            for message in waiting:
                self._send(line, message)
                done += 1
        except OperationalError as exc:
            if line is not None:
                self._gone(line)
            raise NotPublished(str(exc), msgids=tuple(m.msgid for m in waiting[done:])) from exc
        except BaseException:
            if line is not None:
                self._gone(line)
            raise
        self._back(line)

    def publish_result(self, queue: str, body: bytes, task_id: str, content: tuple[str, str]) -> None:
        """Publish a result (``rpc://``) to the queue of who waits for it.

        Raises:
            OperationalError: no broker takes it.
        """
        line = self._ready([])
        try:
            line.publish_result(queue, body, task_id, content)
        except (*line.errors, *line.refusals) as exc:
            self._gone(line)
            raise line.told(exc, sent=True) from exc
        except BaseException:
            self._gone(line)
            raise
        self._back(line)

    @staticmethod
    def _send(line: Line, message: Publish) -> None:
        celery = line.celery(message)
        try:
            line.publish(message, celery, line._broker.limit_s)
        except (*line.errors, *line.refusals) as exc:
            raise line.told(exc, sent=True) from exc

    def _ready(self, messages: list[Publish]) -> Line:
        """Return a line by which these can be published; raises OperationalError."""
        deadline = time.monotonic() + self.broker.limit_s
        tries, pause_s = self._tries, 0.0
        while True:
            line = self._take()
            try:
                line.prepare(messages, deadline - time.monotonic())
                return line
            except (*line.errors, *line.refusals) as exc:
                self._gone(line)
                left_s = deadline - time.monotonic()
                if not line.fresh and left_s > 0:
                    self._drop_idle()  # the broker has gone since: those others are cut, too
                    continue
                tries -= 1
                if tries < 0 or left_s <= pause_s or isinstance(exc, line.refusals):
                    raise line.told(exc, sent=False) from exc
            except BaseException:
                self._gone(line)
                raise
            time.sleep(pause_s)
            pause_s = min(pause_s + _PAUSE_S, _LONGEST_PAUSE_S)

    def _take(self) -> Line:
        with self._lock:
            line = self._idle.pop() if self._idle else None
        if line is None:
            line = Line(self.broker)
        with self._lock:
            self._busy.add(line)
        return line

    def _back(self, line: Line) -> None:
        with self._lock:
            self._busy.discard(line)
            kept = len(self._idle) < self._pool_limit
            if kept:
                self._idle.append(line)
        if not kept:
            line.close()

    def _gone(self, line: Line) -> None:
        with self._lock:
            self._busy.discard(line)
        line.drop()

    def _drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for line in idle:
            line.drop()

    def close(self) -> None:
        """Close the idle connections; a later call opens new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for line in idle:
            line.close()

    def _forked(self) -> None:
        lines = [*self._idle, *self._busy]
        self._begin()
        for line in lines:
            line.forget()
        _of_parents.extend(lines)

    # What only our broker knows.

    def ask(self, verb: str, /, timeout_s: float | None = None, **arguments: Any) -> Any:
        """Raise ConfigurationError: these brokers answer no questions."""
        only_with_our_broker(f"{verb!r}")

    def results(self, ids: Sequence[str]) -> Mapping[str, StoredResult | None]:
        """Raise ConfigurationError: these brokers keep no results."""
        only_with_our_broker("a result without a result_backend")

    def wait(
        self, ids: Iterable[str], timeout_s: float | None, *, unless_done: Iterable[str] = ()
    ) -> Iterator[tuple[str, StoredResult]]:
        """Raise ConfigurationError, as ``results``."""
        only_with_our_broker("a result without a result_backend")


_clients: weakref.WeakSet[KombuClient] = weakref.WeakSet()
#: Connections of parents: were they collected here, they would be shut down there.
_of_parents: list[Line] = []


def _after_fork() -> None:
    for client in list(_clients):
        client._forked()


os.register_at_fork(after_in_child=_after_fork)
