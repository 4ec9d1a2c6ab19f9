"""Results under Celery's names (``celery.result``)."""

from __future__ import annotations

from emq_compat.shim.results.blocking import (
    allow_join_result,
    assert_will_not_block,
    denied_join_result,
    task_join_will_block,
)
from emq_compat.shim.results.eager import EagerResult
from emq_compat.shim.results.groups import GroupResult
from emq_compat.shim.results.sets import ResultSet
from emq_compat.shim.results.single import AsyncResult
from emq_compat.shim.results.tree import ResultBase, result_from_tuple

__all__ = [
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "ResultBase",
    "ResultSet",
    "allow_join_result",
    "assert_will_not_block",
    "denied_join_result",
    "result_from_tuple",
    "task_join_will_block",
]
