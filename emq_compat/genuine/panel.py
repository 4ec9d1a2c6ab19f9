"""The commands of remote control at a worker of a genuine app: Celery's own, ours, and the project's.

What a command does to our pool, its queues and its tasks is ours; what it only reads of the app is Celery's
function for it; a project registers its own with Celery's decorators.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from celery.worker import control

from emq_compat.shim import panel
from emq_compat.shim.panel_registry import State

__all__ = ["run"]

#: What Celery's functions do with the app alone.
_OF_THE_APP: Final = frozenset(
    {
        "conf", "dump_conf", "dump_tasks", "memdump", "memsample", "objgraph", "registered",
        "report",
    }
)  # fmt: skip


def run(state: State, method: str, arguments: Mapping[str, Any]) -> Any:
    """Run a command and return its answer.

    Raises:
        LookupError: there is none of this name.
        Exception: what the command raises.
    """
    celerys = control.Panel.data.get(method)
    if celerys is not None and (method in _OF_THE_APP or celerys.__module__ != control.__name__):
        state.app = getattr(state.app, "real", state.app)
        return celerys(state, **arguments)
    return panel.run(state, method, arguments)
