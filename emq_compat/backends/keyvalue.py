"""What stores of keys and values have in common: Celery's keys, and one record a key."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from emq_compat.backends.base import ResultStore, Tree
from emq_compat.backends.record import record_of, result_of
from emq_compat.message import SUCCESS
from emq_compat.stored import StoredResult

__all__ = ["KeyValueStore", "RecordCodec"]


class RecordCodec(Protocol):
    """How records become bytes: the setting result_serializer.

    Attributes:
        content: content type and encoding.
    """

    content: tuple[str, str]

    def encode(self, record: Mapping[str, Any] | Sequence[Any]) -> bytes:
        """Return a record's bytes, or those of the end of a chord's part.

        Raises:
            ValueError, TypeError: it can't be.
        """
        ...

    def decode(self, data: bytes | str) -> dict[str, Any]:
        """Return the record; raises OperationalError for what is none, or isn't accepted."""
        ...


class KeyValueStore(ResultStore):
    """Implements ResultStore over get, set and delete of keys, which are Celery's.

    ``prefix`` is the option global_keyprefix of result_backend_transport_options.
    """

    def __init__(self, codec: RecordCodec, *, prefix: str = "") -> None:
        if prefix and prefix[-1] not in ":_-.":
            prefix += "_"
        self._codec = codec
        self._task_prefix = f"{prefix}celery-task-meta-"
        self._group_prefix = f"{prefix}celery-taskset-meta-"

    @abstractmethod
    def get_all(self, keys: Sequence[str]) -> Sequence[bytes | str | None]:
        """Return the value of each key; raises OperationalError."""

    def get_before_set(self, key: str) -> bytes | str | None:
        """Return the value that ``set`` may replace; where ``set`` tries again, so does this."""
        return self.get_all([key])[0]

    @abstractmethod
    def set(self, key: str, value: bytes) -> None:
        """Set a key's value, tell who waits for it; raises OperationalError."""

    @abstractmethod
    def delete(self, keys: Sequence[str]) -> None:
        """Delete keys; raises OperationalError."""

    def task_key(self, task_id: str) -> str:
        """Return the key of a task's record."""
        return self._task_prefix + task_id

    def group_key(self, group_id: str) -> str:
        """Return the key of a group's record."""
        return self._group_prefix + group_id

    def read(self, ids: Sequence[str]) -> Mapping[str, StoredResult | None]:
        if not ids:
            return {}
        values = self.get_all([self.task_key(task_id) for task_id in ids])
        return {
            task_id: None if value is None else self.result_in(value)
            for task_id, value in zip(ids, values, strict=True)
        }

    def result_in(self, value: bytes | str) -> StoredResult:
        """Return the result that a record's bytes hold; raises OperationalError."""
        return result_of(self._codec.decode(value))

    def write(self, task_id: str, reply: Mapping[str, Any]) -> None:
        # Celery's rule: what a lost worker says late replaces no success.
        key = self.task_key(task_id)
        value = self.get_before_set(key)
        if value is None or self.result_in(value).state != SUCCESS:
            self.set(key, self._codec.encode(record_of(task_id, reply)))

    def forget(self, ids: Sequence[str]) -> None:
        if ids:
            self.delete([self.task_key(task_id) for task_id in ids])

    def save_group(self, group_id: str, tree: Tree) -> None:
        self.set(self.group_key(group_id), self._codec.encode({"result": tree}))

    def load_group(self, group_id: str) -> Tree | None:
        [value] = self.get_all([self.group_key(group_id)])
        return None if value is None else self._codec.decode(value).get("result")

    def delete_group(self, group_id: str) -> None:
        self.delete([self.group_key(group_id)])
