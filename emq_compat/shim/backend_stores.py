"""The backends whose stores are not our broker: Redis, SQL databases, memory, memcached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from emq_compat.backends.base import ResultStore
from emq_compat.paths import callable_from_name
from emq_compat.shim.backend import Backend
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.over_kombu import connection_of
from emq_compat.shim.record_codec import codec_of
from emq_compat.shim.retention import seconds_kept

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["CacheBackend", "DatabaseBackend", "RedisBackend", "RpcBackend"]

#: Celery's default of result_expires, which our broker has as an option of its own.
_DAY_S = 86_400.0


def _expires_s(app: Celery) -> float:
    kept_s = seconds_kept(app.conf)
    return _DAY_S if kept_s is None else kept_s


def _chord_options(app: Celery, transport: Mapping[str, Any]) -> dict[str, Any]:
    """Return how chords are kept that the broker doesn't count."""
    conf, kept_s = app.conf, _expires_s(app)
    said = conf.result_chord_expires
    own_s = kept_s if said is None else said.total_seconds() if hasattr(said, "total_seconds") else said
    return {
        "claim_s": float(conf.result_chord_join_timeout or 5.0) * 2,
        "expires_s": float(own_s),
        # The header's results are read by users, too.
        "group_expires_s": max(float(own_s), kept_s) if own_s and kept_s else 0.0,
        "ordered": bool(transport.get("result_chord_ordered", True)),
    }


class RedisBackend(Backend):
    """Redis: ``redis://``, ``rediss://``, ``socket://``, or the settings redis_host and so on."""

    def _new_store(self, app: Celery, url: str | None) -> ResultStore:
        from emq_compat.backends.redis import RedisStore  # noqa: PLC0415 - only where it is used

        conf = app.conf
        transport: Mapping[str, Any] = conf.result_backend_transport_options or {}
        options: dict[str, Any] = {
            "socket_timeout": conf.redis_socket_timeout,
            "socket_connect_timeout": conf.redis_socket_connect_timeout,
            "socket_keepalive": conf.redis_socket_keepalive or None,
            "max_connections": conf.redis_max_connections,
            "client_name": conf.redis_client_name,
            "health_check_interval": conf.redis_backend_health_check_interval,
        }
        if not url or url.endswith("://"):
            url = f"redis://{conf.redis_host or 'localhost'}:{conf.redis_port or 6379}/{conf.redis_db or 0}"
            options["username"] = conf.redis_username
            options["password"] = conf.redis_password
        if conf.redis_backend_use_ssl:
            url = url.replace("redis://", "rediss://", 1)
            options.update(conf.redis_backend_use_ssl)
        given = {name: value for name, value in options.items() if value is not None}
        if url.startswith("socket:"):
            given.pop("socket_keepalive", None)
            given.pop("socket_connect_timeout", None)
        return RedisStore(
            codec_of(app),
            url=url,
            prefix=str(transport.get("global_keyprefix") or ""),
            expires_s=_expires_s(app),
            options=given,
            retry_policy=transport.get("retry_policy"),
            chord_options=_chord_options(app, transport),
        )


class DatabaseBackend(Backend):
    """An SQL database: ``db+URL`` with a URL of SQLAlchemy's, or the setting database_url."""

    def _new_store(self, app: Celery, url: str | None) -> ResultStore:
        from emq_compat.backends.database import DatabaseStore  # noqa: PLC0415 - only where it is used

        conf = app.conf
        url = url or conf.database_url
        if not url:
            raise ImproperlyConfigured("result_backend 'db' needs a URL, such as db+sqlite:///results.db")
        on_engine = conf.database_engine_callback
        return DatabaseStore(
            codec_of(app),
            url=url,
            extended=bool(conf.result_extended),
            expires_s=_expires_s(app),
            engine_options=conf.database_engine_options,
            table_names=conf.database_table_names,
            schemas=conf.database_table_schemas,
            create_tables=bool(conf.database_create_tables_at_setup),
            on_engine=callable_from_name(on_engine) if isinstance(on_engine, str) else on_engine,
        )


class RpcBackend(Backend):
    """Messages to whoever published the task: ``rpc://``, over a broker of kombu's only."""

    persistent: ClassVar[bool] = False

    def _new_store(self, app: Celery, url: str | None) -> ResultStore:
        from emq_compat.backends.rpc import RpcStore  # noqa: PLC0415 - only where it is used

        if not app.over_kombu:
            raise ImproperlyConfigured(
                "result_backend 'rpc://' needs RabbitMQ or Redis as the broker: ours keeps results itself"
            )
        codec = codec_of(app)

        def send(queue: str, body: bytes, task_id: str) -> None:
            client: Any = app.client
            client.publish_result(queue, body, task_id, codec.content)

        return RpcStore(codec, connect=lambda: connection_of(app), send=send, expires_s=_expires_s(app))

    def as_uri(self, include_password: bool = True) -> str:
        """Return ``rpc://``."""
        return "rpc://"


class CacheBackend(Backend):
    """Memory, ``cache+memory://``, or memcached, ``cache+memcached://HOST:PORT;HOST:PORT``."""

    def _new_store(self, app: Celery, url: str | None) -> ResultStore:
        from emq_compat.backends.cache import MemcachedStore, MemoryStore  # noqa: PLC0415 - as above

        conf = app.conf
        said = url or conf.cache_backend or ""
        kind, _, rest = said.partition("://")
        if kind == "memory":
            return MemoryStore(codec_of(app), expires_s=_expires_s(app))
        if kind in ("memcache", "memcached", "pymemcache"):
            return MemcachedStore(
                codec_of(app),
                rest.rstrip("/").split(";"),
                url=f"cache+{said}",
                expires_s=_expires_s(app),
                options=dict(conf.cache_backend_options or {}),
            )
        raise ImproperlyConfigured(
            f"there is no cache {said!r}: cache+memory:// and cache+memcached://HOST:PORT are there"
        )
