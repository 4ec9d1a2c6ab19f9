"""``celery.backends.base.BaseDictBackend``: results in a project's own store, as django-celery-results."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from emq_compat.backends.base import ResultStore, Tree
from emq_compat.backends.record import record_of, result_of
from emq_compat.errors import EmqError, OperationalError
from emq_compat.message import SUCCESS
from emq_compat.shim.backend import Backend
from emq_compat.shim.codec import jsonable, revive
from emq_compat.shim.current import frame_var
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.request import Context
from emq_compat.shim.results.tree import result_from_tuple
from emq_compat.shim.retention import seconds_kept
from emq_compat.shim.states import PENDING
from emq_compat.stored import StoredResult

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery
    from emq_compat.shim.task import Task

__all__ = ["BaseDictBackend", "get_current_task"]

T = TypeVar("T")


def get_current_task() -> Task[..., Any] | None:
    """Return the task that is running here."""
    frame = frame_var.get()
    return frame.task if frame is not None else None


class BaseDictBackend(Backend):
    """Keeps results by methods of a subclass, which are Celery's.

    They are ``_store_result(task_id, result, state, traceback, request)`` and ``_get_task_meta_for(id)``, and
    where they are wanted ``_forget``, ``_save_group``, ``_restore_group``, ``_delete_group`` and ``cleanup``.
    What Celery needs for chords is never called, since the broker counts them. Results are asked for every
    ``interval`` seconds.

    Attributes:
        expires: seconds that results are kept (result_expires); None: for ever.
        serializer, content_type, content_encoding, accept: how values become text.
    """

    def __init__(self, app: Celery, url: str | None = None, **kwargs: Any) -> None:
        super().__init__(app, url=url, **kwargs)
        kept_s = 86_400.0 if seconds_kept(app.conf) is None else seconds_kept(app.conf)
        self.expires: int | None = int(kept_s) if kept_s else None
        from kombu import serialization  # noqa: PLC0415 - heavy, and only needed here

        conf = app.conf
        self.serializer: str = conf.result_serializer
        try:
            self.content_type, self.content_encoding, _ = serialization.registry._encoders[self.serializer]
            accept = conf.accept_content if conf.result_accept_content is None else conf.result_accept_content
            self.accept = serialization.prepare_accept_content(accept)
        except KeyError as exc:
            raise ImproperlyConfigured(f"there is no result_serializer {self.serializer!r}") from exc
        self._serialization = serialization

    def _new_store(self, app: Celery, url: str | None) -> ResultStore:
        return _Hooks(self, url or f"{type(self).__module__}.{type(self).__name__}")

    # For a subclass to define.

    @abstractmethod
    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: str | None = None, request: Any = None
    ) -> Any:
        """Store a task's state and value; of an exception exc_type, exc_message and exc_module."""
        raise NotImplementedError(f"{type(self).__name__} has no _store_result()")

    @abstractmethod
    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        """Return a task's record: status, result, traceback, children, date_done …; PENDING: it has none."""
        raise NotImplementedError(f"{type(self).__name__} has no _get_task_meta_for()")

    def _forget(self, task_id: str) -> None:
        raise NotImplementedError(f"{type(self).__name__} can't forget results")

    def _save_group(self, group_id: str, result: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} keeps no groups")

    def _restore_group(self, group_id: str) -> Mapping[str, Any] | None:
        raise NotImplementedError(f"{type(self).__name__} keeps no groups")

    def _delete_group(self, group_id: str) -> None:
        raise NotImplementedError(f"{type(self).__name__} keeps no groups")

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        """Return whether what a method raised may be tried again; it is, once."""
        return False

    # For a subclass to call.

    def encode(self, data: Any) -> Any:
        """Return a value as text (or bytes)."""
        return self._encode(data)[2]

    def _encode(self, data: Any) -> tuple[str, str, Any]:
        encoded: tuple[str, str, Any] = self._serialization.dumps(data, serializer=self.serializer)
        return encoded

    def decode(self, payload: Any) -> Any:
        """Return the value that a text holds."""
        if payload is None:
            return None
        return self._serialization.loads(
            payload,
            content_type=self.content_type,
            content_encoding=self.content_encoding,
            accept=self.accept,
        )

    def meta_from_decoded(self, meta: dict[str, Any]) -> dict[str, Any]:
        """Return a record as it is: its exception and its children become objects when they are asked for."""
        return meta


class _Child:
    """A child's result, as plain data."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def as_tuple(self) -> Tree:
        return self._tree


class _Hooks(ResultStore):
    """Implements ResultStore over a backend's methods."""

    expires: ClassVar[bool] = False

    def __init__(self, backend: BaseDictBackend, url: str) -> None:
        self.url = url
        self._backend = backend

    def read(self, ids: Sequence[str]) -> Mapping[str, StoredResult | None]:
        return {task_id: self._called(partial(self._read, task_id)) for task_id in ids}

    def _read(self, task_id: str) -> StoredResult | None:
        record = dict(self._backend._get_task_meta_for(task_id))
        if record.get("status", PENDING) == PENDING:
            return None
        record.setdefault("name", record.get("task_name"))
        return result_of(record)

    def write(self, task_id: str, reply: Mapping[str, Any]) -> None:
        record = revive(record_of(task_id, reply))
        told = Context(
            id=task_id,
            task=reply.get("name"),
            args=reply.get("args"),
            kwargs=reply.get("kwargs"),
            hostname=reply.get("worker"),
        )
        told.children.extend(_Child(tree) for tree in reply.get("children") or ())

        def write() -> None:
            stored = self._read(task_id)
            if stored is None or stored.state != SUCCESS:
                self._backend._store_result(
                    task_id, record["result"], record["status"], traceback=record["traceback"], request=told
                )

        self._called(write)

    def forget(self, ids: Sequence[str]) -> None:
        for task_id in ids:
            self._called(partial(self._backend._forget, task_id))

    def save_group(self, group_id: str, tree: Tree) -> None:
        group = result_from_tuple(tree, self._backend.app)
        self._called(lambda: self._backend._save_group(group_id, group))

    def load_group(self, group_id: str) -> Tree | None:
        record = self._called(lambda: self._backend._restore_group(group_id))
        group = record.get("result") if record else None
        return None if group is None else jsonable(group.as_tuple())

    def delete_group(self, group_id: str) -> None:
        self._called(lambda: self._backend._delete_group(group_id))

    def _called(self, call: Callable[[], T]) -> T:
        """Return what a method of the backend does, called where the app's framework wants it to be.

        Raises:
            OperationalError: whatever it raises.
        """
        around = self._backend.app.of_fixups("call_store")
        for last in (False, True):
            try:
                return call() if around is None else around(call)
            except (EmqError, NotImplementedError):
                raise
            except Exception as exc:
                if last or not self._backend.exception_safe_to_retry(exc):
                    raise OperationalError(f"{self.url}: {type(exc).__name__}: {exc}") from exc
        raise AssertionError("the second try raises or returns")
