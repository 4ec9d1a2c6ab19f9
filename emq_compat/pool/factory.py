"""Makes a pool by its name on the command line (-P) or in ``worker_pool``."""

from __future__ import annotations

from emq_compat.errors import ConfigurationError
from emq_compat.pool.aio import AsyncioPool
from emq_compat.pool.base import Pool, PoolOptions, Work
from emq_compat.pool.prefork import PreforkPool
from emq_compat.pool.solo import SoloPool
from emq_compat.pool.threads import ThreadsPool

__all__ = ["POOL_NAMES", "checked_name", "make_pool"]

_POOLS: dict[str, type[PreforkPool] | type[ThreadsPool] | type[SoloPool] | type[AsyncioPool]] = {
    "prefork": PreforkPool,
    "processes": PreforkPool,  # Celery's alias
    "threads": ThreadsPool,
    "solo": SoloPool,
    "asyncio": AsyncioPool,
}
_GREEN = ("gevent", "eventlet")

#: What -P takes.
POOL_NAMES = tuple(_POOLS)


def make_pool(name: str, options: PoolOptions, work: Work) -> Pool:
    """Return the pool of that name, not started.

    Raises:
        ConfigurationError: there's no such pool; the message names those there are.
    """
    return _POOLS[checked_name(name)](options, work)


def checked_name(name: str) -> str:
    """Return the pool's own name, where ``name`` may be an alias of it; raises as make_pool does."""
    if name in _GREEN:
        instead = "use -P asyncio for async def tasks, -P threads for others that wait"
        raise ConfigurationError(f"there is no {name} pool: {instead}")
    if name not in _POOLS:
        raise ConfigurationError(f"the pool {name!r} is unknown; known: {', '.join(POOL_NAMES)}")
    return _POOLS[name].name
