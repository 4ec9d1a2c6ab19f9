"""``celery.backends.base.KeyValueStoreBackend``: results in a store of a project's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from emq_compat.backends.base import ResultStore
from emq_compat.backends.keyvalue import KeyValueStore
from emq_compat.shim.backend import Backend
from emq_compat.shim.record_codec import codec_of
from emq_compat.shim.retention import seconds_kept

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["KeyValueStoreBackend"]


class KeyValueStoreBackend(Backend):
    """Keeps results as records under Celery's keys; a subclass has ``get``, ``set`` and ``delete``.

    ``result_backend="module.Class://…"`` chooses it; it is made with ``app`` and ``url``. Results are asked
    for every ``interval`` seconds. ``mget`` may be overridden where many keys are read at once; what Celery
    needs for chords (``incr``, ``expire``) is never called, since the broker counts them.

    Attributes:
        expires: seconds after which ``set`` should have what it stores go (result_expires); None: never.
    """

    def __init__(self, app: Celery, url: str | None = None, **kwargs: Any) -> None:
        super().__init__(app, url=url, **kwargs)
        kept_s = 86_400.0 if seconds_kept(app.conf) is None else seconds_kept(app.conf)
        self.expires: int | None = int(kept_s) if kept_s else None

    def _new_store(self, app: Celery, url: str | None) -> ResultStore:
        options = app.conf.result_backend_transport_options or {}
        return _Hooks(self, app, url or "", str(options.get("global_keyprefix") or ""))

    def get(self, key: str) -> bytes | str | None:
        """Return a key's value; None: there is none."""
        raise NotImplementedError(f"{type(self).__name__} has no get()")

    def mget(self, keys: Iterable[str]) -> Sequence[bytes | str | None]:
        """Return the value of each key."""
        return [self.get(key) for key in keys]

    def set(self, key: str, value: bytes) -> Any:
        """Store a key's value."""
        raise NotImplementedError(f"{type(self).__name__} has no set()")

    def delete(self, key: str) -> Any:
        """Delete a key; one that isn't there doesn't matter."""
        raise NotImplementedError(f"{type(self).__name__} has no delete()")

    def get_key_for_task(self, task_id: str) -> str:
        """Return the key of a task's record."""
        return self._hooks.task_key(task_id)

    def get_key_for_group(self, group_id: str) -> str:
        """Return the key of a group's record."""
        return self._hooks.group_key(group_id)

    @property
    def _hooks(self) -> _Hooks:
        assert isinstance(self.store, _Hooks)
        return self.store


class _Hooks(KeyValueStore):
    """Implements KeyValueStore over a backend's methods."""

    def __init__(self, backend: KeyValueStoreBackend, app: Celery, url: str, prefix: str) -> None:
        super().__init__(codec_of(app), prefix=prefix)
        self.url = url
        self._backend = backend

    def get_all(self, keys: Sequence[str]) -> Sequence[bytes | str | None]:
        return self._backend.mget(keys)

    def set(self, key: str, value: bytes) -> None:
        self._backend.set(key, value)

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._backend.delete(key)
