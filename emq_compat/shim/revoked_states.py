"""A worker stores that tasks were revoked which nobody has begun: whoever waits for them is told at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any, Final

__all__ = ["note_revoked"]

logger = logging.getLogger("celery.worker.control")

#: So long the worker's loop waits for a result backend; what takes longer is stored all the same.
_WAITED_S: Final = 2.0
#: States that say of a task that nobody has begun to run it.
_NOT_BEGUN: Final = frozenset({"PENDING", "RECEIVED", "RETRY", "REJECTED"})


def note_revoked(backend: Any, ids: Sequence[str], wait_s: float = _WAITED_S) -> None:
    """Store REVOKED for those of these tasks that nobody has begun to run; waits ``wait_s`` for it.

    ``backend`` is an app's result backend, of the shim or of Celery; where the broker keeps results it has
    stored this itself. What fails is logged.
    """
    if not ids or getattr(backend, "kept_by_broker", False):
        return
    # Not in the caller's thread: a result backend that hangs must not keep the worker from its heartbeats.
    storing = threading.Thread(target=_store, args=(backend, list(ids)), name="revoked-states", daemon=True)
    storing.start()
    storing.join(wait_s)


def _store(backend: Any, ids: Sequence[str]) -> None:
    for task_id in ids:
        try:
            if backend.get_state(task_id) in _NOT_BEGUN:
                backend.mark_as_revoked(task_id, "revoked")
        except Exception as exc:  # noqa: BLE001 - it is revoked; the store is whatever the project has
            logger.warning("task %s is revoked, but %r doesn't know: %s", task_id, backend, exc)
