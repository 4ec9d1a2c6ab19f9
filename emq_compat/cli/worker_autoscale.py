"""``--autoscale``: which class scales a worker, between which limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from emq_compat.config import WorkerConfig
from emq_compat.errors import ConfigurationError
from emq_compat.jobmanager import JobManager
from emq_compat.manager.autoscale import Autoscaler
from emq_compat.pool.base import Pool
from emq_compat.shim.symbols import symbol_by_name

__all__ = ["autoscaler_of"]

#: What worker_autoscaler says unless it is set: ours has that name where no Celery is installed.
_DEFAULT = "celery.worker.autoscale:Autoscaler"


def autoscaler_of(
    conf: Mapping[str, Any], config: WorkerConfig
) -> Callable[[Pool, JobManager], Autoscaler] | None:
    """Return what makes the worker's autoscaler; None: it doesn't scale itself.

    Raises:
        ConfigurationError: worker_autoscaler names no autoscaler.
    """
    if config.autoscale is None:
        return None
    most, least = config.autoscale
    written = conf["worker_autoscaler"]
    try:
        cls = Autoscaler if written == _DEFAULT else symbol_by_name(written)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ConfigurationError(f"worker_autoscaler {written!r} can't be imported: {exc}") from exc
    if not (isinstance(cls, type) and issubclass(cls, Autoscaler)):
        raise ConfigurationError(
            f"worker_autoscaler {written!r} is no subclass of celery.worker.autoscale.Autoscaler"
        )
    return lambda pool, manager: cls(pool, most, least, worker=manager)
