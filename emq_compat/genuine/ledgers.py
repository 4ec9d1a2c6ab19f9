"""Where the beats of a genuine app have their lock."""

from __future__ import annotations

import os
from typing import Any

from emq_compat.client import client_for
from emq_compat.leading.base import Ledger, life_from, new_owner
from emq_compat.leading.broker import BrokerLedger
from emq_compat.leading.database import DatabaseLedger
from emq_compat.leading.redis import RedisLedger

__all__ = ["ledger_of"]


def ledger_of(app: Any, schedule: str) -> Ledger | None:
    """Return the ledger of an app's schedule; None: nothing that it has can keep one.

    It is in the broker, if that is ours; else in the result backend, if that is ours, Redis or SQL; else in
    the broker, if that is Redis.
    """
    connection = app.connection_for_write()
    owner, life_s = new_owner(), life_from(os.environ)
    url = connection.as_uri(include_password=True)
    if _is_ours(url):
        return BrokerLedger(client_for(url), schedule, owner, life_s, url=url)
    backend = app.backend
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(backend).__mro__}
    if "celery.backends.redis.RedisBackend" in kinds:
        prefix = str((app.conf.result_backend_transport_options or {}).get("global_keyprefix") or "")
        where = backend.as_uri()
        return RedisLedger(backend.client, schedule, owner, life_s, url=where, prefix=prefix)
    if "celery.backends.database.DatabaseBackend" in kinds:
        return DatabaseLedger(schedule, owner, life_s, url=backend.url, engine_options=backend.engine_options)
    results = str(app.conf.result_backend or "")
    if _is_ours(results):
        return BrokerLedger(client_for(results), schedule, owner, life_s, url=results)
    if url.partition("://")[0] in ("redis", "rediss"):
        prefix = str((app.conf.broker_transport_options or {}).get("global_keyprefix") or "")
        tls = app.conf.broker_use_ssl
        options = tls if isinstance(tls, dict) else {}
        return RedisLedger.at(url, schedule, owner, life_s, prefix=prefix, **options)
    return None


def _is_ours(url: str) -> bool:
    return url.partition("://")[0] in ("emq", "emq+ipc")
