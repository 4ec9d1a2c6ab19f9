"""Results as plain data and back: Celery's ``((id, parent), children)``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from emq_compat.shim import current

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery
    from emq_compat.shim.promise import Promise

__all__ = ["ResultBase", "result_from_tuple"]


class ResultBase:
    """What results of tasks and of groups have in common."""

    #: The result of the step before it in a chain.
    parent: ResultBase | None = None
    #: Fulfilled with the result when it is final (``then``).
    on_ready: Promise

    def as_tuple(self) -> Any:
        """Return the result as plain data, from which ``result_from_tuple`` makes it again."""
        raise NotImplementedError

    def forget(self) -> None:
        """Have the store drop what it has of it."""
        raise NotImplementedError


def result_from_tuple(r: Any, app: Celery | None = None) -> Any:
    """Return the result (AsyncResult, or GroupResult where there are children) of what ``as_tuple`` gave."""
    if isinstance(r, ResultBase):
        return r
    app = app or current.get_app()
    head, children = r
    task_id, parent = head if isinstance(head, Sequence) and not isinstance(head, str) else (head, None)
    parent_result = result_from_tuple(parent, app) if parent else None
    if children is None:
        return app.AsyncResult(task_id, parent=parent_result)
    return app.GroupResult(task_id, [result_from_tuple(c, app) for c in children], parent=parent_result)
