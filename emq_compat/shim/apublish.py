"""Publishing from coroutines: what many publish at once is confirmed as one, by a thread beside the loop."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from emq_compat.errors import BrokerRefused, EmqError, NotPublished, OperationalError
from emq_compat.message import Publish
from emq_compat.shim.exceptions import join_kombu
from emq_compat.shim.pipeline import Publisher, collecting, pipeline_of, publish_with_tries

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from emq_compat.shim.app import Celery

__all__ = ["published"]

T = TypeVar("T")
_Job: TypeAlias = "tuple[Sequence[Publish], Future[None]]"

#: Messages that are confirmed together, at most.
_BATCH = 2_000
#: How long the thread waits for more before it ends.
_IDLE_S = 1.0


async def published(app: Celery, call: Callable[[], T], policy: Mapping[str, Any] | None) -> T:
    """Return what ``call`` does, once what it publishes is on the broker's disk; the loop goes on meanwhile.

    ``policy`` is the retry policy of the publish. Where the coroutine is cancelled, what has not left yet is
    not published; what has may have been. Inside ``with app.pipeline()`` it is collected as ever, and with
    task_always_eager the task runs in a thread.

    Raises:
        As ``call``, and as publishing does.
    """
    import asyncio  # noqa: PLC0415 - start-up doesn't need it

    if app.eager:
        in_thread = app.of_fixups("call_in_thread")
        return await (asyncio.to_thread(call) if in_thread is None else in_thread(call))
    client = app.client
    if pipeline_of(client) is not None:
        return call()
    with collecting() as messages:
        result = call()
    if policy is not None:
        await asyncio.to_thread(_publish_in_turn, client, messages, policy)
    elif messages:
        await asyncio.wrap_future(_batches_of(client).put(messages, asyncio.get_running_loop()))
    return result


def _publish_in_turn(client: Publisher, messages: Sequence[Publish], policy: Mapping[str, Any]) -> None:
    for message in messages:
        publish_with_tries(client, message, policy)


class _Batches:
    """One client's publishes, taken together by a thread that lives as long as there are some."""

    def __init__(self, client: Publisher) -> None:
        self.pid = os.getpid()
        self._client = weakref.ref(client)
        self._changed = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._running = False
        #: Loop → what its coroutines have put in this round of it.
        self._soon: weakref.WeakKeyDictionary[AbstractEventLoop, list[_Job]] = weakref.WeakKeyDictionary()

    def put(self, messages: Sequence[Publish], loop: AbstractEventLoop) -> Future[None]:
        """Have these published, in their order; the future ends when all are confirmed, or one can't be.

        Called in the loop: what is put in one round of it leaves together.
        """
        future: Future[None] = Future()
        soon = self._soon.setdefault(loop, [])
        if not soon:
            loop.call_soon(self._hand_over, loop)
        soon.append((messages, future))
        return future

    def _hand_over(self, loop: AbstractEventLoop) -> None:
        with self._changed:
            self._waiting.extend(self._soon.pop(loop))
            if self._running:
                self._changed.notify()
            else:
                self._running = True
                threading.Thread(target=self._run, name="emq-publisher", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting and not self._changed.wait_for(lambda: self._waiting, _IDLE_S):
                    self._running = False
                    return
                batch, count = [], 0
                while self._waiting and count < _BATCH:
                    messages, future = self._waiting.popleft()
                    if future.set_running_or_notify_cancel():
                        batch.append((messages, future))
                        count += len(messages)
            client = self._client()
            if batch and client is not None:
                _publish(client, batch)


def _publish(client: Publisher, batch: Sequence[_Job]) -> None:
    """Publish a batch, and tell each of its futures."""
    missing: set[str] = set()
    error: BaseException | None = None
    try:
        client.publish_all([message for messages, _ in batch for message in messages])
    except NotPublished as exc:
        missing, error = set(exc.msgids), exc
    except BaseException as exc:  # noqa: BLE001 - told to whoever waits
        missing, error = {message.msgid for messages, _ in batch for message in messages}, exc
    silent: BaseException | None = None
    for messages, future in batch:
        failed: BaseException | None = None
        for message in messages:
            if message.msgid not in missing:
                continue
            # Said again by itself, which makes no second message: so each gets the reason of its own.
            again = isinstance(error, NotPublished) and not getattr(client, "is_kombu", False)
            failed = silent or (_why(client, message) if again else error)
            if failed is not None:
                if isinstance(failed, OperationalError) and not isinstance(failed, BrokerRefused):
                    silent = failed
                break
        if failed is None:
            future.set_result(None)
        else:
            future.set_exception(failed)


def _why(client: Publisher, message: Publish) -> BaseException | None:
    """Publish it; return what is raised."""
    try:
        client.publish(message)
    except EmqError as exc:
        join_kombu()
        return exc
    return None


_batches: weakref.WeakKeyDictionary[Publisher, _Batches] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def _batches_of(client: Publisher) -> _Batches:
    with _lock:
        found = _batches.get(client)
        if found is None or found.pid != os.getpid():  # the thread of the process it was forked from
            found = _batches[client] = _Batches(client)
        return found
