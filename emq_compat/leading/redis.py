"""The ledger in Redis: a key with a time to live, and a hash of last runs beside it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from emq_compat.backends.base import without_password
from emq_compat.backends.redis import library_url
from emq_compat.errors import ConfigurationError, OperationalError
from emq_compat.extras import require
from emq_compat.leading.base import Held, LastRun, Ledger

__all__ = ["RedisLedger"]

T = TypeVar("T")

_LEAD = """
local has = redis.call('get', KEYS[1])
if has == ARGV[1] then
  redis.call('pexpire', KEYS[1], ARGV[2])
  return 1
end
if has then
  return 0
end
redis.call('set', KEYS[1], ARGV[1], 'px', ARGV[2])
return 2
"""
_RESIGN = """
if redis.call('get', KEYS[1]) == ARGV[1] then
  return redis.call('del', KEYS[1])
end
return 0
"""
_NOTE = """
if redis.call('get', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('pexpire', KEYS[1], ARGV[2])
redis.call('hset', KEYS[2], ARGV[3], ARGV[4])
return 1
"""
_HELD = {0: Held.NO, 1: Held.KEPT, 2: Held.TAKEN}


class RedisLedger(Ledger):
    """Implements Ledger by three scripts, each of which Redis runs as one step.

    Args:
        client: of the library redis; threads share it.
        url: of the server, to be told.
        prefix: put before each key (global_keyprefix).
    """

    def __init__(
        self, client: Any, schedule: str, owner: str, life_s: float, *, url: str, prefix: str = ""
    ) -> None:
        super().__init__(schedule, owner, life_s)
        import redis  # noqa: PLC0415 - an optional extra, which the client is of

        self.where = f"Redis at {without_password(url)}"
        self._errors = (redis.RedisError, OSError)
        self._client = client
        # The braces keep both on one node of a cluster.
        self._lock = f"{prefix}emq-beat-{{{schedule}}}-leader"
        self._runs = f"{prefix}emq-beat-{{{schedule}}}-runs"
        self._lead, self._resign, self._note = (
            client.register_script(script) for script in (_LEAD, _RESIGN, _NOTE)
        )

    @classmethod
    def at(
        cls, url: str, schedule: str, owner: str, life_s: float, *, prefix: str = "", **options: Any
    ) -> RedisLedger:
        """Return one with a connection of its own; ``options`` are those of the library's connection.

        Raises:
            ConfigurationError: the library is missing, or the URL can't be used.
        """
        require(f"a lock for beats in {without_password(url)}", ("redis",), "emq-compat[redis]")
        import redis  # noqa: PLC0415 - an optional extra

        try:
            client = redis.Redis.from_url(library_url(url), **options)
        except (ValueError, TypeError) as exc:
            raise ConfigurationError(f"a lock for beats in {without_password(url)}: {exc}") from exc
        return cls(client, schedule, owner, life_s, url=url, prefix=prefix)

    def lead(self) -> Held:
        life_ms = int(self.life_s * 1000)
        return _HELD[self._told(lambda: self._lead(keys=[self._lock], args=[self.owner, life_ms]))]

    def resign(self) -> None:
        self._told(lambda: self._resign(keys=[self._lock], args=[self.owner]))

    def runs(self, names: Collection[str]) -> dict[str, LastRun]:
        if not names:
            return {}
        found = self._told(lambda: self._client.hmget(self._runs, list(names)))
        now = self._now()
        return {
            name: _run_in(_text(value), now)
            for name, value in zip(names, found, strict=True)
            if value is not None
        }

    def begin(self, entries: Mapping[str, LastRun], *, only: bool) -> None:
        now = self._now()

        def do() -> None:
            gone = [key for key in self._client.hkeys(self._runs) if only and _text(key) not in entries]
            if gone:
                self._client.hdel(self._runs, *gone)
            for name, run in entries.items():
                self._client.hsetnx(self._runs, name, _text_of(run, min(run.at, now)))

        self._told(do)

    def note(self, name: str, run: LastRun) -> bool:
        args = [self.owner, int(self.life_s * 1000), name, _text_of(run, self._now())]
        return bool(self._told(lambda: self._note(keys=[self._lock, self._runs], args=args)))

    def close(self) -> None:
        self._client.close()

    def _now(self) -> float:
        seconds, micros = self._told(self._client.time)
        return float(seconds) + float(micros) / 1e6

    def _told(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except self._errors as exc:
            raise OperationalError(f"{self.where}: {exc}") from exc


def _text_of(run: LastRun, noted_at: float) -> str:
    return f"{run.at!r} {run.total} {noted_at!r}"


def _run_in(text: str, now: float) -> LastRun:
    at, total, noted_at = text.split()
    return LastRun(at=float(at), total=int(total), age_s=max(0.0, now - float(noted_at)))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
