"""``celery.concurrency``: the pools by name."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["get_available_pool_names", "get_implementation"]

_POOLS = {
    "prefork": "prefork:PreforkPool", "processes": "prefork:PreforkPool", "solo": "solo:SoloPool",
    "threads": "threads:ThreadsPool", "asyncio": "aio:AsyncioPool",
}  # fmt: skip


def get_available_pool_names() -> tuple[str, ...]:
    """Return the names that ``-P`` takes."""
    return tuple(_POOLS)


def get_implementation(cls: Any) -> Any:
    """Return the class of a pool by its name; a class as it is.

    Raises:
        KeyError: there is no such pool; gevent and eventlet are not here.
    """
    if not isinstance(cls, str):
        return cls
    module, _, name = _POOLS[cls].partition(":")
    return getattr(importlib.import_module(f"emq_compat.pool.{module}"), name)
