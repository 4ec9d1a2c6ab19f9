"""The tasks that never begin because one in front of them failed, as far as Celery passes them over.

Celery's ``mark_as_failure`` stores the failure for the later steps of a chain, and for the body of a chord
among them; what is within a group it leaves pending for good, so that whoever waits for the group waits
without end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["within_groups"]


def within_groups(chain: Any) -> Iterator[Mapping[str, Any]]:
    """Iterate over the tasks within the groups among a request's later steps.

    Args:
        chain: the member ``chain`` of a request: signatures with their ids; or None.

    Of a chord in a group only the body counts: by that its result is known.
    """
    for step in chain if isinstance(chain, (list, tuple)) else ():
        if isinstance(step, Mapping):
            yield from _within(step, in_group=False)


def _within(sig: Mapping[str, Any], *, in_group: bool) -> Iterator[Mapping[str, Any]]:
    kind, kwargs = sig.get("subtask_type"), sig.get("kwargs") or {}
    if kind == "group" or (kind == "chain" and in_group):
        for task in kwargs.get("tasks") or ():
            yield from _within(task, in_group=True)
    elif kind == "chord":
        if isinstance(kwargs.get("body"), Mapping):
            yield from _within(kwargs["body"], in_group=in_group)
    elif in_group:
        yield sig
