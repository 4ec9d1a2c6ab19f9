"""Celery's modules: in which of our modules their names are found.

Celery's module → (our modules whose ``__all__`` are its names, further names → ``our.module:attribute``). A
name is looked up among the further ones first, then in our modules in their order. What no row gives is an
ImportError that says so.
"""

from __future__ import annotations

from typing import Final

__all__ = ["MODULES"]

_SHIM = "emq_compat.shim."


def _row(*sources: str, **names: str) -> tuple[tuple[str, ...], dict[str, str]]:
    return (
        tuple(_SHIM + source for source in sources),
        {name: where if where.startswith("emq_compat") or "kombu" in where else _SHIM + where
         for name, where in names.items()},
    )  # fmt: skip


_VERSIONS = {
    name: f"surface.release:{name}"
    for name in ("SERIES", "VERSION", "VERSION_BANNER", "__version__", "version_info", "version_info_t")
}

MODULES: Final[dict[str, tuple[tuple[str, ...], dict[str, str]]]] = {
    "celery": _row(
        Celery="app:Celery",
        Task="task:Task",
        shared_task="declare:shared_task",
        current_app="emq_compat.celery_shim:current_app",
        current_task="emq_compat.celery_shim:current_task",
        uuid="emq_compat.message:new_id",
        **_VERSIONS,
    ),
    "celery.app": _row(Celery="app:Celery", shared_task="declare:shared_task"),
    "celery.app.base": _row(Celery="app:Celery"),
    "celery.app.task": _row(Task="task:Task", Context="request:Context"),
    "celery.app.registry": _row("registry"),
    "celery.exceptions": _row("exceptions"),
    "celery.result": _row("result"),
    "celery.signals": _row("signals"),
    "celery.states": _row("states"),
    "celery.utils": _row(),
    "celery.utils.dispatch": _row("dispatch"),
    "billiard": _row(),
    "billiard.einfo": _row(ExceptionInfo="handlers:ExceptionInfo"),
    "billiard.exceptions": _row(
        SoftTimeLimitExceeded="exceptions:SoftTimeLimitExceeded",
        TimeLimitExceeded="exceptions:TimeLimitExceeded",
        WorkerLostError="exceptions:WorkerLostError",
        Terminated="exceptions:Terminated",
    ),
}
