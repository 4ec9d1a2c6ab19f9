"""The result backend ``emq://`` of genuine Celery: results, groups and chords live in our broker.

A state is stored by a settled message (docs/protocol.md), read by a question, and waited for by a push. What
a task comes to that our own worker runs is part of its outcome.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from celery import exceptions as celery_errors
from celery import states
from celery.app.task import Context
from celery.backends.asynchronous import AsyncBackendMixin
from celery.backends.base import Backend
from celery.exceptions import BackendStoreError, ImproperlyConfigured
from celery.result import result_from_tuple
from kombu.exceptions import EncodeError

from emq_compat.address import DEFAULT_URL
from emq_compat.backends.emq import BrokerStore
from emq_compat.client import Client, client_for
from emq_compat.errors import AddressError, BrokerRefused, LocalProtocolError, OperationalError
from emq_compat.genuine.backend_consumer import ResultConsumer
from emq_compat.genuine.backend_record import Carrier, exception_record, meta_of, reply_of
from emq_compat.genuine.capture import current
from emq_compat.genuine.chords import Chords
from emq_compat.genuine.unbegun import within_groups
from emq_compat.message import Headers, Publish
from emq_compat.shim.exceptions import join_kombu
from emq_compat.stored import StoredResult

__all__ = ["EmqBackend"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: A settled message is no job: the queue that it names is never read.
_QUEUE = "default"
#: result_expires where the project says nothing; the broker's own --result-expires counts then.
_CELERYS_EXPIRES_S = 86_400
_KEYS = re.compile(r"(?<=[?&]keys=)[^&;]*")


class EmqBackend(AsyncBackendMixin, Backend):
    """Celery's contract of a result backend over our broker.

    Raises:
        ImproperlyConfigured: the URL is no broker's of ours, or result_expires is no time.
    """

    supports_native_join = True
    supports_autoexpire = True
    supports_result_compression = True
    supports_failure_expires = True

    def __init__(self, app: Any, url: str | None = None, **kwargs: Any) -> None:
        # Celery takes the first scheme of emq+ipc:// for the backend's name.
        if url is not None and url.startswith("ipc://"):
            url = "emq+" + url
        super().__init__(app, url=url, **kwargs)
        self.address = DEFAULT_URL if url in (None, "emq://") else str(url)
        try:
            stock = self.client.stock
        except AddressError as exc:
            raise ImproperlyConfigured(f"result_backend: {exc}") from exc
        if stock:
            raise ImproperlyConfigured(
                f"result_backend {self.as_uri()} is a stock eventmq router, which keeps no results: "
                "use an emq-compat broker (emq://), or another result backend"
            )
        self.keep_s = self._kept(self.expires, "result_expires")
        failures = app.conf.get("result_failure_expires")
        self.failure_keep_s = (
            self.keep_s
            if failures is None
            else self._kept(self.prepare_expires(failures), "result_failure_expires")
        )
        self.carrier = Carrier(self.serializer, self.compression, self.accept)
        self.chords = Chords(self)
        self.result_consumer = ResultConsumer(
            self, app, self.accept, self._pending_results, self._pending_messages
        )

    @staticmethod
    def _kept(seconds: Any, name: str) -> float | None:
        """Return how long results are kept: 0 for good, None as the broker is told."""
        if seconds is None:
            return 0.0
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or seconds < 0:
            raise ImproperlyConfigured(f"{name} is a number of seconds or a timedelta, not {seconds!r}")
        return None if seconds == _CELERYS_EXPIRES_S else float(seconds)

    @property
    def client(self) -> Client:
        """This process's client of the broker that keeps the results."""
        return client_for(self.address)

    def as_uri(self, include_password: bool = False) -> str:
        """Return the address; where its keys are is told only with ``include_password``."""
        return self.address if include_password else _KEYS.sub("**", self.address)

    def _asked(self, ask: Callable[[], T]) -> T:
        """Ask the broker; that it can't be reached is kombu's OperationalError, too."""
        try:
            return ask()
        except OperationalError:
            join_kombu()
            raise

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Whether an operation that failed so can be tried again (result_backend_always_retry)."""
        return isinstance(exc, OperationalError)

    # Storing

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        pickled = None
        if isinstance(meta["result"], BaseException) and state in self.EXCEPTION_STATES:
            pickled = meta["result"]
            meta["result"] = exception_record(pickled, super().prepare_exception(pickled, serializer="json"))
        reply = reply_of(meta, self.carrier, pickled)
        self.settle(str(task_id), state, reply)
        return result

    def prepare_exception(self, exc: BaseException, serializer: str | None = None) -> Any:
        described = super().prepare_exception(exc, serializer)
        return exception_record(exc, described) if isinstance(described, dict) else described

    def mark_as_failure(
        self, task_id: str, exc: BaseException, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> None:
        """Celery's; the failure reaches the groups behind it, and all of a chord's body, too."""
        super().mark_as_failure(task_id, exc, traceback, request=request, **kwargs)
        for task in within_groups(getattr(request, "chain", None)):
            self._fail_unbegun(task, exc, traceback, **kwargs)
        self.chords.fail_body_of(request, exc)

    def _call_task_errbacks(self, request: Any, exc: BaseException, traceback: Any) -> None:
        """Celery's; whoever is called finds the failure, though the run that it belongs to hasn't ended."""
        capture = current()
        if capture is not None and capture.body is not None and request.id == capture.task_id:
            headers = Headers(
                guarantee=True,
                task_id=capture.task_id,
                settled=str(capture.state),
                redelivered=True,
                keep_s=self.failure_keep_s,
            )
            self.publish(Publish(queue=_QUEUE, headers=headers, payload=capture.body))
        super()._call_task_errbacks(request, exc, traceback)

    def _fail_unbegun(
        self,
        task: Mapping[str, Any],
        exc: BaseException,
        traceback: Any,
        store_result: bool = True,
        state: str = states.FAILURE,
        **_: Any,
    ) -> None:
        """Have a task that never begins end as the one in front of it, also as a part of its chord."""
        context = Context(task)
        context.update(context.options)
        context.id, context.group = context.options.get("task_id"), context.options.get("group_id")
        if context.id is None:
            return
        if store_result and state in states.PROPAGATE_STATES:
            self.store_result(context.id, exc, state, traceback=traceback, request=context)
        if context.chord:
            self.on_chord_part_return(context, state, exc)

    def settle(self, task_id: str, state: str, reply: Mapping[str, Any], *, chord: str = "") -> None:
        """Store a state, and count it as that of a chord's part; a task without an id is only counted.

        Raises:
            EncodeError (kombu's): it is too large.
            OperationalError (kombu's): the broker doesn't answer.
        """
        headers = Headers(
            guarantee=True,
            task_id=task_id,
            settled=state,
            # Whoever stores an end has run the task: a failure that was there before is out of date.
            redelivered=state in self.READY_STATES,
            chord=chord,
            keep_s=self.failure_keep_s if state == states.FAILURE else self.keep_s,
        )
        capture = current()
        if capture is None and state not in self.READY_STATES:
            reply = {**reply, "from": "store_result"}  # a revoke leaves such a state as it is
        payload = json.dumps(dict(reply), separators=(",", ":")).encode()
        if capture is not None:
            if task_id and capture.store(task_id, state, payload, headers.keep_s):
                return
            message = Publish(queue=_QUEUE, headers=headers, payload=payload)
            # What the running task is meanwhile (STARTED, a state of its own) is told at once.
            if task_id != capture.task_id and capture.publish(message):
                return
        self.publish(Publish(queue=_QUEUE, headers=headers, payload=payload))

    def publish(self, message: Publish) -> None:
        """Publish a message to the broker; raises as ``settle``."""
        try:
            self._asked(lambda: self.client.publish(message))
        except LocalProtocolError as exc:
            raise EncodeError(f"the result can't be stored: {exc}") from exc
        except BrokerRefused as exc:
            task_id = message.headers.task_id
            raise BackendStoreError(f"the broker refused a result: {exc}", task_id=task_id) from exc

    def _forget(self, task_id: str) -> None:
        self._asked(lambda: self.client.ask("forget", ids=[task_id]))

    def forget(self, task_id: str) -> None:
        super().forget(task_id)
        self.result_consumer.cancel_for(task_id)

    # Reading

    def meta_for(self, task_id: str, stored: StoredResult | None) -> dict[str, Any]:
        """Return Celery's meta of what is stored, with a value or an exception in it."""
        return self.meta_from_decoded(meta_of(task_id, stored, self.carrier))  # type: ignore[no-any-return]

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        task_id = str(task_id)
        return self.meta_for(task_id, self._asked(lambda: self.client.results([task_id]))[task_id])

    def task_result_exists(self, task_id: str) -> bool:
        """Return whether anything is stored of a task."""
        return self._asked(lambda: self.client.results([task_id]))[task_id] is not None

    def get_many(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        interval: float | None = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Any], object] | None = None,
        on_interval: Callable[[], object] | None = None,
        max_iterations: int | None = None,
        READY_STATES: frozenset[str] = states.READY_STATES,  # noqa: N803 - Celery's name
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (id, meta) of each task as it ends; with ``max_iterations`` of those that have ended.

        Raises:
            TimeoutError: Celery's; some haven't within ``timeout`` seconds.
        """
        pending = dict.fromkeys(task_ids)
        for task_id in list(pending):
            cached = self._cache.get(task_id) if self._cache else None
            if cached is not None and cached["status"] in READY_STATES:
                del pending[task_id]
                yield task_id, cached
        if not pending:
            return
        if max_iterations:
            arriving: Iterable[tuple[str, StoredResult]] = [
                (task_id, stored)
                for task_id, stored in self._asked(lambda: self.client.results(list(pending))).items()
                if stored is not None and stored.state in READY_STATES
            ]
        else:
            arriving = self._arriving(pending, timeout, interval or 0.5, on_interval)
        for task_id, stored in arriving:
            pending.pop(task_id, None)
            meta = self.meta_for(task_id, stored)
            if meta["status"] == states.SUCCESS:
                self._cache[task_id] = meta
            if on_message is not None:
                on_message(meta)
            yield task_id, meta

    def _arriving(
        self,
        pending: dict[str, None],
        timeout: float | None,
        interval: float,
        on_interval: Callable[[], object] | None,
    ) -> Iterator[tuple[str, StoredResult]]:
        """Yield what arrives, while whoever reads takes it out of ``pending``."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while pending:
            left_s = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            slice_s = left_s
            if on_interval is not None:
                slice_s = interval if left_s is None else min(interval, left_s)
            try:
                yield from self.client.wait(list(pending), slice_s)
            except TimeoutError:
                if deadline is not None and time.monotonic() >= deadline:
                    raise celery_errors.TimeoutError(f"Operation timed out ({timeout})") from None
                if on_interval is not None:
                    on_interval()

    def drop_buffered(self, meta: Mapping[str, Any]) -> None:
        """Drop what is kept of a result for whoever comes to wait for it: who waited has it."""
        if meta["status"] in (states.SUCCESS, states.FAILURE):
            buffered = self._pending_messages.pop(meta["task_id"], None)
            if buffered is not None:
                self._pending_messages.total -= len(buffered)

    # Groups

    @property
    def _groups(self) -> BrokerStore:
        return BrokerStore(lambda: self.client, url=self.address, keep_s=self.keep_s)

    def _save_group(self, group_id: str, result: Any) -> Any:
        self._asked(lambda: self._groups.save_group(group_id, result.as_tuple()))
        return result

    def _restore_group(self, group_id: str) -> dict[str, Any] | None:
        tree = self._asked(lambda: self._groups.load_group(group_id))
        return None if tree is None else {"result": result_from_tuple(tree, self.app)}

    def _delete_group(self, group_id: str) -> None:
        self._asked(lambda: self._groups.delete_group(group_id))

    # Chords

    def apply_chord(self, header_result_args: Sequence[Any], body: Any, **kwargs: Any) -> None:
        """Have a chord be counted in the broker; by Celery's chord_unlock where messages go elsewhere."""
        if self.chords.are_counted:
            self.chords.begin(header_result_args, body)
        else:
            super().apply_chord(header_result_args, body, **kwargs)

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Publish a chord's body, which the broker holds until so many parts have succeeded."""
        self.chords.hold(group_id, chord_size)

    def add_to_chord(self, chord_id: str, result: Any) -> None:
        """Have the running part's chord await one part more."""
        self.chords.grow(chord_id, result)

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """Have a chord's part be counted."""
        self.chords.count(request, state, result)

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        return super().__reduce__(args, {**(kwargs or {}), "expires": self.expires, "url": self.url})
