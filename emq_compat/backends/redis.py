"""Results in Redis, in Celery's keys: genuine Celery clients read ours, and we read its workers'."""

from __future__ import annotations

import logging
import math
import select
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from emq_compat.backends.base import without_password
from emq_compat.backends.keyvalue import KeyValueStore, RecordCodec
from emq_compat.backends.redis_chords import RedisChords
from emq_compat.backends.watcher import PipedWatcher, Watcher
from emq_compat.errors import ConfigurationError, OperationalError
from emq_compat.extras import require
from emq_compat.message import FINAL_STATES
from emq_compat.stored import StoredResult
from emq_compat.words import amount

__all__ = ["RedisStore", "library_url"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Values of ssl_cert_reqs as Celery's URLs have them.
_CERT_REQS = {"CERT_NONE": "none", "CERT_OPTIONAL": "optional", "CERT_REQUIRED": "required"}


class RedisStore(KeyValueStore):
    """Implements ResultStore over Redis, by the library redis.

    Each record is set and published on a channel of the key's name in one transaction, so that waiting needs
    no polling: one subscribes to the channel, then reads the key once.

    Args:
        url: ``redis://``, ``rediss://`` or ``socket://`` as Celery has it.
        prefix: put before each key (global_keyprefix).
        expires_s: seconds that a record is kept, 0: without end.
        options: arguments of the library's connection.
        retry_policy: how often a write is tried again where Redis can't be reached: max_retries (20; None:
            without end), interval_start (0), interval_step (1) and interval_max (1), in seconds.
        chord_options: arguments of RedisChords.

    Raises:
        ConfigurationError: the library is missing, or the URL can't be used.
    """

    pushes: ClassVar[bool] = True

    def __init__(
        self,
        codec: RecordCodec,
        *,
        url: str,
        prefix: str = "",
        expires_s: float = 0,
        options: Mapping[str, Any] | None = None,
        retry_policy: Mapping[str, Any] | None = None,
        chord_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(codec, prefix=prefix)
        require(f"{url.partition('://')[0]}://…", ("redis",), "emq-compat[redis]")
        import redis  # noqa: PLC0415 - an optional extra

        self.url = url
        self._expires_s = int(expires_s)
        policy = {"max_retries": 20, "interval_start": 0, "interval_step": 1, "interval_max": 1}
        self._policy: dict[str, Any] = {**policy, **(retry_policy or {})}
        self._errors = (redis.RedisError, OSError)
        self._cut = (redis.ConnectionError, redis.TimeoutError, OSError)
        try:
            # Connections are made when they are needed, and again in a process that was forked.
            pool = redis.ConnectionPool.from_url(library_url(url), **(options or {}))
        except (ValueError, TypeError) as exc:
            raise ConfigurationError(f"result_backend {without_password(url)}: {exc}") from exc
        self.client: Any = redis.Redis(connection_pool=pool)
        self.chords = RedisChords(
            self.client, codec, tried=self._tried, group_key=self.group_key, **(chord_options or {})
        )

    def get_all(self, keys: Sequence[str]) -> Sequence[bytes | str | None]:
        values: list[bytes | None] = self._told(lambda: self.client.mget(keys))
        return values

    def get_before_set(self, key: str) -> bytes | None:
        value: bytes | None = self._tried(lambda: self.client.get(key))
        return value

    def set(self, key: str, value: bytes) -> None:
        def do() -> None:
            with self.client.pipeline() as pipe:
                pipe.set(key, value, ex=self._expires_s or None)
                pipe.publish(key, value)
                pipe.execute()

        self._tried(do)

    def delete(self, keys: Sequence[str]) -> None:
        self._told(lambda: self.client.delete(*keys))

    def wait(
        self, ids: Iterable[str], timeout_s: float | None, interval_s: float = 0.5
    ) -> Iterator[tuple[str, StoredResult]]:
        pending = dict.fromkeys(ids)
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        listener = Listener(self)
        try:
            listener.listen(pending)
            while pending:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError(f"the result of {next(iter(pending))} is not there yet")
                for task_id, stored in listener.arrived(left_s):
                    if task_id in pending:
                        del pending[task_id]
                        yield task_id, stored
        finally:
            listener.close()

    def _new_watcher(self) -> Watcher:
        return RedisWatcher(self)

    def close(self) -> None:
        self.client.close()
        self.client.connection_pool.disconnect()

    def task_of(self, key: str) -> str:
        """Return the id of the task with this key."""
        return key[len(self._task_prefix) :]

    def cut(self, exc: BaseException) -> bool:
        """Return whether an exception says that Redis can't be reached now."""
        found: bool = isinstance(exc, self._cut)
        return found

    def _told(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except self._errors as exc:
            raise OperationalError(f"Redis at {without_password(self.url)}: {exc}") from exc

    def _tried(self, do: Callable[[], T]) -> T:
        """Do something, and again as the retry policy says; return what it returned."""
        most = self._policy["max_retries"]
        pause_s = self._policy["interval_start"]
        tries = 0
        while True:
            try:
                return do()
            except self._cut as exc:
                if most is not None and tries >= most:
                    raise OperationalError(
                        f"Redis at {without_password(self.url)}, tried {amount(tries + 1, 'time')}: {exc}"
                    ) from exc
                tries += 1
                logger.warning("Redis at %s can't be reached: %s", without_password(self.url), exc)
                time.sleep(pause_s)
                pause_s = min(pause_s + self._policy["interval_step"], self._policy["interval_max"])
            except self._errors as exc:
                raise OperationalError(f"Redis at {without_password(self.url)}: {exc}") from exc


class Listener:
    """A subscription to the channels of some tasks; for one thread."""

    #: Tries to reach Redis, a second apart, before an error is one.
    TRIES = 20

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._channels: dict[str, None] = {}
        self._pubsub: Any = None
        self._failures = 0

    def listen(self, ids: Iterable[str]) -> None:
        """Listen to these, too."""
        new = dict.fromkeys(map(self._store.task_key, ids))
        self._channels.update(new)
        if self._pubsub is not None and new:
            self._said(lambda: self._pubsub.subscribe(*new))

    def unlisten(self, ids: Iterable[str]) -> None:
        """Don't listen to these any more."""
        gone = [key for key in map(self._store.task_key, ids) if key in self._channels]
        for key in gone:
            del self._channels[key]
        if self._pubsub is not None and gone:
            self._said(lambda: self._pubsub.unsubscribe(*gone))

    def arrived(self, timeout_s: float, wake_fd: int | None = None) -> list[tuple[str, StoredResult]]:
        """Return final results; none: not within the time, or ``wake_fd`` can be read.

        Raises:
            OperationalError: Redis can't be reached, tried for some 20 s.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            found: list[tuple[str, StoredResult]] = self._said(self._taken)
            if found:
                return found
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return []
            if self._pubsub is None:
                time.sleep(min(left_s, 1.0))
                continue
            poll = select.poll()
            socket = self._pubsub.connection._sock
            if socket is None:
                continue
            poll.register(socket, select.POLLIN)
            if wake_fd is not None:
                poll.register(wake_fd, select.POLLIN)
            ready = poll.poll(math.ceil(min(left_s, 3600) * 1000))
            if any(fd == wake_fd for fd, _ in ready):
                return []

    def _taken(self) -> list[tuple[str, StoredResult]]:
        """Return what has come without waiting for more."""
        if self._pubsub is None:
            pubsub = self._store.client.pubsub()
            self._pubsub = pubsub
            pubsub.subscribe(*self._channels)
        found: list[tuple[str, StoredResult]] = []
        confirmed: list[str] = []
        while (message := self._pubsub.get_message(timeout=0)) is not None:
            key = _text(message["channel"])
            if message["type"] == "subscribe":
                confirmed.append(self._store.task_of(key))
            elif message["type"] == "message":
                found.append((self._store.task_of(key), self._store.result_in(message["data"])))
        self._failures = 0
        # What was set before the subscription held is read now; what comes later is pushed.
        found += [(i, stored) for i, stored in self._store.read(confirmed).items() if stored is not None]
        return [(task_id, stored) for task_id, stored in found if stored.state in FINAL_STATES]

    def _said(self, do: Callable[[], Any]) -> Any:
        """Do something; where Redis is gone, the next ``arrived`` begins anew."""
        try:
            return do()
        except Exception as exc:
            cause = exc.__cause__ if isinstance(exc, OperationalError) else exc
            if cause is None or not self._store.cut(cause):
                raise
            self._failures += 1
            where = without_password(self._store.url)
            if self._failures >= self.TRIES:
                raise OperationalError(f"Redis at {where} can't be reached: {exc}") from exc
            if self._failures == 1:
                count = amount(len(self._channels), "result")
                logger.warning("still waiting for %s: Redis at %s: %s", count, where, exc)
            self.close()
            return []

    def close(self) -> None:
        """End the subscription; ``arrived`` begins it again."""
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            pubsub.close()


class RedisWatcher(PipedWatcher):
    """Tells of results that Redis pushes."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        super().__init__("results in Redis")

    def _begin_anew(self) -> None:
        super()._begin_anew()
        self._listener = Listener(self._store)

    def _arrived(
        self, new: set[str], gone: set[str], pending: list[str]
    ) -> Iterable[tuple[str, StoredResult]]:
        self._listener.unlisten(gone)
        self._listener.listen(new)
        try:
            return self._listener.arrived(3600.0, self.wake_fd)
        except OperationalError as exc:
            logger.error("still waiting for %s: %s", amount(len(pending), "result"), exc)
            return []
        finally:
            self._woken()

    def _finish(self, gone: set[str]) -> None:
        self._listener.close()
        self._listener = Listener(self._store)
        super()._finish(gone)


def library_url(url: str) -> str:
    """Return Celery's URL as the library redis has it."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    if parts.scheme == "socket":
        database = query.pop("virtual_host", None)
        if database is not None:
            query["db"] = database.strip("/")
        return urlunsplit(("unix", parts.netloc, parts.path, urlencode(query), ""))
    if "ssl_cert_reqs" in query:
        query["ssl_cert_reqs"] = _CERT_REQS.get(query["ssl_cert_reqs"], query["ssl_cert_reqs"])
    return urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(query), ""))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
