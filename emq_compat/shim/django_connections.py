"""A worker's connections to a Django project's databases and caches: closed around tasks, not shared."""

from __future__ import annotations

import importlib
import threading
from typing import Any

__all__ = ["Connections"]


class _Uses(threading.local):
    count = 0


class Connections:
    """The connections of the thread that calls; Django has others for each thread."""

    def __init__(self) -> None:
        self._db = importlib.import_module("django.db")
        self._settings = importlib.import_module("django.conf").settings
        self._uses = _Uses()
        #: What a forked process inherited: never used, and never freed, which would close it.
        self._inherited: list[Any] = []

    def close_used(self, *, pools: bool = False) -> None:
        """Close them, unless CELERY_DB_REUSE_MAX says that they serve more tasks; called twice a task."""
        most = getattr(self._settings, "CELERY_DB_REUSE_MAX", None)
        if most:
            self._uses.count += 1
            if self._uses.count <= most * 2:
                return
            self._uses.count = 1
        self.close(pools=pools)

    def close_idle(self, *, pools: bool = False) -> None:
        """Close them, unless CELERY_DB_REUSE_MAX says that they serve more tasks; between two tasks."""
        if not getattr(self._settings, "CELERY_DB_REUSE_MAX", None):
            self.close(pools=pools)

    def close(self, *, pools: bool = False) -> None:
        """Close those that aren't inside of ``atomic``; with ``pools`` their pools (Django's ``pool``), too.

        Raises:
            DatabaseError: closing one failed, for another reason than that it was closed already.
        """
        for connection in self._open():
            if connection.in_atomic_block:
                continue
            try:
                connection.close()
            except self._db.InterfaceError:
                continue
            except self._db.DatabaseError as exc:
                if "closed" not in str(exc) and "not connected" not in str(exc):
                    raise
            if pools and getattr(connection, "pool", None):
                connection.close_pool()

    def forget(self) -> None:
        """Leave what this process was forked with to its parent, untouched: the sockets are shared.

        Closing one here would say good-bye on the parent's connection.
        """
        for connection in self._open():
            self._inherited.append(connection)
            del self._db.connections[connection.alias]
            pools = getattr(type(connection), "_connection_pools", None)
            if pools:
                self._inherited.append(dict(pools))
                pools.clear()
        caches = importlib.import_module("django.core.cache").caches
        for alias in caches:
            if hasattr(caches._connections, alias):
                self._inherited.append(caches[alias])
                del caches[alias]

    def close_caches(self) -> None:
        """Have the caches that were used end what they hold, as at the end of a request."""
        importlib.import_module("django.core.cache").close_caches()

    def _open(self) -> list[Any]:
        return list(self._db.connections.all(initialized_only=True))
