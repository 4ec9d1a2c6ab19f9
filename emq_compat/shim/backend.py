"""Backend: a result store under the names of Celery's backends (``app.backend``, ``task.backend``)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from emq_compat.backends.base import ResultStore, without_password
from emq_compat.errors import ConfigurationError
from emq_compat.failures import failure_of
from emq_compat.shim import exceptions as errors
from emq_compat.shim import states
from emq_compat.shim.codec import dumps, jsonable
from emq_compat.shim.current import frame_var
from emq_compat.shim.exceptions import EncodeError, ImproperlyConfigured, TaskRevokedError
from emq_compat.shim.handlers import ExceptionInfo
from emq_compat.shim.packing import MARKER, pack
from emq_compat.shim.results.content import exception_of
from emq_compat.shim.results.members import done_now, members_of
from emq_compat.shim.results.tree import ResultBase, result_from_tuple
from emq_compat.shim.store_access import StoreAccess
from emq_compat.stored import StoredResult

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery
    from emq_compat.shim.request import Context
    from emq_compat.shim.results.groups import GroupResult
    from emq_compat.shim.results.single import AsyncResult

__all__ = ["Backend"]

T = TypeVar("T")

logger = logging.getLogger("emq_compat.task")

#: States of a task that nobody has begun to run.
_NOT_BEGUN = frozenset({states.PENDING, states.RECEIVED, states.RETRY, states.REJECTED})


class Backend(StoreAccess):
    """A result store with the methods of Celery's backends; errors are those of StoreAccess."""

    READY_STATES: ClassVar[frozenset[str]] = states.READY_STATES
    UNREADY_STATES: ClassVar[frozenset[str]] = states.UNREADY_STATES
    EXCEPTION_STATES: ClassVar[frozenset[str]] = states.EXCEPTION_STATES
    TimeoutError: ClassVar[type[Exception]] = errors.TimeoutError
    persistent: ClassVar[bool] = True

    def __init__(
        self,
        app: Celery,
        *,
        url: str | None = None,
        store: ResultStore | None = None,
        **kwargs: Any,
    ) -> None:
        """``store`` or ``url`` says where; Celery's further arguments have no effect.

        Raises:
            ImproperlyConfigured: the URL can't be used, or a package is missing that it needs.
        """
        self.url = url
        if store is None:
            try:
                store = self._new_store(app, url)
            except ConfigurationError as exc:
                raise ImproperlyConfigured(str(exc)) from exc
        super().__init__(app, store)

    def _new_store(self, app: Celery, url: str | None) -> ResultStore:
        raise ImproperlyConfigured(f"{type(self).__name__} has no store")

    # Reading.

    def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:
        """Return a task's record: status, result (the exception, if there is one), traceback, children …"""
        return self.meta_of(task_id, self.stored([task_id])[task_id])

    def get_state(self, task_id: str) -> str:
        """Return a task's state; PENDING where nothing is known of it."""
        stored = self.stored([task_id])[task_id]
        return stored.state if stored is not None else states.PENDING

    get_status = get_state

    def get_result(self, task_id: str) -> Any:
        """Return a task's value, exception or meta."""
        return self.get_task_meta(task_id)["result"]

    def get_traceback(self, task_id: str) -> str | None:
        """Return the traceback's text."""
        traceback: str | None = self.get_task_meta(task_id).get("traceback")
        return traceback

    def get_children(self, task_id: str) -> list[Any] | None:
        """Return the results of what the task published; None where nothing is known."""
        children: list[Any] | None = self.get_task_meta(task_id).get("children")
        return children

    def task_result_exists(self, task_id: str) -> bool:
        """Return whether anything is stored of a task."""
        return self.stored([task_id])[task_id] is not None

    def reload_task_result(self, task_id: str) -> None:
        """Nothing: what isn't final is always asked for again."""

    def reload_group_result(self, group_id: str) -> None:
        """Nothing, as above."""

    def is_cached(self, task_id: str) -> bool:
        """Return False: results keep what is final themselves."""
        return False

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Callable[[], object] | None = None,
    ) -> dict[str, Any]:
        """Wait for a task and return its record; raises Celery's TimeoutError."""
        [(_, stored)] = self.arrivals([task_id], timeout, interval, on_interval)
        return self.record_of(task_id, stored)

    def wait_for_pending(
        self,
        result: AsyncResult[Any],
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Any], object] | None = None,
        on_interval: Callable[[], object] | None = None,
        callback: Callable[[str, Any], object] | None = None,
        propagate: bool = True,
    ) -> Any:
        """Wait for a result and return its value; the same as its ``get``."""
        return result.get(
            timeout=timeout,
            propagate=propagate,
            interval=interval,
            callback=callback,
            on_message=on_message,
            on_interval=on_interval,
            disable_sync_subtasks=False,
        )

    def get_many(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Any], object] | None = None,
        on_interval: Callable[[], object] | None = None,
        max_iterations: int | None = None,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (id, record) of each task as it ends; with ``max_iterations`` of those that have ended."""
        ids = list(task_ids)
        if max_iterations is not None:
            timeout = max_iterations * interval if max_iterations > 1 else 0
        try:
            for task_id, stored in self.arrivals(ids, timeout, interval, on_interval):
                record = self.record_of(task_id, stored)
                if on_message is not None:
                    on_message(record)
                yield task_id, record
        except errors.TimeoutError:
            if max_iterations is None:
                raise

    def iter_native(self, result: Any, **kwargs: Any) -> Iterator[tuple[str, Any]]:
        """Yield (id, record) of each task of a set as it ends; arguments as for its ``iter_native``."""
        return result.iter_native(**kwargs)  # type: ignore[no-any-return]

    def add_pending_result(self, result: AsyncResult[Any], weak: bool = False) -> AsyncResult[Any]:
        """Have a result settled when it is final (``then``)."""
        self.tell_when_final(result, weak=weak)
        return result

    def remove_pending_result(self, result: T) -> T:
        """Return the result: nothing is held for it that wouldn't go by itself."""
        return result

    # Writing.

    def store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Context | None = None,
        **kwargs: Any,
    ) -> Any:
        """Store a task's state and value (or exception); returns the value as it is stored.

        Over our broker a final state settles the task as its worker's reply would: it is counted for its
        chord, and told to who waits. What isn't final replaces no final state there.

        Raises:
            EncodeError: the value can't be carried.
        """
        reply = self._reply(result, state, traceback, request)
        frame = frame_var.get()
        report = frame.report if frame is not None and frame.request.id == task_id else None
        if not self.kept_by_broker:
            self.write(task_id, reply)
        elif report is not None:
            report(state, dumps(reply).encode())
        elif state in states.READY_STATES:
            self.write(task_id, reply)
        else:
            self.write(task_id, {**reply, "from": "store_result"})
        return reply.get("error") or reply["value"]

    def _reply(
        self, result: Any, state: str, traceback: str | None, request: Context | None
    ) -> dict[str, Any]:
        reply: dict[str, Any] = {"value": None, "state": state}
        if isinstance(result, BaseException):
            failure = failure_of(result, jsonable=jsonable)
            reply["value"] = failure.message
            reply["error"] = {
                "type": failure.type,
                "module": failure.module,
                "args": list(failure.args),
                "message": failure.message,
            }
            reply["traceback"] = str(traceback) if traceback is not None else failure.traceback
        else:
            reply["value"] = self.carried(self.prepare_value(result))
            if traceback is not None:
                reply["traceback"] = str(traceback)
        if state in states.READY_STATES:
            reply["date_done"] = done_now()
        if request is not None:
            reply.update(members_of(request, extended=bool(self.app.conf.result_extended), related=True))
        return reply

    def carried(self, value: Any) -> Any:
        """Return a value as plain JSON has it; what that can't is packed as result_serializer says.

        Raises:
            EncodeError: the value can't be carried.
        """
        try:
            return jsonable(value)
        except EncodeError:
            conf = self.app.conf
            if conf.result_serializer == "json":
                raise
            packed = pack(value, conf.result_serializer, conf.result_compression)
            return {"__type__": MARKER, "__value__": packed}

    def mark_as_started(self, task_id: str, **meta: Any) -> Any:
        """Store STARTED, with ``meta``."""
        return self.store_result(task_id, meta, states.STARTED)

    def mark_as_done(
        self,
        task_id: str,
        result: Any,
        request: Context | None = None,
        store_result: bool = True,
        state: str = states.SUCCESS,
    ) -> None:
        """Store a success."""
        if store_result and not (request is not None and request.ignore_result):
            self.store_result(task_id, result, state, request=request)

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Context | None = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> None:
        """Store a failure. Errbacks are called by the worker that ends the task, never from here."""
        if store_result:
            self.store_result(task_id, exc, state, traceback=traceback, request=request)

    def mark_as_revoked(
        self,
        task_id: str,
        reason: str = "",
        request: Context | None = None,
        store_result: bool = True,
        state: str = states.REVOKED,
    ) -> None:
        """Store that a task was revoked; use ``revoke`` to have it revoked."""
        if store_result:
            self.store_result(task_id, TaskRevokedError(reason), state, request=request)

    def revoke(
        self,
        ids: Sequence[str],
        terminate: bool = False,
        signal: str | None = None,
        timeout: float | None = None,
    ) -> dict[str, str]:
        """Have the broker revoke tasks; returns what became of each id: revoked, terminating or finished.

        Of a task that no worker has, and whose message nobody will have, REVOKED is stored here, unless it
        has a state that says more.
        """
        answer = super().revoke(ids, terminate, signal, timeout)
        for task_id in [one for one, what in answer.items() if what == "noted"]:
            answer[task_id] = "revoked"
            if not self.kept_by_broker:
                self.note_revoked(task_id)
        return answer

    def note_revoked(self, task_id: str) -> None:
        """Store that a task was revoked which nobody has begun to run."""
        try:
            if self.get_state(task_id) in _NOT_BEGUN:
                self.mark_as_revoked(task_id, "revoked")
        except Exception as exc:  # noqa: BLE001 - it is revoked; the store is whatever the project has
            logger.warning("task %s is revoked, but %r doesn't know: %s", task_id, self, exc)

    def mark_as_retry(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Context | None = None,
        store_result: bool = True,
        state: str = states.RETRY,
    ) -> Any:
        """Store that a task is tried again after ``exc``."""
        return self.store_result(task_id, exc, state, traceback=traceback, request=request)

    def fail_from_current_stack(self, task_id: str, exc: BaseException | None = None) -> ExceptionInfo:
        """Store the exception that is being handled (or ``exc``) as a task's failure."""
        handled = exc or sys.exc_info()[1] or RuntimeError("no exception is being handled")
        info = ExceptionInfo(handled)
        self.mark_as_failure(task_id, handled, info.traceback)
        return info

    def ensure_chords_allowed(self) -> None:
        """Refuse chords whose results can't be read, over a broker that counts none.

        Raises:
            NotImplementedError: this backend keeps nothing; it is Celery's error for that.
        """
        if self.app.over_kombu and not self.store.readable:
            raise NotImplementedError(
                "chords, and groups with a task behind them, need a result_backend that can be read: "
                "redis://… or db+…"
            )

    def add_to_chord(self, chord_id: str, result: Any) -> None:
        """Add one to the parts of a chord that this backend counts.

        Raises:
            NotImplementedError: it counts none.
        """
        chords = self.store.chords
        if chords is None:
            raise NotImplementedError("Backend does not support add_to_chord")
        self._told(lambda: chords.grow(chord_id))

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Say how many parts a chord has that this backend counts."""
        chords = self.store.chords
        if chords is not None and self.app.over_kombu:
            self._told(lambda: chords.begin(group_id, chord_size, None))

    def forget(self, task_id: str) -> None:
        """Drop a task's result."""
        self._told(lambda: self.store.forget([task_id]))

    def prepare_value(self, result: Any) -> Any:
        """Return what stands for a value: a result's ``as_tuple``."""
        return result.as_tuple() if isinstance(result, ResultBase) else result

    def prepare_exception(self, exc: BaseException, serializer: str | None = None) -> dict[str, Any]:
        """Return an exception as Celery's records have it."""
        failure = failure_of(exc, jsonable=jsonable)
        return {
            "exc_type": failure.type,
            "exc_message": list(failure.args),
            "exc_module": failure.module,
        }

    def exception_to_python(self, exc: Any) -> BaseException | None:
        """Return the exception that such a record tells of, by its class where that is allowed."""
        if not exc:
            return None
        return exception_of(StoredResult(states.FAILURE, reply={"value": exc}), self.app)

    def encode_result(self, result: Any, state: str) -> Any:
        """Return a value or an exception as Celery's records have it."""
        if state in states.EXCEPTION_STATES and isinstance(result, BaseException):
            return self.prepare_exception(result)
        return self.prepare_value(result)

    def current_task_children(self, request: Context | None = None) -> list[Any] | None:
        """Return what a task has published so far, as plain data; by default the running one."""
        frame = frame_var.get()
        request = request or (frame.request if frame is not None else None)
        return None if request is None else [child.as_tuple() for child in request.children]

    # Groups.

    def save_group(self, group_id: str, result: GroupResult) -> GroupResult:
        """Keep a group's members; returns the group."""
        tree = jsonable(result.as_tuple())
        self._told(lambda: self.store.save_group(group_id, tree))
        return result

    def restore_group(self, group_id: str, cache: bool = True) -> GroupResult | None:
        """Return a group that was saved; None: there is none."""
        tree = self._told(lambda: self.store.load_group(group_id))
        return None if tree is None else result_from_tuple(tree, self.app)

    def get_group_meta(self, group_id: str, cache: bool = True) -> dict[str, Any] | None:
        """Return a group's record."""
        group = self.restore_group(group_id)
        return None if group is None else {"result": group}

    def delete_group(self, group_id: str) -> None:
        """Drop what ``save_group`` kept."""
        self._told(lambda: self.store.delete_group(group_id))

    # The store itself.

    def cleanup(self) -> None:
        """Delete what is older than result_expires, where the store doesn't do so by itself."""
        self._told(self.store.cleanup)

    def process_cleanup(self) -> None:
        """Close what this process has open."""
        self.store.close()

    def as_uri(self, include_password: bool = False) -> str:
        """Return where the store is."""
        url = self.url or self.store.url
        return url if include_password else without_password(url)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.as_uri()}>"
