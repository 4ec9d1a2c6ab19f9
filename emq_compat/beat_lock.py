"""The entry of our broker by which beats of genuine Celery share a lock."""

from __future__ import annotations

__all__ = ["NAME", "SHOWN", "TASK", "is_lock", "lock_of"]

NAME, TASK, SHOWN = "leader", "beat", "who leads"
_SUFFIX = ":leader"


def lock_of(schedule: str) -> str:
    """Return the name of the schedule in which the lock of this schedule is an entry."""
    return f"{schedule}{_SUFFIX}"


def is_lock(schedule: str, name: str, task: str, shown: str) -> bool:
    """Return whether such an entry is a lock, and nothing that anybody has scheduled."""
    return schedule.endswith(_SUFFIX) and (name, task, shown) == (NAME, TASK, SHOWN)
