"""Results in this process's memory, ``cache+memory://``, or in memcached, ``cache+memcached://host:port``."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from emq_compat.backends.keyvalue import KeyValueStore, RecordCodec
from emq_compat.errors import OperationalError
from emq_compat.extras import require
from emq_compat.message import FINAL_STATES
from emq_compat.stored import StoredResult

__all__ = ["MemcachedStore", "MemoryStore"]

#: Results in memory; the oldest make room.
_MOST = 5_000
#: memcached takes longer times for dates.
_LONGEST_S = 30 * 24 * 3600


class _Memory:
    """What all memory stores of a process share, as in Celery."""

    def __init__(self) -> None:
        self.values: OrderedDict[str, tuple[bytes, float | None]] = OrderedDict()
        self.changed = threading.Condition()


_memory = _Memory()


class MemoryStore(KeyValueStore):
    """Implements ResultStore in this process's memory: for tests, and for tasks that run in place.

    The latest 5,000 results and groups are kept, ``expires_s`` seconds each (0: without end).
    """

    pushes: ClassVar[bool] = True

    def __init__(self, codec: RecordCodec, *, url: str = "cache+memory://", expires_s: float = 0) -> None:
        super().__init__(codec)
        self.url = url
        self._expires_s = expires_s

    def get_all(self, keys: Sequence[str]) -> Sequence[bytes | str | None]:
        now = time.monotonic()
        found: list[bytes | None] = []
        with _memory.changed:
            for key in keys:
                value, expires_at = _memory.values.get(key, (None, None))
                if expires_at is not None and expires_at <= now:
                    del _memory.values[key]
                    value = None
                found.append(value)
        return found

    def set(self, key: str, value: bytes) -> None:
        expires_at = time.monotonic() + self._expires_s if self._expires_s else None
        with _memory.changed:
            _memory.values[key] = value, expires_at
            _memory.values.move_to_end(key)
            if len(_memory.values) > _MOST:
                _memory.values.popitem(last=False)
            _memory.changed.notify_all()

    def delete(self, keys: Sequence[str]) -> None:
        with _memory.changed:
            for key in keys:
                _memory.values.pop(key, None)

    def wait(
        self, ids: Iterable[str], timeout_s: float | None, interval_s: float = 0.5
    ) -> Iterator[tuple[str, StoredResult]]:
        pending = dict.fromkeys(ids)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while pending:
            with _memory.changed:
                final = self._final(pending)
                if not final:
                    left_s = None if deadline is None else deadline - time.monotonic()
                    if left_s is not None and left_s <= 0:
                        raise TimeoutError(f"the result of {next(iter(pending))} is not there yet")
                    _memory.changed.wait(left_s)
            for task_id, stored in final:
                del pending[task_id]
                yield task_id, stored

    def _final(self, ids: Iterable[str]) -> list[tuple[str, StoredResult]]:
        read = self.read(list(ids))
        return [(i, stored) for i, stored in read.items() if stored and stored.state in FINAL_STATES]


class MemcachedStore(KeyValueStore):
    """Implements ResultStore over memcached, by the library pymemcache.

    Args:
        servers: ``host:port`` each; more than one are chosen from by the key.
        expires_s: seconds that results are kept, 0: without end.
        options: arguments of pymemcache's client (cache_backend_options).
    """

    def __init__(
        self,
        codec: RecordCodec,
        servers: Sequence[str],
        *,
        url: str,
        expires_s: float = 0,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(codec)
        require("cache+memcached://…", ("pymemcache",), "pymemcache")
        from pymemcache import HashClient, MemcacheError  # noqa: PLC0415 - an optional extra

        self.url = url
        self._errors = (OSError, MemcacheError)
        self._expires_s = min(int(expires_s), _LONGEST_S)
        # Kept: memcached forgets by itself.
        self._client = HashClient(list(servers), use_pooling=True, **(options or {}))

    def get_all(self, keys: Sequence[str]) -> Sequence[bytes | str | None]:
        found = self._told(self._client.get_many, list(keys))
        return [found.get(key) for key in keys]

    def set(self, key: str, value: bytes) -> None:
        self._told(self._client.set, key, value, self._expires_s)

    def delete(self, keys: Sequence[str]) -> None:
        self._told(self._client.delete_many, list(keys))

    def close(self) -> None:
        self._client.close()

    def _told(self, ask: Any, *args: Any) -> Any:
        try:
            return ask(*args)
        except self._errors as exc:
            raise OperationalError(f"the result store {self.url} doesn't answer: {exc}") from exc
