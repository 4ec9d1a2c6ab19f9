"""``celery.contrib.abortable``: tasks that look whether they have been asked to stop.

Where the results are kept by our broker the wish is a small result of its own, under the task's id with
``.abort`` behind it, that no state of the task's run replaces; other stores hold the state ABORTED, as
Celery's.
"""

from __future__ import annotations

from typing import Any

from emq_compat.shim.result import AsyncResult
from emq_compat.shim.states import SUCCESS, UNREADY_STATES
from emq_compat.shim.task import Task

__all__ = ["ABORTED", "AbortableAsyncResult", "AbortableTask"]

ABORTED = "ABORTED"


class AbortableAsyncResult(AsyncResult[Any]):
    """The result of an AbortableTask: it can be asked to stop."""

    @property
    def _wish(self) -> str:
        return f"{self.id}.abort"

    @property
    def state(self) -> str:
        """The task's state; ABORTED from the moment it was asked to stop until it has ended."""
        state = super().state
        if state in UNREADY_STATES and self.backend.kept_by_broker and self.is_aborted():
            return ABORTED
        return state

    def is_aborted(self) -> bool:
        """Return whether the task was asked to stop."""
        if self.backend.kept_by_broker:
            return bool(self.backend.get_state(self._wish) == SUCCESS)
        return bool(super().state == ABORTED)

    def abort(self) -> Any:
        """Ask the task to stop: it has to look by itself, with ``self.is_aborted()``."""
        if self.backend.kept_by_broker:
            return self.backend.store_result(self._wish, None, SUCCESS)
        return self.backend.store_result(self.id, None, ABORTED, traceback=None)


class AbortableTask(Task[..., Any]):
    """The base class of tasks that can be asked to stop: ``@app.task(bind=True, base=AbortableTask)``."""

    abstract = True

    def AsyncResult(self, task_id: str) -> AbortableAsyncResult:  # type: ignore[override] # noqa: N802
        """Return the result of this task by its id."""
        return AbortableAsyncResult(task_id, app=self.app)

    def is_aborted(self, **kwargs: Any) -> bool:
        """Return whether the run that is under way was asked to stop; ``task_id``: whether another was.

        Asks the result store: not for each turn of a tight loop.
        """
        task_id = kwargs.get("task_id") or self.request.id
        return task_id is not None and self.AsyncResult(task_id).is_aborted()
