"""The backends there are, by the names and URLs of Celery's setting result_backend."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any

from emq_compat.backends.base import ResultStore
from emq_compat.backends.disabled import DisabledStore
from emq_compat.backends.emq import BrokerStore
from emq_compat.shim.backend import Backend
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.retention import seconds_kept

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = [
    "DisabledBackend",
    "EmqBackend",
    "backend_of",
    "by_name",
    "by_url",
]


class EmqBackend(Backend):
    """Our broker keeps the results: that of the app, or the one that a URL names."""

    def _new_store(self, app: Celery, url: str | None) -> ResultStore:
        if app.over_kombu:
            raise ImproperlyConfigured(
                "results are kept by our broker only where tasks are published to it: with "
                "RabbitMQ or Redis as the broker name another result_backend, redis://… or db+…"
            )
        kept_s = seconds_kept(app.conf)
        if url and not url.endswith("://") and url != app.broker_url:
            from emq_compat.client import client_for  # noqa: PLC0415 - it brings ZeroMQ

            return BrokerStore(lambda: client_for(url), url=url, keep_s=kept_s)
        return BrokerStore(lambda: app.client, url=url or "emq://", keep_s=kept_s)


class DisabledBackend(Backend):
    """No results are kept."""

    def _new_store(self, app: Celery, url: str | None) -> ResultStore:
        return DisabledStore()

    def as_uri(self, include_password: bool = False) -> str:
        """Return ``disabled://``."""
        return DisabledStore.url

    def note_revoked(self, task_id: str) -> None:
        """Nothing."""


#: Name → ``module:class``.
_KINDS = {
    "emq": "emq_compat.shim.backend_kinds:EmqBackend",
    "emq+ipc": "emq_compat.shim.backend_kinds:EmqBackend",
    "disabled": "emq_compat.shim.backend_kinds:DisabledBackend",
    "cache": "emq_compat.shim.backend_stores:CacheBackend",
    "redis": "emq_compat.shim.backend_stores:RedisBackend",
    "rediss": "emq_compat.shim.backend_stores:RedisBackend",
    "socket": "emq_compat.shim.backend_stores:RedisBackend",
    "rpc": "emq_compat.shim.backend_stores:RpcBackend",
    "db": "emq_compat.shim.backend_stores:DatabaseBackend",
    "database": "emq_compat.shim.backend_stores:DatabaseBackend",
}
#: Name → the package whose entry point it is.
_PACKAGES = {"django-db": "django-celery-results", "django-cache": "django-celery-results"}
_REFUSED = {
    "amqp": "results over amqp:// are gone from Celery, too",
    "sentinel": "Redis Sentinel isn't supported: name the master by redis://",
}
#: Celery's other stores, which aren't there.
_ABSENT = frozenset(
    {
        "arangodb", "azureblockblob", "cassandra", "consul", "cosmosdbsql", "couchbase", "couchdb",
        "dynamodb", "elasticsearch", "file", "gs", "mongodb", "riak", "s3",
    }
)  # fmt: skip


def by_name(backend: str | None = None, loader: object = None, **kwargs: Any) -> type[Backend]:
    """Return the class of a backend: by its short name, or by ``module.class`` or ``module:class``.

    Short names are ours, or those that packages give in the entry points ``celery.result_backends``.

    Raises:
        ImproperlyConfigured: there is none; the message says what is there.
    """
    name = backend or "disabled"
    path = _KINDS.get(name) or _entry_point(name) or name
    module, _, attribute = path.rpartition(":" if ":" in path else ".")
    if name in _REFUSED:
        raise ImproperlyConfigured(_REFUSED[name])
    if not module:
        if name in _PACKAGES:
            raise ImproperlyConfigured(f"the result backend {name!r} is one of the package {_PACKAGES[name]}")
        if name in _ABSENT:
            raise ImproperlyConfigured(f"the result backend {name!r} isn't supported; there are: {_known()}")
        near = difflib.get_close_matches(name, _KINDS, n=1)
        hint = f" (is {near[0]} meant?)" if near else ""
        raise ImproperlyConfigured(f"there is no result backend {name!r}{hint}; there are: {_known()}")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as exc:
        raise ImproperlyConfigured(f"the result backend {name!r} can't be imported: {exc}") from exc
    if not isinstance(cls, type) or not issubclass(cls, Backend):
        raise ImproperlyConfigured(f"the result backend {name!r} is no class of a backend")
    return cls


def _entry_point(name: str) -> str | None:
    """Return ``module:class`` that an installed package has for a short name; None: none has."""
    if "." in name or ":" in name:
        return None
    from importlib.metadata import entry_points  # noqa: PLC0415 - few need it

    return next((one.value for one in entry_points(group="celery.result_backends", name=name)), None)


def _known() -> str:
    return ", ".join(f"{name}://" for name in _KINDS)


def by_url(backend: str | None = None, loader: object = None) -> tuple[type[Backend], str | None]:
    """Return the class and the URL of a backend; of ``db+sqlite:///x`` the URL is ``sqlite:///x``.

    Raises:
        ImproperlyConfigured: as ``by_name``.
    """
    if not backend or "://" not in backend:
        return by_name(backend), None
    scheme = backend.partition("://")[0]
    if "+" in scheme and scheme not in _KINDS:
        kind, _, url = backend.partition("+")
        return by_name(kind), url
    return by_name(scheme), backend


def backend_of(app: Celery, said: Any = None) -> Backend:
    """Make the backend that ``said`` (by default the app's setting) names: a URL, a name, a class.

    Nothing said: our broker keeps the results; a broker of kombu's keeps none.

    Raises:
        ImproperlyConfigured: as ``by_name``, or its library is missing.
    """
    said = said or app.conf.result_backend
    if isinstance(said, Backend):
        return said
    if isinstance(said, type):
        return said(app=app)  # type: ignore[no-any-return]
    cls, url = by_url(said or ("disabled" if app.over_kombu else "emq"))
    return cls(app=app, url=url)
