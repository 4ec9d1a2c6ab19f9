"""Whether code may wait for results: not inside a task, which could wait for itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from emq_compat.shim import current

__all__ = ["allow_join_result", "assert_will_not_block", "denied_join_result", "task_join_will_block"]

#: What a ``with`` block says; None: as the running task, or its absence, says.
_denied: ContextVar[bool | None] = ContextVar("emq_compat_join_denied", default=None)


def task_join_will_block() -> bool:
    """Return whether waiting is refused here."""
    said = _denied.get()
    if said is not None:
        return said
    frame = current.frame_var.get()
    return frame is not None and not frame.request.called_directly and not frame.request.is_eager


def assert_will_not_block() -> None:
    """Raise RuntimeError where waiting is refused."""
    if task_join_will_block():
        raise RuntimeError(
            "never call result.get() inside a task: all workers may wait for each other; "
            "disable_sync_subtasks=False allows it"
        )


@contextmanager
def allow_join_result() -> Iterator[None]:
    """Allow waiting for results inside the block, in a task, too."""
    token = _denied.set(False)
    try:
        yield
    finally:
        _denied.reset(token)


@contextmanager
def denied_join_result() -> Iterator[None]:
    """Refuse waiting for results inside the block."""
    token = _denied.set(True)
    try:
        yield
    finally:
        _denied.reset(token)
