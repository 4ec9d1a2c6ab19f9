"""Makes a pool by its name on the command line (-P) or in ``worker_pool``."""

from __future__ import annotations

from importlib import import_module
from typing import Final, NamedTuple

from emq_compat.errors import ConfigurationError
from emq_compat.pool.base import Pool, PoolOptions, Work

__all__ = ["POOL_NAMES", "checked_name", "make_pool"]


class _Kind(NamedTuple):
    """Where a pool is: its module is imported when one is made, as that of asyncio takes 2 MB."""

    name: str
    module: str
    kind: str


_PREFORK: Final = _Kind("prefork", "prefork", "PreforkPool")
_POOLS: Final = {
    "prefork": _PREFORK,
    "processes": _PREFORK,  # Celery's alias
    "threads": _Kind("threads", "threads", "ThreadsPool"),
    "solo": _Kind("solo", "solo", "SoloPool"),
    "asyncio": _Kind("asyncio", "aio", "AsyncioPool"),
}
_GREEN = ("gevent", "eventlet")

#: What -P takes.
POOL_NAMES = tuple(_POOLS)


def make_pool(name: str, options: PoolOptions, work: Work) -> Pool:
    """Return the pool of that name, not started.

    Raises:
        ConfigurationError: there's no such pool; the message names those there are.
    """
    found = _POOLS[checked_name(name)]
    made: Pool = getattr(import_module(f"emq_compat.pool.{found.module}"), found.kind)(options, work)
    return made


def checked_name(name: str) -> str:
    """Return the pool's own name, where ``name`` may be an alias of it; raises as make_pool does."""
    if name in _GREEN:
        instead = "use -P asyncio for async def tasks, -P threads for others that wait"
        raise ConfigurationError(f"there is no {name} pool: {instead}")
    if name not in _POOLS:
        raise ConfigurationError(f"the pool {name!r} is unknown; known: {', '.join(POOL_NAMES)}")
    return _POOLS[name].name
