"""Results as messages to whoever published the task, in Celery's form: ``rpc://``.

Each process that publishes has a queue, which its messages name (reply_to); workers put each state there.
Nothing is kept: what a process has not taken in is gone with it, and no other one can ask.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn

from emq_compat.backends.base import ResultStore, Tree
from emq_compat.backends.keyvalue import RecordCodec
from emq_compat.backends.record import record_of, result_of
from emq_compat.errors import ConfigurationError, OperationalError
from emq_compat.ids import new_id
from emq_compat.message import FINAL_STATES
from emq_compat.stored import StoredResult

if TYPE_CHECKING:
    from kombu.connection import Connection

__all__ = ["RpcStore"]

logger = logging.getLogger(__name__)

#: Results that a process keeps; the oldest make room.
_MOST: Final = 10_000
#: A thread that waits lets the others look so often.
_TURN_S: Final = 0.1


class _Inbox:
    """A process's queue, its consumer, and what came."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.name = new_id()
        self.lock = threading.Lock()
        self.results: OrderedDict[str, StoredResult] = OrderedDict()
        self.connection: Any = None
        self.consumer: Any = None


class RpcStore(ResultStore):
    """Implements ResultStore over messages.

    Args:
        codec: how records become bytes, and back.
        connect: returns a connection of kombu's that isn't connected.
        send: (queue, body, task id) publishes a result; raises OperationalError.
        expires_s: a queue that nobody listens to any more ends after so long.
    """

    readable: ClassVar[bool] = False
    addressed: ClassVar[bool] = True
    url = "rpc://"

    def __init__(
        self,
        codec: RecordCodec,
        *,
        connect: Callable[[], Connection],
        send: Callable[[str, bytes, str], object],
        expires_s: float = 0,
    ) -> None:
        self._codec = codec
        self._connect = connect
        self._send = send
        self._expires_s = expires_s
        self._made = _Inbox()

    @property
    def _inbox(self) -> _Inbox:
        if self._made.pid != os.getpid():  # the queue is its parent's, who goes on listening
            self._made = _Inbox()
        return self._made

    @property
    def reply_to(self) -> str:
        """The queue of this process, which is there from now on.

        Raises:
            OperationalError: no broker answers.
        """
        inbox = self._inbox
        with inbox.lock:
            self._open(inbox)
        return inbox.name

    def _open(self, inbox: _Inbox) -> None:
        """Declare the queue and listen on it, unless that is done; called under the lock."""
        if inbox.consumer is not None:
            return
        from kombu.entity import Exchange, Queue  # noqa: PLC0415 - heavy
        from kombu.messaging import Consumer  # noqa: PLC0415 - heavy

        connection = self._connect()
        try:
            connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
            queue = Queue(
                inbox.name, Exchange(""), inbox.name,
                durable=False, auto_delete=True, expires=self._expires_s or None,
            )  # fmt: skip

            def take(message: Any) -> None:
                self._take(inbox, message)

            consumer = Consumer(connection.channel(), [queue], on_message=take, no_ack=True, accept=None)
            consumer.consume()
        except (*connection.connection_errors, *connection.channel_errors, OSError) as exc:
            connection.collect(socket_timeout=0.1)
            raise OperationalError(f"results by rpc:// can't be received: {exc}") from exc
        inbox.connection, inbox.consumer = connection, consumer

    def _take(self, inbox: _Inbox, message: Any) -> None:
        task_id = str(message.properties.get("correlation_id") or "")
        try:
            record = self._codec.decode(message.body)
            task_id = task_id or str(record.get("task_id"))
            result = result_of(record)
        except OperationalError as exc:
            logger.error("a result of %s is dropped: %s", task_id, exc)
            return
        known = inbox.results.get(task_id)
        if known is not None and known.state in FINAL_STATES and result.state not in FINAL_STATES:
            return  # a state that was overtaken
        inbox.results[task_id] = result
        inbox.results.move_to_end(task_id)
        if len(inbox.results) > _MOST:
            inbox.results.popitem(last=False)

    def _drain(self, inbox: _Inbox, timeout_s: float) -> None:
        """Take in what has come, waiting for the first; called under the lock."""
        self._open(inbox)
        connection = inbox.connection
        try:
            connection.drain_events(timeout=max(timeout_s, 0.001))
            while True:
                connection.drain_events(timeout=0.001)
        except TimeoutError:
            return
        except (*connection.connection_errors, *connection.channel_errors, OSError) as exc:
            logger.warning("the connection that results come by was cut, some may be lost: %s", exc)
            inbox.connection = inbox.consumer = None
            connection.collect(socket_timeout=0.1)

    def read(self, ids: Sequence[str]) -> Mapping[str, StoredResult | None]:
        inbox = self._inbox
        found = {task_id: inbox.results.get(task_id) for task_id in ids}
        if all(one is not None and one.state in FINAL_STATES for one in found.values()):
            return found
        with inbox.lock:
            self._drain(inbox, 0)
        return {task_id: inbox.results.get(task_id) for task_id in ids}

    def wait(
        self, ids: Iterable[str], timeout_s: float | None, interval_s: float = 0.5
    ) -> Iterator[tuple[str, StoredResult]]:
        inbox = self._inbox
        pending = dict.fromkeys(ids)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            for task_id in list(pending):
                stored = inbox.results.get(task_id)
                if stored is not None and stored.state in FINAL_STATES:
                    del pending[task_id]
                    yield task_id, stored
            if not pending:
                return
            left_s = _TURN_S if deadline is None else min(_TURN_S, deadline - time.monotonic())
            if left_s <= 0:
                raise TimeoutError(f"the result of {next(iter(pending))} is not there yet")
            with inbox.lock:
                self._drain(inbox, left_s)

    def write(self, task_id: str, reply: Mapping[str, Any]) -> None:
        """Nothing: it isn't said to whom; see ``write_to``."""

    def write_to(self, queue: str, task_id: str, reply: Mapping[str, Any]) -> None:
        """Send a state to the queue that the task's message named.

        Raises:
            OperationalError: the broker doesn't take it.
        """
        self._send(queue, self._codec.encode(record_of(task_id, reply)), task_id)

    def forget(self, ids: Sequence[str]) -> None:
        for task_id in ids:
            self._inbox.results.pop(task_id, None)

    def save_group(self, group_id: str, tree: Tree) -> None:
        self._refuse()

    def load_group(self, group_id: str) -> Tree | None:
        self._refuse()

    def delete_group(self, group_id: str) -> None:
        self._refuse()

    @staticmethod
    def _refuse() -> NoReturn:
        raise ConfigurationError("rpc:// keeps nothing: groups are saved in redis://… or db+…")

    def close(self) -> None:
        inbox = self._made
        if inbox.pid == os.getpid() and inbox.connection is not None:
            with inbox.lock:
                connection, inbox.connection, inbox.consumer = inbox.connection, None, None
            connection.release()
